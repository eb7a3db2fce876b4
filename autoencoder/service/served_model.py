"""What the service computes: the bytes of one request -> the autoencoder -> the bytes of the answer. No HTTP here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoencoder.service.wire import tensor_from_bytes, tensor_to_bytes

KINDS = ("encode", "decode")


class TooLargeError(ValueError):
    """The request is larger than this service allows."""


@dataclass
class Task:
    """One encode or decode.

    Attributes:
        kind: "encode" or "decode".
        shape: Of the tensor that was sent, (B, C, D, H, W).
        dtype: In which it was sent, and is answered.
        scaling_factor, shift_factor: encode: (latent - shift) * scaling; decode: latent / scaling + shift first.
        posterior: Answer the parameters of the posterior, (B, 2C, d, h, w), not its mode.
        body: The tensor's bytes.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    posterior: bool = False
    body: bytes | bytearray | memoryview = b""


@dataclass(frozen=True)
class Answer:
    """The tensor that goes back.

    Attributes:
        shape: (B, C, D, H, W).
        dtype: That of the request.
        body: Its bytes.
        headers: Beside shape and dtype: of a posterior, whether it is `deterministic` (std 0).
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    body: memoryview
    headers: Mapping[str, str] = field(default_factory=dict)


class ServedAutoencoder:
    """An autoencoder that computes tasks, in one dtype on one device; `run` is for one thread at a time.

    Args:
        model: Any autoencoder of this project.
        device: Where it computes.
        dtype: In which it computes.
        max_voxels: Most CT voxels (B * D * H * W) of one task.
    """

    def __init__(
        self,
        model: Any,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        max_voxels: int = 2**24,
    ) -> None:
        model = model.to(device) if model.dtype == dtype else model.to(device, dtype)  # a dtype makes Diffusers warn
        self.model = model.eval().requires_grad_(False)
        self.config: Mapping[str, Any] = model.config
        self.device, self.dtype, self.max_voxels = torch.device(device), dtype, max_voxels
        self.factor, self.latent_channels = int(model.factor), int(model.config["latent_channels"])

    def voxels_of(self, task: Task) -> int:
        """CT voxels of a task, after checking that the model can take its shape.

        Raises:
            ValueError: If the channels are not the model's, or a size is not divisible by the factor.
            TooLargeError: If there are more than `max_voxels`.
        """
        batch, channels, *sizes = task.shape
        expected = 1 if task.kind == "encode" else self.latent_channels
        if channels != expected:
            raise ValueError(f"{task.kind}: {channels} channels, expected (B, {expected}, D, H, W)")
        voxels = batch * math.prod(sizes) * (1 if task.kind == "encode" else self.factor**3)
        if voxels > self.max_voxels:
            raise TooLargeError(f"{task.kind}: {voxels} CT voxels, expected at most {self.max_voxels}; send fewer")
        if task.kind == "encode" and any(size % self.factor for size in sizes):
            raise ValueError(
                f"encode: shape {task.shape}, expected D, H, W divisible by {self.factor}; pad or crop the volume"
            )
        return voxels

    @torch.inference_mode()
    def run(self, kind: str, tasks: Sequence[Task]) -> list[Answer | ValueError]:
        """Compute tasks of one kind and spatial shape as one batch.

        A batch gives what its tasks give alone, up to float rounding.

        Returns: One answer per task, in their order; a ValueError in its place where the values are not finite.
        """
        samples = [self._sample(task) for task in tasks]
        good = [sample for sample in samples if isinstance(sample, Tensor)]
        if not good:
            return [sample for sample in samples if isinstance(sample, ValueError)]
        batch = good[0] if len(good) == 1 else torch.cat(good)
        batch = batch.to(self.device, self.dtype)
        deterministic = False
        if kind == "encode":
            posterior = self.model.encode(batch).latent_dist
            result, deterministic = posterior.parameters, bool(posterior.deterministic)
        else:
            result = self.model.decode(batch).sample
        parts = result.split([len(sample) for sample in good])
        rows = iter(parts if len(parts) == 1 else [part.clone() for part in parts])  # or each would keep the batch
        return [
            sample if isinstance(sample, ValueError) else self._answer(task, next(rows), deterministic)
            for task, sample in zip(tasks, samples, strict=True)
        ]

    def _sample(self, task: Task) -> Tensor | ValueError:
        try:
            tensor = tensor_from_bytes(task.body, task.shape, task.dtype).float()
        except ValueError as error:
            return error
        if task.kind == "decode" and (task.scaling_factor, task.shift_factor) != (1.0, 0.0):
            tensor = tensor / task.scaling_factor + task.shift_factor
        return tensor

    def _answer(self, task: Task, result: Tensor, deterministic: bool) -> Answer | ValueError:
        headers = {}
        if task.posterior:
            headers["deterministic"] = str(deterministic).lower()
        elif task.kind == "encode":
            result = result.chunk(2, dim=1)[0]  # the mode of a Gaussian is its mean
            if (task.scaling_factor, task.shift_factor) != (1.0, 0.0):
                result = (result.float() - task.shift_factor) * task.scaling_factor
        result = result.to(task.dtype)
        if not torch.isfinite(result).all():
            return ValueError(f"{task.kind}: the result is not finite in {task.dtype}; send other values, or float32")
        return Answer(tuple(result.shape), task.dtype, tensor_to_bytes(result), headers)
