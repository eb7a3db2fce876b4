"""The inputs of the denoiser that are concatenated to the noisy latent: the blanked CT and three masks.

The *lesion mask* says where the lesion is. The *paint mask* says which voxels are blanked and painted: the lesion and a
margin around it. So the lesion's blurred rim is made together with it, and the border of the painted region lies in
lung. The *valid mask* says which voxels of the crop lie inside the scan.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autoencoder.latents import standardise
from imaging.semantic_map import LABEL_HU
from imaging.window import to_norm

BLANK = -1.0  # ct_norm of what is painted: the floor of the window, darker than lung, so the hole is plainly a hole


def blank(ct_norm: Tensor, paint_mask: Tensor) -> Tensor:
    """ct_norm with the voxels to be painted replaced by `BLANK`; both (B, 1, D, H, W)."""
    return torch.where(paint_mask > 0, torch.full_like(ct_norm, BLANK), ct_norm)


def mask_coverage(mask: Tensor, factor: int) -> Tensor:
    """Fraction of each latent cell that a mask covers: (B, 1, D, H, W) -> float (B, 1, D/f, H/f, W/f) in [0, 1]."""
    return F.avg_pool3d(mask.float(), factor) if factor > 1 else mask.float()


def octant_coverage(mask: Tensor, factor: int) -> Tensor:
    """Fraction of each latent cell's eight octants that a mask covers, so that a shape is known to half a cell.

    Args:
        mask: (B, 1, D, H, W), 0 or 1.
        factor: Voxels per cell. An odd factor has no octants; then it is :func:`mask_coverage`.
    Returns: float (B, 8, D/f, H/f, W/f), or (B, 1, ...).
    """
    return octants(mask.float(), factor)


def octants(volume: Tensor, factor: int) -> Tensor:
    """Means over the eight octants of each latent cell, (B, 1, D, H, W) -> (B, 8, D/f, H/f, W/f).

    An odd factor has no octants; then the means are those of whole cells, (B, 1, D/f, H/f, W/f).
    """
    if factor % 2:
        return mask_coverage(volume, factor)
    halves = mask_coverage(volume, factor // 2)
    for axis in (2, 3, 4):
        halves = halves.unflatten(axis, (-1, 2))  # (..., cells, 2, ...)
        halves = halves.movedim(axis + 1, 1).flatten(1, 2)
    return halves


def from_octants(values: Tensor, factor: int) -> Tensor:
    """The values of :func:`octants` side by side, (B, 8, d, h, w) -> (B, 1, 2d, 2h, 2w); an odd factor has one."""
    if factor % 2:
        return values
    halves = values.unflatten(1, (2, 2, 2))  # the axis that was split last comes first: (B, x, y, z, d, h, w)
    return halves.permute(0, 4, 3, 5, 2, 6, 1).flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, None]


def condition_channels(latent_channels: int, factor: int) -> int:
    """Channels of :func:`condition_of`."""
    return latent_channels + (8 if factor % 2 == 0 else 1) + 2


def condition_of(
    blanked_latent: Tensor, lesion_mask: Tensor, paint_mask: Tensor, valid_mask: Tensor, factor: int
) -> Tensor:
    """What is concatenated to the noisy latent; it does not change over the steps.

    Args:
        blanked_latent: Standardised latent of the blanked CT, (B, C, d, h, w).
        lesion_mask, paint_mask, valid_mask: (B, 1, D, H, W), 0 or 1.
        factor: Voxels per latent cell.
    Returns: (B, condition_channels, d, h, w): that latent, the lesion's coverage of octants, the coverage of cells by
        the paint mask and by the valid mask.
    """
    masks = [octant_coverage(lesion_mask, factor), mask_coverage(paint_mask, factor), mask_coverage(valid_mask, factor)]
    return torch.cat([blanked_latent, *(mask.to(blanked_latent) for mask in masks)], dim=1)


def blank_whole(batch: Mapping[str, Tensor], whole: Tensor, shown: Tensor) -> dict[str, Tensor]:
    """A batch in which some samples' whole crop is painted.

    Args:
        batch: With `blanked_latent` and `paint_mask`.
        whole: Which samples, bool (B,).
        shown: What takes the place of their blanked latent: a blank crop's, (1, C, d, h, w), or one for each sample.
    """
    where = whole.view(-1, 1, 1, 1, 1)
    blanked = torch.where(where, shown.to(batch["blanked_latent"]), batch["blanked_latent"])
    paint_mask = torch.where(where, torch.ones_like(batch["paint_mask"]), batch["paint_mask"])
    return {**batch, "blanked_latent": blanked, "paint_mask": paint_mask}


def map_as_hu(semantic_map: Tensor) -> Tensor:
    """The semantic map drawn as a CT, each label with its usual HU: labels -> float HU, same shape."""
    return torch.tensor(LABEL_HU, device=semantic_map.device)[semantic_map.long()]


@torch.no_grad()
def show_map(batch: Mapping[str, Tensor], whole: Tensor, vae: Any) -> dict[str, Tensor]:
    """A batch in which some samples' whole crop is painted, and its encoded semantic map takes the CT's place.

    So LSDM (docs/references.md) concatenates the map. The pipeline's `synthesize` does the same.

    Args:
        batch: With `blanked_latent`, `paint_mask` and `semantic_map`.
        whole: Which samples, bool (B,).
        vae: The autoencoder of the latents.
    """
    if not whole.any():
        return dict(batch)
    window = (vae.config["window_width"], vae.config["window_level"])
    drawn = to_norm(map_as_hu(batch["semantic_map"][whole]), *window)
    shown = torch.zeros_like(batch["blanked_latent"])
    shown[whole] = standardise(vae.encode(drawn).latent_dist.mode(), vae.config).to(shown)
    return blank_whole(batch, whole, shown)


def lesion_neighbourhood(lesion_mask: Tensor, factor: int, cells: int = 1) -> Tensor:
    """Latent cells that touch the lesion, dilated by max-pooling over `cells`: float 0/1 (B, 1, d, h, w).

    LSDM's in-painting mask (eq. 3.8), and where the diffusion loss counts in full.
    """
    touched = F.max_pool3d((lesion_mask > 0).float(), factor)
    return F.max_pool3d(touched, 2 * cells + 1, stride=1, padding=cells) if cells else touched
