"""Adds a generated lesion to a CT, in the same way for crops and whole scans."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from imaging.boxes import mask_box
from imaging.window import AIR_HU


def edge_weight(lesion_mask: np.ndarray, spacing_mm: np.ndarray, blend_mm: float) -> np.ndarray:
    """How much of the change each voxel takes: 0 outside the mask, rising to 1 from its border inwards.

    The weight of a voxel is its distance to the nearest voxel centre outside, divided by `blend_mm`, at most 1. Deeper
    voxels take the whole change. The mask is continued beyond the volume, because at a border of the volume there is
    nothing to blend with.

    Args:
        lesion_mask: (D, H, W), 0 or 1.
        spacing_mm: (3,), z, y, x.
        blend_mm: Depth at which 1 is reached; 0 takes the change in the whole mask.
    Returns: (D, H, W), float32; above 0 in the mask and nowhere else.
    Raises: ValueError: If the width is negative or not finite.
    """
    if not (np.isfinite(blend_mm) and blend_mm >= 0):
        raise ValueError(f"blend_mm {blend_mm}, expected 0 or a positive width in mm")
    inside = np.asarray(lesion_mask) > 0
    weight = np.zeros(inside.shape, np.float32)
    if not inside.any() or inside.all():
        return weight + inside
    box = mask_box(inside, margin=1)
    padded = np.pad(inside[box], 1, mode="edge")
    depth_mm = distance_transform_edt(padded, sampling=[float(mm) for mm in spacing_mm])[1:-1, 1:-1, 1:-1]
    weight[box] = np.where(inside[box], np.minimum(depth_mm / max(blend_mm, 1e-6), 1), 0)
    return weight


def composite(ct_hu: np.ndarray, difference_hu: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """ct_hu + weight · difference: the scan's own noise stays, and where the weight is 0 every bit stays.

    Painted values are at least air, and stay in the range of an integer type. A scanner's values below air (padding,
    for example) count as air where they are painted over. The model sees them so, too.

    Args:
        ct_hu: Scan or crop, HU, any shape and real type.
        difference_hu: Generated minus given, HU, on the same voxels; the given raised to air likewise.
        weight: From :func:`edge_weight`, in [0, 1].
    Returns: Same shape and type as `ct_hu`; integers are rounded.
    """
    raised = np.maximum(np.asarray(ct_hu, np.float64), AIR_HU)
    painted = np.maximum(raised + weight * np.asarray(difference_hu, np.float64), AIR_HU)
    if np.issubdtype(ct_hu.dtype, np.integer):
        limits = np.iinfo(ct_hu.dtype)
        painted = np.clip(np.rint(painted), limits.min, limits.max)
    return np.where(weight > 0, painted.astype(ct_hu.dtype), ct_hu)
