"""Stateless randomness of a training: draw k of a run is a function of (seed, k) and of nothing else.

So the k-th nodule, its augmentation, its timestep and its noise do not depend on the number of processes or of loader
workers, or on where a run was interrupted. A resumed run equals an uninterrupted one. Two processes with batch B see
what one process with batch 2B sees.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from foundation.draws import generator


def normal(shape: Sequence[int], seed: int, stream: str, draws: Tensor, device: torch.device) -> Tensor:
    """Standard normal float32 (B, *shape); row i depends on `draws[i]` only."""
    rows = [generator(seed, stream, int(k)).standard_normal(tuple(shape), dtype=np.float32) for k in draws]
    return torch.from_numpy(np.stack(rows)).to(device)


def uniform(count: int, seed: int, stream: str, draws: Tensor) -> Tensor:
    """Uniform in [0, 1), float32 (B, count) on the CPU; row i depends on `draws[i]` only."""
    rows = [generator(seed, stream, int(k)).random(count, dtype=np.float32) for k in draws]
    return torch.from_numpy(np.stack(rows))


def timesteps(count: int, seed: int, draws: Tensor, device: torch.device) -> Tensor:
    """Timesteps uniform in [0, count), int64 (B,); row i depends on `draws[i]` only."""
    rows = [int(generator(seed, "timestep", int(k)).integers(count)) for k in draws]
    return torch.tensor(rows, device=device)


def diffusion_draw(
    batch: Mapping[str, Tensor], count: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """What a diffusion step draws for each row of a batch; row i depends on `batch["draw"][i]` only.

    Args:
        batch: `latent_mean` and `latent_std`, the posterior, standardised, (B, C, d, h, w), and `draw`.
        count: Number of timesteps T.
        seed: Of the run.
        device: Of the results.
    Returns: (x0, a draw from the posterior; noise, standard normal, of the same shape; timesteps, int64 (B,)).
    """
    shape, draws = batch["latent_mean"].shape[1:], batch["draw"]
    x0 = batch["latent_mean"] + batch["latent_std"] * normal(shape, seed, "posterior", draws, device)
    return x0, normal(shape, seed, "noise", draws, device), timesteps(count, seed, draws, device)


class DrawSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (dataset index, draw number) for one process, from any step on, without end of epochs in a batch.

    Draw k belongs to step k // (batch_size * processes). Without weights every epoch is a new permutation of the
    dataset; with weights each draw is independent with those probabilities (balanced sampling).

    Args:
        size: Rows of the dataset.
        batch_size: Draws per process and step.
        steps: (first, last + 1) optimisation steps to yield.
        rank, processes: This process's number and how many there are.
        weights: One non-negative number per row, or None.
    Raises: ValueError: If the dataset is empty or `weights` has another length.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: tuple[int, int],
        seed: int,
        rank: int = 0,
        processes: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        if size < 1:
            raise ValueError("the dataset has no rows; check the split and the preparation's report")
        if weights is not None and len(weights) != size:
            raise ValueError(f"{len(weights)} sampling weights for {size} rows; give one per row")
        self.size, self.batch_size, self.steps, self.seed = size, batch_size, steps, seed
        self.rank, self.processes = rank, processes
        self.probabilities = None if weights is None else np.asarray(weights) / np.sum(weights)
        self._epoch, self._permutation = -1, np.empty(0, int)

    def __len__(self) -> int:
        return self.steps[1] - self.steps[0]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(*self.steps):
            first = (step * self.processes + self.rank) * self.batch_size
            yield [(self._index(draw), draw) for draw in range(first, first + self.batch_size)]

    def _index(self, draw: int) -> int:
        if self.probabilities is not None:
            return int(generator(self.seed, "order", draw).choice(self.size, p=self.probabilities))
        epoch, position = divmod(draw, self.size)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, generator(self.seed, "order", epoch).permutation(self.size)
        return int(self._permutation[position])
