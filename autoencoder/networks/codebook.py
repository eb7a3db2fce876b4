"""The codebook of the VQ autoencoder: vectors that follow the latents they stand for, without gradients."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class EmaCodebook(nn.Module):
    """K code vectors, each the moving average of the latent cells that are nearest to it.

    van den Oord et al. 2017, appendix A.1. The first update places the codes by k-means on that batch; a code that
    hardly any cell is nearest to any more is put on a random cell of the batch. Everything random is a function of the
    number of updates, and with several processes every one sees the cells of all: a run can be continued exactly, and
    two processes do what one does with twice the batch. All of its state is averages, `usage` and `sums`, so averaged
    weights of the encoder are matched by the same average of these.

    Args:
        size: Number of codes, K.
        channels: Channels of the latent, C.
        decay: Of the moving averages, per update.
        dead_below: A code is dead if it is used less than this fraction of an even share.
    """

    usage: Tensor
    sums: Tensor
    updates: Tensor

    def __init__(self, size: int, channels: int, decay: float = 0.99, dead_below: float = 0.05) -> None:
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        start = torch.randn(size, channels, generator=torch.Generator().manual_seed(0))
        self.register_buffer("usage", torch.ones(size))  # cells per update, averaged; (K,)
        self.register_buffer("sums", start)  # sum of those cells, averaged; (K, C)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def vectors(self) -> Tensor:
        """The codes, float32 (K, C): the mean of the cells that each stands for."""
        return self.sums.float() / self.usage.float()[:, None]

    def nearest(self, latent: Tensor) -> Tensor:
        """Index of the nearest code of every cell; (B, C, d, h, w) -> int64 (B, d, h, w)."""
        cells, vectors = latent.float().movedim(1, -1), self.vectors  # also in half precision
        with torch.autocast(latent.device.type, enabled=False):
            # |z − e|² without |z|², which is the same for all codes; a matrix product instead of K differences
            scores = vectors.square().sum(1) - 2 * cells @ vectors.T
        return scores.argmin(dim=-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Code vectors; int64 (B, d, h, w) -> (B, C, d, h, w)."""
        return F.embedding(indices, self.vectors).movedim(-1, 1)

    @torch.no_grad()
    def update(self, latent: Tensor, valid_cells: Tensor | None = None) -> None:
        """Move the codes towards the batch.

        Args:
            latent: (B, C, d, h, w).
            valid_cells: (B, 1, d, h, w), 0 where a cell has only padding; None counts all.
        """
        cells = latent.float().movedim(1, -1).flatten(0, -2)  # (N, C)
        if valid_cells is not None:
            cells = cells[valid_cells.flatten() > 0]
        cells = _of_all_processes(cells)
        if len(cells) == 0 or not torch.isfinite(cells).all():  # a step that the training skips
            return
        random = torch.Generator().manual_seed(int(self.updates))
        if self.updates == 0:
            self._place(cells)
        self.updates += 1
        # nearest() wants (B, C, d, h, w): N cells of one voxel each
        assigned = self.nearest(cells[..., None, None, None]).flatten()
        counts = torch.bincount(assigned, minlength=len(self.vectors)).to(cells.dtype)
        # not by a one-hot matrix (N, K), which takes more memory and time than all else here
        sums = torch.zeros_like(self.sums, dtype=cells.dtype).index_add_(0, assigned, cells)
        self.usage.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        share = len(cells) / len(self.vectors)
        dead = (self.usage < self.dead_below * share).nonzero().flatten()
        if len(dead):
            chosen = torch.randint(len(cells), (len(dead),), generator=random).to(cells.device)
            self.usage[dead] = share
            self.sums[dead] = share * cells[chosen]

    def _place(self, cells: Tensor) -> None:
        """k-means start; codes for which there are too few cells stay unused, and are restarted as dead at once."""
        from sklearn.cluster import KMeans  # slow to import, and needed once in a training

        count = min(len(self.vectors), len(torch.unique(cells, dim=0)))
        clusters = KMeans(count, n_init=1, max_iter=20, random_state=0).fit(cells.cpu().numpy())
        labels = torch.from_numpy(clusters.labels_).long().to(cells.device)
        vectors = self.vectors
        vectors[:count] = torch.from_numpy(clusters.cluster_centers_).to(vectors)
        self.usage.fill_(torch.finfo(self.usage.dtype).tiny ** 0.5)
        self.usage[:count] = torch.bincount(labels, minlength=count).to(self.usage)
        self.sums.copy_(vectors * self.usage[:, None])


def perplexity(indices: Tensor, size: int) -> Tensor:
    """exp(entropy) of how often each of `size` codes is used: from 1, all cells on one code, to `size`; scalar."""
    share = torch.bincount(indices.flatten(), minlength=size).double() / indices.numel()
    return torch.exp(-torch.xlogy(share, share).sum()).float()


def _of_all_processes(cells: Tensor) -> Tensor:
    """The cells of every process, in their order; (N, C) with N differing between processes."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return cells
    counts = [torch.zeros(1, dtype=torch.int64, device=cells.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(cells)], device=cells.device))
    longest = int(max(counts))
    padded = F.pad(cells, (0, 0, 0, longest - len(cells))).contiguous()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])
