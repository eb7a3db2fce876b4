"""Finishing: what the decoded lesion must have of its label, whatever stage 2 left undecided.

The U-Net's prediction of a solid lesion varies inside by some 35 HU, that of real ones by 16. Its border is off by half
a voxel in places. The autoencoder takes a part of the finest detail. Each step mends one of these. Masks must end where
the lesion does, at half maximum, as those of the shipped pipeline do.
"""

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from imaging.boxes import mask_box

REACH = 8  # voxels around a lesion that are looked at
SOLID_HU = (-500.0, -200.0)  # from none to all of the smoothing: ground glass keeps its texture
NEAR_VOXELS, NEAR_HU, PASSES = 2.0, 80.0, 4  # widths of the bilateral filter in space and in value
EVEN = 0.8  # share of the smoothing: all of it would steepen small lesions' edges and leave white noise alone
LUNG_HU = -500.0  # below: lung, and no wall or vessel
SHARPEN, SHARPEN_VOXELS = 0.15, 0.7  # share of the finest detail that is added; Gaussian that measures it
MOVES, MOVE_GAIN, MOVE_VOXELS = 4, 4.0, 0.8  # steps of the border, what one adds, and the Gaussian that spreads it
MOVE_MARGIN = 0.02  # of the contrast: so far from the midpoint the voxels beside the border end
SCALED = (0.5, 1.5)  # by no more: the mean of a faint lesion may be that of the lung
FAR_VOXELS = 3.5  # so far out a vessel or a wall that goes on into the lesion is looked for


def finished(made_hu: Tensor, lesion_mask: Tensor, paint_mask: Tensor, valid_mask: Tensor) -> Tensor:
    """The decoded lesions with an even solid core, a sharp rim and a border that is the label's.

    1. *Core*: a bilateral filter (Tomasi & Manduchi 1998) in the label, as far as it is solid.
    2. *Rim*: the painted region plus a share of its difference from a Gaussian.
    3. *Border*: moved to that of the label, by smooth changes of HU beside it.

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
        solid = EVEN * ((before - low) / (high - low)).clamp(0, 1) * inside
        even = before
        for _ in range(PASSES):
            even = bilateral(even)
        core = before + solid * (even - before)
        sharp = core + SHARPEN * (core - _gaussian(core, SHARPEN_VOXELS))
        result[index, 0][box] = torch.where(painted, border_moved(sharp, inside, painted, valid), before)
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


def border_moved(volume_hu: Tensor, inside: Tensor, painted: Tensor, valid: Tensor) -> Tensor:
    """The lesion with its half-maximum border moved to that of its label, (D, H, W) HU -> same shape.

    With the midpoint m between the medians of the label and of the lung around, and the contrast c, both of the given
    volume, each step adds what is missing, spread by a Gaussian, to the label and to the voxels that touch it:

        v <- v + a c G * (e_in - e_out),  e_in = clamp((m + b c - v)/c, 0, 1) in the label,
                                          e_out = clamp((v - m + b c)/c, 0, 1) in the voxels that share a face with it.

    e_out counts less where there are bright voxels further out: a vessel or a wall goes on into the lesion. At the end
    the contrast is scaled so that the label keeps its mean. Where no lung is around, nothing changes.
    """
    around = valid & ~painted & (volume_hu < LUNG_HU)
    if not inside.any() or not around.any():
        return volume_hu
    lung = volume_hu[around].median()
    middle = (volume_hu[inside].median() + lung) / 2
    contrast = 2 * (middle - lung)
    if contrast <= 0:
        return volume_hu
    outside_voxels = torch.from_numpy(distance_transform_edt(~inside.cpu().numpy())).to(volume_hu)
    touching = (outside_voxels > 0) & (outside_voxels <= 1) & painted
    near = outside_voxels < 1.5  # a face or an edge shared with the label
    far = ((outside_voxels > 1.5) & (outside_voxels <= FAR_VOXELS) & valid).to(volume_hu)
    seen = _neighbours(far).clamp_min(1e-3)
    moved, free = volume_hu, torch.ones_like(volume_hu)
    for _ in range(MOVES):
        free = (1 - 3 * _neighbours((moved > middle) * far) / seen).clamp(0, 1)
        missing = ((middle - moved) / contrast + MOVE_MARGIN).clamp(0, 1) * inside
        beyond = ((moved - middle) / contrast + MOVE_MARGIN).clamp(0, 1) * touching * free
        moved = moved + MOVE_GAIN * contrast * _gaussian(missing - beyond, MOVE_VOXELS) * near
    scale = (volume_hu[inside].mean() - lung) / (moved[inside].mean() - lung).clamp_min(1)
    return moved + (scale.clamp(*SCALED) - 1) * (inside + touching * free) * (moved - lung)


def _neighbours(volume: Tensor) -> Tensor:
    """Mean of the 27 voxels around, (D, H, W)."""
    return F.avg_pool3d(volume[None, None], 3, stride=1, padding=1)[0, 0]


def _gaussian(volume: Tensor, voxels: float) -> Tensor:
    """Gaussian of that standard deviation, (D, H, W)."""
    radius = round(4 * voxels)
    at = torch.arange(-radius, radius + 1, device=volume.device, dtype=volume.dtype)
    kernel = torch.exp(-at.square() / (2 * voxels**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for axis in range(3):
        lines = volume.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        volume = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return volume
