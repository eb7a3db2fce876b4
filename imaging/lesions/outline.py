"""The border of a lesion where the eye sees it: at half maximum between the lung around it and the lesion.

Readers outline from outside, so their masks hold a rim of lung (LIDC-IDRI: Armato et al. 2011, Medical Physics 38(2),
section II.C). A network that is given such masks paints a blurred, averaged edge. The full width at half maximum is
where a blurred step edge has its true place, whatever the width of the blur.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from imaging.lesions.mask import grown_mask

Fallback = Literal["no lung around", "low contrast", "nothing above half maximum", "volume changed too much"]

GROW_MM = 1.0  # the lesion may reach so far beyond the readers' outline
SMOOTHING_MM, STRONG_SMOOTHING_MM = 0.5, 1.0  # Gaussian sigma before the threshold; the second where contrast is low
CLOSING_MM = 1.0  # closes noise and slits at the border
SHELL_MM = (2.0, 6.0)  # distance from the outline in which the lung around is measured
PARENCHYMA_HU = (-1000.0, -500.0)  # neither air nor vessel or wall
FEWEST_LUNG_VOXELS = 30
RIM_MM = 1.5  # of the readers' mask: blur and lung, not looked at for the lesion's level where there is a core beside
SOLID_HU = -300.0  # above it is solid tissue, as in imaging.lesions.composition
SOLID_TEXTURE = 4.0  # lesions rated below may hold ground glass, whose border is the lesion's
LEAST_GLASS = 0.2  # share of the core
LOWEST_CONTRAST_HU = 100.0
CLEAR_CONTRAST = 8.0  # noise standard deviations; below, the smoothing is strong
NOISE_FACTOR = 2.0  # below, there is no contrast
VOLUME_RATIO = (0.3, 1.6)  # of the result to the readers' mask; outside, the threshold found something else
SMALLEST_PART = 0.1  # of the largest component; smaller ones are vessels or noise


@dataclass(frozen=True)
class Outline:
    """A lesion's mask and how it came about.

    Attributes:
        mask: uint8 (D, H, W).
        threshold_hu: Half maximum; NaN where the readers' mask was kept without one.
        lung_hu, lesion_hu: The two levels it lies between.
        fallback: Why the readers' mask was kept; None where it was not.
    """

    mask: np.ndarray
    threshold_hu: float
    lung_hu: float
    lesion_hu: float
    fallback: Fallback | None


def half_maximum_outline(
    ct_hu: np.ndarray,
    consensus: np.ndarray,
    spacing_mm: Sequence[float],
    texture: float | None = None,
    valid_mask: np.ndarray | None = None,
) -> Outline:
    """Redraw a lesion's border at half maximum.

    Inside the readers' mask grown by `GROW_MM`, the lightly smoothed CT is cut halfway between the lung around and the
    lesion; holes are filled, and what touches the lesion only through the grown rim of a wall is cut off. Thick slices
    belong on a fine isotropic grid first, or the outline has their steps.

    Args:
        ct_hu: (D, H, W), HU.
        consensus: Same shape, the readers' mask, non-zero inside.
        spacing_mm: (z, y, x), mm.
        texture: Mean rating, 1 (ground glass) to 5 (solid); None decides by the HU of the core.
        valid_mask: Same shape, 0 where `ct_hu` is not measured; None if there is no such place.
    Raises: ValueError: If the mask is empty or a shape differs.
    """
    inside = np.asarray(consensus) > 0
    if inside.shape != np.shape(ct_hu):
        raise ValueError(f"consensus has shape {inside.shape}, expected that of ct_hu {np.shape(ct_hu)}")
    if not inside.any():
        raise ValueError("consensus is empty; there is no lesion to outline")
    valid = np.ones(inside.shape, bool) if valid_mask is None else np.asarray(valid_mask) > 0
    sampling = [float(mm) for mm in spacing_mm]
    outer_mm = ndimage.distance_transform_edt(~inside, sampling=sampling)
    shell = valid & (outer_mm >= SHELL_MM[0]) & (outer_mm <= SHELL_MM[1])

    def kept(reason: Fallback, threshold: float = np.nan, lung: float = np.nan, lesion: float = np.nan) -> Outline:
        return Outline(inside.astype(np.uint8), threshold, lung, lesion, reason)

    for sigma_mm in (SMOOTHING_MM, STRONG_SMOOTHING_MM):
        smooth_hu = ndimage.gaussian_filter(np.asarray(ct_hu, np.float32), [sigma_mm / mm for mm in sampling])
        lung_values = smooth_hu[shell & (smooth_hu > PARENCHYMA_HU[0]) & (smooth_hu < PARENCHYMA_HU[1])]
        if len(lung_values) < FEWEST_LUNG_VOXELS:
            return kept("no lung around")
        lung_hu = float(np.median(lung_values))
        noise_hu = 1.4826 * float(np.median(np.abs(lung_values - lung_hu)))
        lesion_hu = lesion_level_hu(smooth_hu, inside & valid, sampling, lung_hu, texture)
        if lesion_hu - lung_hu >= CLEAR_CONTRAST * noise_hu:
            break
    threshold_hu = (lung_hu + lesion_hu) / 2
    if lesion_hu - lung_hu < max(LOWEST_CONTRAST_HU, NOISE_FACTOR * noise_hu):
        return kept("low contrast", threshold_hu, lung_hu, lesion_hu)

    box = _box(inside, 2 * GROW_MM + CLOSING_MM + 2 * max(sampling), sampling)
    known, core, outer_mm = valid[box], inside[box], outer_mm[box]
    above = (smooth_hu[box] > threshold_hu) & known
    # Beyond the readers' outline, a voxel belongs to the lesion only if the lung is near: a wall goes on.
    rim = above & (outer_mm > 0) & (outer_mm <= GROW_MM)
    rim &= _within(~above, GROW_MM + max(sampling), sampling)
    for candidate in ((above & core) | rim, above & core):
        found = _main_parts(candidate)
        if not (found & core).any():
            return kept("nothing above half maximum", threshold_hu, lung_hu, lesion_hu)
        found = _closed(found, sampling) & known & (outer_mm <= GROW_MM)
        if VOLUME_RATIO[0] <= found.sum() / core.sum() <= VOLUME_RATIO[1]:
            mask = np.zeros(inside.shape, np.uint8)
            mask[box] = found
            return Outline(mask, threshold_hu, lung_hu, lesion_hu, None)
    return kept("volume changed too much", threshold_hu, lung_hu, lesion_hu)


def lesion_level_hu(
    smooth_hu: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float], lung_hu: float, texture: float | None
) -> float:
    """HU of the lesion's plateau: median of its core; of the ground glass in it where the lesion is not solid.

    Cavities do not count. Arguments as in :func:`half_maximum_outline`.
    """
    box = _box(inside, max(spacing_mm), spacing_mm)
    depth_mm = ndimage.distance_transform_edt(inside[box], sampling=spacing_mm)
    core = smooth_hu[box][depth_mm >= min(RIM_MM, 0.5 * depth_mm.max())]
    core = core[core > lung_hu + LOWEST_CONTRAST_HU]
    if len(core) == 0:
        return lung_hu
    glass = core[core < SOLID_HU]
    solid = texture is None or texture >= SOLID_TEXTURE
    return float(np.median(core if solid or len(glass) < LEAST_GLASS * len(core) else glass))


def _main_parts(mask: np.ndarray) -> np.ndarray:
    """The largest connected component and those that are not small beside it."""
    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return (sizes >= SMALLEST_PART * sizes.max())[components]


def _closed(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Closing by a ball of `CLOSING_MM`, then holes filled."""
    pad = int(np.ceil(CLOSING_MM / min(spacing_mm))) + 1
    near = _within(np.pad(mask, pad), CLOSING_MM, spacing_mm)
    closed = ~_within(~near, CLOSING_MM, spacing_mm)
    return ndimage.binary_fill_holes(closed[(slice(pad, -pad),) * 3] | mask)


def _within(mask: np.ndarray, reach_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Voxels whose distance to the mask is at most `reach_mm`."""
    return grown_mask(mask, reach_mm, spacing_mm) > 0


def _box(mask: np.ndarray, margin_mm: float, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """The slices of the mask's bounding box and a margin, cut to the array."""
    occupied = (np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    reach = [int(np.ceil(margin_mm / mm)) for mm in spacing_mm]
    return tuple(slice(max(int(o[0]) - r, 0), int(o[-1]) + r + 1) for o, r in zip(occupied, reach, strict=True))
