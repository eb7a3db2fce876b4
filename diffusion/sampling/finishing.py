"""Finishing: what the decoded lesion must have of its label, whatever stage 2 left undecided.

The U-Net's prediction of a solid lesion varies inside by some 35 HU, that of real ones by 16. Its border is off by half
a voxel in places. The autoencoder takes a part of the finest detail. Each step mends one of these. Masks must end where
the lesion does, at half maximum, as those of the shipped pipeline do.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from imaging.boxes import mask_box

REACH = 8  # voxels around a lesion that are looked at
SOLID_HU = (-500.0, -200.0)  # from none to all of the smoothing: ground glass keeps its texture
NEAR_VOXELS, NEAR_HU, PASSES = 2.0, 80.0, 4  # widths of the bilateral filter in space and in value
LUNG_HU = -500.0  # below: lung, and no wall or vessel
SHARPEN, SHARPEN_VOXELS = 0.2, 0.7  # share of the finest detail that is added; Gaussian that measures it
LEAST_HU = 20.0  # a voxel of the label ends at least this far above the midpoint
KEPT = 0.15  # plus this share of its own contrast


def finished(made_hu: Tensor, lesion_mask: Tensor, paint_mask: Tensor, valid_mask: Tensor) -> Tensor:
    """The decoded lesions with an even solid core, a sharp rim and a border that is the label's.

    1. *Core*: a bilateral filter (Tomasi & Manduchi 1998) in the label, as far as it is solid.
    2. *Rim*: the painted region plus a share of its difference from a Gaussian.
    3. *Label*: its voxels below the midpoint between its own median and that of the lung around are raised above it.

    Args:
        made_hu: Decoded, HU, (B, 1, D, H, W), on a grid of about 1 mm.
        lesion_mask, paint_mask, valid_mask: Same shape, 0 or 1.
    Returns: HU, same shape; what is not painted is unchanged.
    """
    result = made_hu.clone()
    for index in range(len(made_hu)):
        box = mask_box(lesion_mask[index, 0].cpu().numpy(), REACH)
        inside, painted, valid = (one[index, 0][box] > 0 for one in (lesion_mask, paint_mask, valid_mask))
        before = made_hu[index, 0][box]
        low, high = SOLID_HU
        solid = ((before - low) / (high - low)).clamp(0, 1) * inside
        even = before
        for _ in range(PASSES):
            even = bilateral(even)
        core = before + solid * (even - before)
        sharp = core + SHARPEN * (core - _gaussian(core))
        result[index, 0][box] = torch.where(painted, _raised(sharp, inside, painted, valid), before)
    return result


def bilateral(volume_hu: Tensor) -> Tensor:
    """Bilateral filter, (D, H, W) HU -> same shape: the mean of near voxels of like value.

    Weights exp(-|p - q|²/(2 σ²) - (I_p - I_q)²/(2 ρ²)) with σ `NEAR_VOXELS` and ρ `NEAR_HU`, over |p - q|² <= 5.
    """
    D, H, W = volume_hu.shape
    padded = F.pad(volume_hu[None, None], 6 * (2,), mode="replicate")[0, 0]
    total, weights = torch.zeros_like(volume_hu), torch.zeros_like(volume_hu)
    for z in range(-2, 3):
        for y in range(-2, 3):
            for x in range(-2, 3):
                distance = z * z + y * y + x * x
                if distance > 5:
                    continue
                other = padded[2 + z : 2 + z + D, 2 + y : 2 + y + H, 2 + x : 2 + x + W]
                unlike = (other - volume_hu).square() / (2 * NEAR_HU**2)
                weight = torch.exp(-distance / (2 * NEAR_VOXELS**2) - unlike)
                total, weights = total + weight * other, weights + weight
    return total / weights


def _gaussian(volume: Tensor) -> Tensor:
    """Gaussian of `SHARPEN_VOXELS`, (D, H, W)."""
    at = torch.arange(-3, 4, device=volume.device, dtype=volume.dtype)
    kernel = torch.exp(-at.square() / (2 * SHARPEN_VOXELS**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for axis in range(3):
        lines = volume.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (3, 3), mode="replicate")
        volume = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return volume


def _raised(volume_hu: Tensor, inside: Tensor, painted: Tensor, valid: Tensor) -> Tensor:
    """The label's voxels that are nearer to the lung than to the lesion, brought to the lesion's side."""
    around = valid & ~painted & (volume_hu < LUNG_HU)
    if not inside.any() or not around.any():
        return volume_hu
    lung = volume_hu[around].median()
    middle = (volume_hu[inside].median() + lung) / 2
    least = middle + LEAST_HU + KEPT * (volume_hu - lung)
    return torch.where(inside & (volume_hu < middle), torch.maximum(volume_hu, least), volume_hu)
