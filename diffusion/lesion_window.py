"""The latent window around each lesion: decoding it alone gives what the whole decode gives inside the lesion.

The autoencoder is a local operator, so a window that is larger than the lesion by the decoder's margin decodes to the
same voxels there; losses on the decoded lesion then cost a window, not a volume.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LesionWindows:
    """One window per sample, all of one size, in latent cells.

    Attributes:
        starts: First cell of each window, (B, 3) as nested lists, z, y, x.
        size: Cells along z, y, x.
        factor: Voxels per cell.
    """

    starts: list[list[int]]
    size: tuple[int, int, int]
    factor: int

    def of_latent(self, latent: Tensor) -> Tensor:
        """(B, C, d, h, w) -> the windows, (B, C, *size); differentiable."""
        return self._cut(latent, 1)

    def of_voxels(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) at the CT's resolution -> the windows, factor times the size."""
        return self._cut(volume, self.factor)

    def _cut(self, volume: Tensor, scale: int) -> Tensor:
        rows = []
        for sample, start in zip(volume, self.starts, strict=True):
            z, y, x = (slice(scale * s, scale * (s + n)) for s, n in zip(start, self.size, strict=True))
            rows.append(sample[:, z, y, x])
        return torch.stack(rows)


def lesion_windows(lesion_mask: Tensor, factor: int, margin: int) -> LesionWindows:
    """Windows that hold each lesion's cells and `margin` cells around them, as far as the volume goes.

    Args:
        lesion_mask: (B, 1, D, H, W), 0 or 1; a sample without lesion gets a window anywhere.
        factor: Voxels per latent cell.
        margin: Latent cells; the autoencoder's `decoder_margin`.
    """
    cells = torch.tensor(lesion_mask.shape[2:]) // factor
    low, high = [], []
    for mask in lesion_mask[:, 0]:
        index = mask.nonzero().cpu()
        first, last = (index.amin(0), index.amax(0)) if len(index) else (torch.zeros(3).long(), torch.zeros(3).long())
        low.append((first // factor - margin).clamp_min(0))
        high.append(torch.minimum(last // factor + 1 + margin, cells))
    size = (torch.stack(high) - torch.stack(low)).amax(0)
    starts = [torch.minimum(first, cells - size).tolist() for first in low]
    return LesionWindows(starts, (int(size[0]), int(size[1]), int(size[2])), factor)


def decode_windows(vae: Any, latent: Tensor, windows: LesionWindows) -> Tensor:
    """Decode the windows of an (unstandardised) latent; ct_norm, (B, 1, factor * size), exact inside the lesions."""
    return vae.decode(windows.of_latent(latent)).sample
