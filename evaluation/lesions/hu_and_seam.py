"""First-order figures of one lesion: its HU, how even its core is, how much of its mask it fills, and the seam at the
mask's border.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

SURROUNDINGS_MM = (2.0, 6.0)  # from the mask: beyond the lesion's blurred rim
CORE_DEPTH_MM, CORE_MM3, SOLID_HU = 3.0, 40.0, -100.0  # the least that a solid lesion's core has
NOISE_MM = 1.0  # Gaussian below which a deviation is the scanner's noise


def hu_statistics(ct_hu: np.ndarray, lesion_mask: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the foreground.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside.
    Returns: Both in HU.
    Raises: ValueError: If the mask is empty.
    """
    foreground = ct_hu[np.asarray(lesion_mask) != 0]
    if foreground.size == 0:
        raise ValueError("lesion_mask is empty, expected at least one voxel")
    return float(foreground.mean(dtype=np.float64)), float(foreground.std(dtype=np.float64))


def core_deviation(ct_hu: np.ndarray, lesion_mask: np.ndarray, spacing_mm: Sequence[float]) -> float | None:
    """How uneven a solid lesion is inside: mottling that figures of the whole lesion, with its rim, do not show.

    Standard deviation of HU over the voxels deeper than 3 mm in the mask, after a Gaussian of 1 mm among them
    (normalised convolution), so that neither the rim nor the scanner's noise counts.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside.
        spacing_mm: (z, y, x).
    Returns: HU; None where there is no such core of 40 mm³, or its median is below -100 HU.
    """
    spacing = np.asarray(spacing_mm, float)
    core = distance_transform_edt(np.asarray(lesion_mask) != 0, sampling=spacing) > CORE_DEPTH_MM
    if core.sum() * spacing.prod() < CORE_MM3 or np.median(ct_hu[core]) < SOLID_HU:
        return None
    sigma = NOISE_MM / spacing
    sums = gaussian_filter(np.where(core, ct_hu, 0.0).astype(np.float64), sigma)
    return float((sums[core] / gaussian_filter(core.astype(np.float64), sigma)[core]).std())


def tissue_coverage(
    ct_hu: np.ndarray, lesion_mask: np.ndarray, spacing_mm: Sequence[float], valid_mask: np.ndarray | None = None
) -> float:
    """Share of the mask that lesion tissue fills.

    Tissue is what lies nearer to the lesion's bright part (90th percentile of HU in the mask) than to its surroundings
    (10th percentile from 2 to 6 mm outside: lung, also where the lesion touches the pleura). Readers' masks are
    generous, so real lesions do not reach 1 either: it has a meaning beside them.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside.
        spacing_mm: (z, y, x).
        valid_mask: Same shape, 0 on padding, which is not looked at.
    Raises: ValueError: If the mask is empty, or no valid voxel lies around it.
    """
    inside = np.asarray(lesion_mask) != 0
    distance_mm = distance_transform_edt(~inside, sampling=[float(mm) for mm in spacing_mm])
    around = (distance_mm >= SURROUNDINGS_MM[0]) & (distance_mm <= SURROUNDINGS_MM[1])
    if valid_mask is not None:
        around &= np.asarray(valid_mask) != 0
    if not inside.any() or not around.any():
        raise ValueError("no lesion or nothing valid around it, from 2 to 6 mm; leave the lesion out")
    threshold = (np.percentile(ct_hu[inside], 90) + np.percentile(ct_hu[around], 10)) / 2
    return float((ct_hu[inside] > threshold).mean())


def seam_score(ct_hu: np.ndarray, lesion_mask: np.ndarray, valid_mask: np.ndarray | None = None) -> float:
    """How much the CT jumps where the mask ends, beyond the slope on either side, HU.

    For each pair of face neighbours p inside and q outside the mask, with p' behind p and q' behind q on the same
    axis: |v(q) − v(p)| − (|v(p) − v(p')| + |v(q') − v(q)|) / 2, averaged over all pairs. A linear ramp gives 0, a clean
    step its height, and a border that the scanner has blurred little or less than 0. It has a meaning only beside the
    value of real lesions with their readers' masks.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: (D, H, W), non-zero inside.
        valid_mask: (D, H, W), 0 on padding; pairs whose four voxels are not all valid do not count.
    Raises: ValueError: If no border pair has two valid voxels on either side (the mask is empty or fills the volume).
    """
    mask = np.asarray(lesion_mask) != 0
    valid = np.ones(mask.shape, bool) if valid_mask is None else np.asarray(valid_mask) != 0
    ct = np.where(valid, ct_hu, 0).astype(np.float64)
    jumps = []
    for axis in range(3):
        v, m, ok = (np.moveaxis(array, axis, 0) for array in (ct, mask, valid))
        length = len(v)
        before, p, q, after = (slice(i, length - 3 + i) for i in range(4))
        border = (m[p] != m[q]) & ok[before] & ok[p] & ok[q] & ok[after]
        slope = (np.abs(v[p] - v[before]) + np.abs(v[after] - v[q])) / 2
        jumps.append((np.abs(v[q] - v[p]) - slope)[border])
    values = np.concatenate(jumps)
    if values.size == 0:
        raise ValueError("the mask has no border with two valid voxels on either side; leave the lesion out")
    return float(values.mean())
