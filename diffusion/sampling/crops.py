"""A lesion into a whole scan: native geometry -> model grid -> paint -> the difference back, only where painted."""

from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from imaging.files.hounsfield import check_hu
from imaging.geometry import check_same_grid, paste_difference, point_of_index, sample_grid, sample_mask, soft_edge
from imaging.lesions.mask import binary_mask, grown_mask

MARGIN_MM = 2.0  # CT that the model must see on every side of what it paints


class ScanCrop(NamedTuple):
    """The part of a scan that the model sees, and what it may paint.

    Attributes:
        crop: `ct_hu`, `lesion_mask`, `paint_mask` and `valid_mask` on the model's grid, (D, H, W).
        grid: Image with the geometry of that grid.
        painted: The painted region on the scan's grid, uint8.
    """

    crop: dict[str, np.ndarray]
    grid: sitk.Image
    painted: sitk.Image


def crop_of_scan(ct: sitk.Image, mask: sitk.Image, crop_size: int, spacing_mm: float, margin_mm: float) -> ScanCrop:
    """Bring the surroundings of a lesion to the model's grid.

    Args:
        ct: Scan in HU.
        mask: The lesion, in the geometry of `ct`; one lesion, as `binary_mask` says.
        crop_size: Edge of the model's grid, voxels.
        spacing_mm: Of the model's grid, isotropic.
        margin_mm: What is painted around the lesion.
    Raises: ValueError: If the geometries differ, the scan is not in HU, the mask is empty or no mask, or the lesion
        does not fit the grid.
    """
    check_same_grid(mask, ct, "mask")
    check_hu(sitk.GetArrayViewFromImage(ct), "ct")
    lesion = binary_mask(sitk.GetArrayViewFromImage(mask))
    binary = sitk.GetImageFromArray(lesion)
    binary.CopyInformation(ct)
    middle = _middle(binary, crop_size * spacing_mm, margin_mm)
    ct_hu, valid_mask, grid = sample_grid(ct, middle, crop_size, spacing_mm)
    lesion_mask = sample_mask(binary, grid)
    if not lesion_mask.any():
        raise ValueError(f"the mask vanishes on the model's grid of {spacing_mm} mm; the lesion is too small to paint")
    paint_mask = grown_mask(lesion_mask, margin_mm, 3 * (spacing_mm,)) * valid_mask
    crop = {"ct_hu": ct_hu, "lesion_mask": lesion_mask, "paint_mask": paint_mask, "valid_mask": valid_mask}
    painted = sitk.GetImageFromArray(grown_mask(lesion, margin_mm, ct.GetSpacing()[::-1]))
    painted.CopyInformation(ct)
    return ScanCrop(crop, grid, painted)


def paste_into_scan(ct: sitk.Image, place: ScanCrop, made_hu: np.ndarray, blend_mm: float) -> sitk.Image:
    """The scan with what the model made, on its own grid; every voxel outside `place.painted` is the scan's.

    Args:
        ct: Of which `place` is a crop.
        place: From :func:`crop_of_scan`.
        made_hu: What the model made, (D, H, W), HU.
        blend_mm: Width over which the change is blended in from the border of the painted region inwards.
    Returns: Image of the pixel type, geometry and metadata of `ct`.
    """
    around = _around(place.painted)  # a whole scan's weights would be as large as two scans
    difference_hu = made_hu - place.crop["ct_hu"]
    weights = soft_edge(place.painted[around], blend_mm)
    patch = paste_difference(ct[around], place.grid, difference_hu, weights, sampled_hu=place.crop["ct_hu"])
    result = sitk.Image(ct)
    result[around] = patch
    for key in ct.GetMetaDataKeys():
        result.SetMetaData(key, ct.GetMetaData(key))
    return result


def _around(mask: sitk.Image) -> tuple[slice, ...]:
    """Slices (x, y, z) around the mask, with a voxel to spare where the scan has one."""
    inside = sitk.GetArrayViewFromImage(mask) > 0
    occupied = [np.flatnonzero(inside.any(axis=axes)) for axes in ((0, 1), (0, 2), (1, 2))]
    return tuple(slice(max(int(o[0]) - 1, 0), int(o[-1]) + 2) for o in occupied)


def _middle(mask: sitk.Image, grid_mm: float, paint_margin_mm: float) -> tuple[float, ...]:
    """Physical point (x, y, z) in the middle of the mask's extent, which must fit into the grid with its margin."""
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)
    if len(indices) == 0:
        raise ValueError("the lesion mask is empty, expected at least one voxel above 0")
    first, last = indices.min(0), indices.max(0)
    extent_mm = (last - first + 1) * np.array(mask.GetSpacing()[::-1])
    margin_mm = MARGIN_MM + paint_margin_mm
    if extent_mm.max() + 2 * margin_mm > grid_mm:
        raise ValueError(
            f"the mask spans {np.round(extent_mm, 1).tolist()} mm (z, y, x), the model's grid {grid_mm:g} mm; "
            f"expected at most {grid_mm - 2 * margin_mm:g} mm; paint one lesion at a time, or use a pipeline with a "
            "larger crop_size"
        )
    return point_of_index(mask, (first + last) / 2)
