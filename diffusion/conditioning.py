"""What the denoiser is told beside the noisy latent: the CT around the hole, the lesion's shape, the hole, the known.

The *lesion mask* says where the lesion is, the *paint mask* which voxels are blanked and made anew: the lesion and a
margin around it, so that the lesion's blurred rim is made together with it and the border lies in lung. The *valid
mask* says which voxels of the crop the scan has at all.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from imaging.semantic_map import FIRST_NODULE, LABELS, LUNG

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
    if factor % 2:
        return mask_coverage(mask, factor)
    halves = mask_coverage(mask, factor // 2)
    for axis in (2, 3, 4):
        halves = halves.unflatten(axis, (-1, 2))  # (..., cells, 2, ...)
        halves = halves.movedim(axis + 1, 1).flatten(1, 2)
    return halves


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
        what is painted and by what is valid.
    """
    masks = [octant_coverage(lesion_mask, factor), mask_coverage(paint_mask, factor), mask_coverage(valid_mask, factor)]
    return torch.cat([blanked_latent, *(mask.to(blanked_latent) for mask in masks)], dim=1)


def blank_whole(batch: Mapping[str, Tensor], whole: Tensor, empty: Tensor) -> dict[str, Tensor]:
    """A batch in which some samples' whole crop is painted: only the semantic map still says what is where.

    Args:
        batch: With `blanked_latent` and `paint_mask`.
        whole: Which samples, bool (B,).
        empty: Standardised latent of a blank crop, (1, C, d, h, w).
    """
    where = whole.view(-1, 1, 1, 1, 1)
    blanked = torch.where(where, empty.to(batch["blanked_latent"]), batch["blanked_latent"])
    paint_mask = torch.where(where, torch.ones_like(batch["paint_mask"]), batch["paint_mask"])
    return {**batch, "blanked_latent": blanked, "paint_mask": paint_mask}


def changed_mask(lesion_mask: Tensor, grown: Tensor, voxels: int = 2) -> Tensor:
    """Masks that are not the lesions': dilated by a cube of `voxels` on each side, or eroded by it; never to nothing.

    Args:
        lesion_mask: (B, 1, D, H, W), 0 or 1.
        grown: Which samples' masks are dilated, bool (B,); the others' are eroded.
    """
    mask = lesion_mask.float()
    size, padding = 2 * voxels + 1, voxels
    dilated = F.max_pool3d(mask, size, stride=1, padding=padding)
    eroded = 1 - F.max_pool3d(1 - mask, size, stride=1, padding=padding)
    grown = grown.view(-1, 1, 1, 1, 1) | (eroded.flatten(1).sum(1) == 0).view(-1, 1, 1, 1, 1)
    return torch.where(grown, dilated, eroded).to(lesion_mask.dtype)


def relabelled(semantic_map: Tensor, lesion_mask: Tensor) -> Tensor:
    """Semantic maps as if each sample's lesion had this mask; what is no longer lesion is lung.

    What was lesion already keeps its label. New voxels have the most frequent label of the sample's lesion, or that of
    a lesion of unspecified composition where there is none.

    Args:
        semantic_map: Labels (`imaging.semantic_map.LABELS`), integer (B, 1, D, H, W).
        lesion_mask: Same shape, 0 or 1.
    """
    was_lesion = semantic_map >= FIRST_NODULE
    counts = torch.stack([(semantic_map == label).flatten(1).sum(1) for label in range(FIRST_NODULE, len(LABELS))], 1)
    usual = torch.where(counts.any(1), counts.argmax(1) + FIRST_NODULE, LABELS.index("lesion")).to(semantic_map.dtype)
    new = torch.where(was_lesion, semantic_map, usual.view(-1, 1, 1, 1, 1))
    return torch.where(lesion_mask > 0, new, torch.where(was_lesion, torch.full_like(semantic_map, LUNG), semantic_map))


def lesion_neighbourhood(lesion_mask: Tensor, factor: int, cells: int = 1) -> Tensor:
    """Latent cells that touch the lesion, dilated by max-pooling over `cells`: float 0/1 (B, 1, d, h, w).

    LSDM's in-painting mask (eq. 3.8), and where the diffusion loss counts in full.
    """
    touched = F.max_pool3d((lesion_mask > 0).float(), factor)
    return F.max_pool3d(touched, 2 * cells + 1, stride=1, padding=cells) if cells else touched
