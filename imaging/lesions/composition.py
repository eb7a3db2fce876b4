"""What a lesion is made of: solid tissue, which hides the vessels behind it, or ground glass, which does not."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from imaging.lesions.mask import grown_mask

SOLID_HU = -300.0
"""Solid tissue lies above; thresholds from -400 to -160 HU are in use (Lee et al. 2018, PLoS ONE 13(10), e0205490)."""
DENSE_HU = -200.0  # what is called solid in a lesion that the readers rated as ground glass
ALL_SOLID, ALL_NONSOLID = 4.5, 1.5  # mean ratings of texture from and up to which a lesion is of one kind
SMOOTHING_MM = 0.7  # Gaussian sigma: noise of a voxel is no solid part
PARTIAL_VOLUME_MM = 1.0  # a solid part's border to the lung is blurred over so much
SMALLEST_PART_MM3 = 8.0
VESSEL_RADIUS_MM = 2.0  # what is thicker in the lung is no vessel that ground glass leaves visible
UNEVEN_MM, UNEVEN_OVER_MM = 1.0, 3.0  # how far a drawn core departs from the lesion's own shape, and over what length


def solid_part(
    ct_hu: np.ndarray, lesion_mask: np.ndarray, texture: float | None, spacing_mm: Sequence[float]
) -> np.ndarray:
    """The voxels of a lesion that are solid.

    Readers decide about lesions of one kind. In others the smoothed CT is cut at `SOLID_HU`; the blurred border of a
    solid part to the lung belongs to it, and components below `SMALLEST_PART_MM3` do not count.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside.
        texture: The readers' mean rating, 1 (ground glass) to 5 (solid); None or NaN decides by HU alone.
        spacing_mm: (z, y, x), mm.
    Returns: uint8 (D, H, W), 0 outside the lesion.
    """
    inside = np.asarray(lesion_mask) > 0
    if texture is None or np.isnan(texture):
        texture = (ALL_SOLID + ALL_NONSOLID) / 2
    if texture >= ALL_SOLID or not inside.any():
        return inside.astype(np.uint8)
    sampling = [float(mm) for mm in spacing_mm]
    sigma = [SMOOTHING_MM / mm for mm in sampling]
    weight = np.maximum(ndimage.gaussian_filter(inside.astype(np.float32), sigma), 1e-6)

    def smoothed(values: np.ndarray) -> np.ndarray:
        """Inside the lesion alone: lung beside it must not lower what is measured."""
        return ndimage.gaussian_filter(np.where(inside, values, 0).astype(np.float32), sigma) / weight

    nonsolid = texture <= ALL_NONSOLID
    dense = _large_components(inside & (smoothed(ct_hu) > (DENSE_HU if nonsolid else SOLID_HU)), sampling)
    if nonsolid or not dense.any():
        return dense.astype(np.uint8)
    border = inside & (grown_mask(~inside, PARTIAL_VOLUME_MM, sampling) > 0)
    solid = dense | (border & (grown_mask(dense, PARTIAL_VOLUME_MM, sampling) > 0))
    return (inside & (smoothed(solid) > 0.5)).astype(np.uint8)


def composed(
    ct_hu: np.ndarray,
    lesion_mask: np.ndarray,
    spacing_mm: Sequence[float],
    texture: float,
    solid_share: float,
    white: np.ndarray,
) -> np.ndarray | None:
    """The solid part of a lesion that is not there yet: all of a solid one, a core, or the vessels behind ground glass.

    Args:
        ct_hu: The scan without the lesion, (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside.
        spacing_mm: (z, y, x), mm.
        texture: Of the lesion, 1 (ground glass) to 5 (solid); NaN leaves the composition open.
        solid_share: Share of the lesion that its core takes, if it is neither; NaN leaves the composition open.
        white: Standard normal, same shape; decides how the core departs from the lesion's shape.
    Returns: uint8 (D, H, W); None where the composition is open.
    """
    inside = np.asarray(lesion_mask) > 0
    if np.isnan(texture) or not inside.any():
        return None
    if texture >= ALL_SOLID:
        return inside.astype(np.uint8)
    if texture <= ALL_NONSOLID:
        return _vessels(ct_hu, inside, spacing_mm)
    if np.isnan(solid_share):
        return None
    depth_mm = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    uneven = ndimage.gaussian_filter(white.astype(np.float32), [UNEVEN_OVER_MM / mm for mm in spacing_mm])
    score = depth_mm + UNEVEN_MM * uneven / max(float(uneven.std()), 1e-6)
    count = int(np.clip(round(solid_share * inside.sum()), 0, inside.sum()))
    solid = np.zeros(inside.shape, np.uint8)
    solid[inside] = score[inside].argsort().argsort() >= inside.sum() - count
    return solid


def _vessels(ct_hu: np.ndarray, inside: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """What is dense and thin in the lung where a lesion of ground glass will lie."""
    dense = ct_hu > DENSE_HU
    depth_mm = ndimage.distance_transform_edt(dense, sampling=spacing_mm)
    thick = grown_mask(depth_mm > VESSEL_RADIUS_MM, 2 * VESSEL_RADIUS_MM, [float(mm) for mm in spacing_mm]) > 0
    return _large_components(inside & dense & ~thick, [float(mm) for mm in spacing_mm]).astype(np.uint8)


def _large_components(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    components, _ = ndimage.label(mask)
    volumes_mm3 = np.bincount(components.ravel()) * float(np.prod(spacing_mm))
    keep = volumes_mm3 >= SMALLEST_PART_MM3
    keep[0] = False
    return keep[components]
