"""The input of a classifier: the crop around each lesion, of the noisy latent or of the image decoded from it."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from autoencoder.latents import unstandardise
from diffusion.conditioning import mask_coverage
from diffusion.lesion_window import LesionWindows, decode_windows


@dataclass(frozen=True)
class LesionCrops:
    """Where the crops lie and where the lesions are in them; the same at every step of a sampling.

    Attributes:
        windows: The crops, in latent cells.
        lesion: Fraction of each cell that the mask covers, (B, 1, *size); for decoded crops the mask, in voxels.
        wide: Decoded crops: the windows to decode, larger by the decoder's margin as far as the volume goes, so that
            the crop is that of the whole decoded volume. None: the latent itself is looked at.
    """

    windows: LesionWindows
    lesion: Tensor
    wide: LesionWindows | None = None

    def of(self, noisy_latent: Tensor, vae: Any) -> Tensor:
        """The crops of a standardised latent, (B, C, d, h, w); differentiable, through the decoder where they are
        decoded.

        Args:
            noisy_latent: x_t, (B, C, d, h, w).
            vae: The autoencoder of this latent; used for decoded crops alone.
        Returns: (B, C, *size) of the latent, or ct_norm, (B, 1, factor * size), not clipped to [-1, 1].
        """
        if self.wide is None:
            return self.windows.of_latent(noisy_latent)
        decoded = decode_windows(vae, unstandardise(noisy_latent, vae.config), self.wide)
        offsets = [
            [cell - first for cell, first in zip(start, wide, strict=True)]
            for start, wide in zip(self.windows.starts, self.wide.starts, strict=True)
        ]
        return LesionWindows(offsets, self.windows.size, self.windows.factor).of_voxels(decoded)


def lesion_crops(lesion_mask: Tensor, cells: int, space: Literal["latent", "decoded"], vae: Any) -> LesionCrops:
    """Crops of `cells` latent cells along each axis around the middle of each lesion's bounding box.

    At the border of the volume they are shifted inwards; a volume that is smaller is taken as a whole.

    Args:
        lesion_mask: (B, 1, D, H, W), 0 or 1; a sample without lesion has its crop at the first corner.
        cells: Edge of a crop.
        space: "latent" or "decoded".
        vae: Its `factor`, and `decoder_margin` for decoded crops.
    """
    factor = vae.factor
    volume = torch.tensor(lesion_mask.shape[2:]) // factor
    size = volume.clamp_max(cells)
    starts = []
    for mask in lesion_mask[:, 0]:
        index = mask.nonzero().cpu()
        middle = (index.amin(0) + index.amax(0) + 1) / (2 * factor) if len(index) else torch.zeros(3)
        starts.append(torch.minimum((middle - size / 2).round().long().clamp_min(0), volume - size))
    windows = _windows(starts, size, factor)
    if space == "latent":
        return LesionCrops(windows, windows.of_latent(mask_coverage(lesion_mask, factor)))
    margin = vae.decoder_margin
    wide = torch.minimum(size + 2 * margin, volume)
    wide_starts = [torch.minimum((start - margin).clamp_min(0), volume - wide) for start in starts]
    return LesionCrops(windows, windows.of_voxels(lesion_mask.float()), _windows(wide_starts, wide, factor))


def _windows(starts: list[Tensor], size: Tensor, factor: int) -> LesionWindows:
    return LesionWindows([start.tolist() for start in starts], (int(size[0]), int(size[1]), int(size[2])), factor)
