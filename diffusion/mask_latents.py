"""A lesion's mask as an image on the latent grid, so that a diffusion can make it; and back.

Two kinds, both with values from -1 (far outside) to 1 (deep inside) and the border at 0:

- *distance*: the signed distance to the border, clipped at `reach_mm` and divided by it;
- *coverage*: the share of the voxels that are inside, scaled to [-1, 1].

Each latent cell has eight values, one for each octant (`diffusion.conditioning.octants`). Means over octants that are
interpolated again would make a lesion smaller, the more so the smaller it is. So the values are corrected until the
interpolated image has the means of the mask's own (iterative back-projection, Irani & Peleg 1991).
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from diffusion.conditioning import from_octants, octants
from diffusion.option_types import MaskKind
from imaging.boxes import mask_box

ROUNDS = 4  # of the correction, after which more change nothing (benchmarks/quality/paired.md)


def mask_channels(factor: int) -> int:
    """Channels of :func:`mask_latent`: 8, or 1 for an odd factor, whose cells have no octants."""
    return 1 if factor % 2 else 8


def mask_latent(
    mask: Tensor, factor: int, kind: MaskKind, reach_mm: float, spacing_mm: float, rounds: int = ROUNDS
) -> Tensor:
    """A mask on the latent grid.

    Args:
        mask: (B, 1, D, H, W), 0 or 1.
        factor: Voxels per cell.
        kind: "distance" or "coverage".
        reach_mm: Where the distance is clipped.
        spacing_mm: Of the voxels, isotropic.
        rounds: Of the correction.
    Returns: float32 (B, `mask_channels`, D/f, H/f, W/f), about in [-1, 1].
    """
    if kind == "coverage":
        image = 2 * mask.float() - 1
    else:
        reach = reach_mm / spacing_mm
        scaled = [_near_distance(volume, reach) / reach for volume in mask[:, 0].cpu().numpy()]
        image = torch.from_numpy(np.stack(scaled)[:, None]).to(mask.device).clamp(-1, 1)
    latent = octants(image, factor)
    for _ in range(rounds if factor > 1 else 0):
        latent = latent + octants(image - interpolated(latent, factor), factor)
    return latent


def mask_of_latent(latent: Tensor, factor: int) -> Tensor:
    """The mask whose border an image on the latent grid has at 0; trilinear between the octants.

    Args:
        latent: As :func:`mask_latent` gives it, or an estimate of it.
        factor: Voxels per cell.
    Returns: uint8 (B, 1, D, H, W), 0 or 1.
    """
    return (interpolated(latent.float(), factor) > 0).to(torch.uint8)


def interpolated(latent: Tensor, factor: int) -> Tensor:
    """The image of the voxels, (B, 1, D, H, W)."""
    halves = from_octants(latent, factor)
    scale = factor if factor % 2 else factor // 2
    return F.interpolate(halves, scale_factor=float(scale), mode="trilinear") if scale > 1 else halves


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each voxel's centre to the mask's border, in voxels, positive inside; float32, same shape.

    The border lies halfway between neighbouring voxels. Without one, all is `sum of the edges` away from it.
    """
    inside = np.asarray(mask) > 0
    far = float(sum(inside.shape))
    if inside.all() or not inside.any():
        return np.full(inside.shape, far if inside.all() else -far, np.float32)
    within, outside = (ndimage.distance_transform_edt(part) for part in (inside, ~inside))
    return np.where(inside, within - 0.5, 0.5 - outside).astype(np.float32)


def _near_distance(mask: np.ndarray, reach: float) -> np.ndarray:
    """:func:`signed_distance` as far as `reach` voxels from the mask, and -reach beyond: a small box is enough."""
    if not mask.any() or mask.all():
        return signed_distance(mask)
    distance = np.full(mask.shape, -reach, np.float32)
    box = mask_box(mask, int(np.ceil(reach)) + 1)
    distance[box] = signed_distance(mask[box])
    return distance


def largest_part(mask: Tensor) -> Tensor:
    """The largest face-connected part of each mask, uint8 (B, 1, D, H, W)."""
    kept = np.zeros(mask.shape, np.uint8)
    for number, volume in enumerate(mask[:, 0].cpu().numpy()):
        labels, count = ndimage.label(volume)
        if count:
            kept[number, 0] = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return torch.from_numpy(kept).to(mask.device)
