"""The noise in a lesion, compared with that of similar tissue in the same scan. A different noise reveals a fake."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import minimum_filter, uniform_filter

from imaging.boxes import mask_box

NORMAL = 1.4826  # standard deviation over median absolute value, for a normal distribution
ALIKE_HU = 100.0  # surrounding tissue is within so much of the lesion's median
REACH_MM = 60.0
LEAST_VOXELS = 20
SMOOTHED = 3  # voxels along each axis, over which the tissue's HU is averaged before it is compared


class LesionNoise(NamedTuple):
    """Noise in a scan's slices, HU; None where fewer than `LEAST_VOXELS` voxels can tell.

    Attributes:
        lesion_hu: Inside the lesion.
        surroundings_hu: In tissue of similar HU around it.
        ratio: The first over the second.
    """

    lesion_hu: float | None
    surroundings_hu: float | None
    ratio: float | None


def noise_hu(ct_hu: np.ndarray, region: np.ndarray) -> float | None:
    """Standard deviation of a region's noise at the finest scale of its slices.

    Each slice is convolved with N = [1 -2 1]ᵀ[1 -2 1], which answers to no constant, ramp or straight edge along an
    axis (Immerkær 1996, "Fast noise variance estimation"). Of white noise of deviation σ the answer has 6σ, so
    σ = 1.4826 · median |N * ct| / 6 over the voxels whose whole 3 × 3 neighbourhood is in the region; the median, so
    that the edges left do not count as noise. Correlated noise, such as a soft kernel's, gives less than its deviation:
    figures compare within one scan.

    Args:
        ct_hu: (D, H, W), HU, slices along the first axis.
        region: Same shape, non-zero where to measure.
    Returns: HU, or None if fewer than 20 voxels have their neighbourhood in the region.
    """
    answer = np.diff(np.diff(np.asarray(ct_hu, np.float32), 2, axis=1), 2, axis=2) / 6  # of N, without the border
    whole = minimum_filter((np.asarray(region) != 0).astype(np.uint8), (1, 3, 3))[:, 1:-1, 1:-1]
    values = np.abs(answer[whole > 0])
    return float(NORMAL * np.median(values)) if values.size >= LEAST_VOXELS else None


def lesion_noise(
    ct_hu: np.ndarray, lesion_mask: np.ndarray, spacing_mm: Sequence[float], paint_mask: np.ndarray | None = None
) -> LesionNoise:
    """The noise of a lesion against the surrounding tissue's, both by :func:`noise_hu`.

    Surrounding tissue lies within 60 mm of the lesion along each axis, outside all that was painted, and within 100 HU
    of the lesion's median once smoothed over 3³ voxels: lung for a faint lesion, the chest wall for a solid one.

    Args:
        ct_hu: Scan with the lesion, (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside; not empty.
        spacing_mm: (z, y, x).
        paint_mask: Same shape; what was painted, other lesions included. None: the lesion alone.
    Returns: Both figures and their ratio.
    Raises: ValueError: If the mask is empty.
    """
    box = mask_box(lesion_mask, [int(np.ceil(REACH_MM / mm)) for mm in spacing_mm])
    ct, lesion = np.asarray(ct_hu[box], np.float32), np.asarray(lesion_mask[box]) != 0
    painted = lesion if paint_mask is None else lesion | (np.asarray(paint_mask[box]) != 0)
    alike = np.abs(uniform_filter(ct, SMOOTHED) - np.median(ct[lesion])) <= ALIKE_HU
    inside, around = noise_hu(ct, lesion), noise_hu(ct, alike & ~painted)
    return LesionNoise(inside, around, inside / around if inside is not None and around else None)
