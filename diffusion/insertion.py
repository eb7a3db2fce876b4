"""A lesion into a whole scan: native geometry -> model grid -> paint -> the difference back, inside the mask only."""

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from imaging.files.hounsfield import check_hu
from imaging.geometry import check_same_grid, paste_difference, point_of_index, sample_grid, sample_mask, soft_edge
from imaging.lesions.mask import binary_mask

MARGIN_MM = 4.0  # lung that the model must see on every side of the lesion

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ct_hu, lesion_mask) of a crop -> generated HU, all (D, H, W)


def inpaint_scan(
    ct: sitk.Image, mask: sitk.Image, paint: Paint, crop_size: int, spacing_mm: float, blend_mm: float
) -> sitk.Image:
    """Inpaint one lesion into a whole scan.

    The model sees a cube around the mask. What it changes goes back as a difference, so the scan's own noise stays in
    the lesion and every voxel outside the mask is the input's.

    Args:
        ct: Scan in HU.
        mask: Where the lesion is painted, in the geometry of `ct`; one lesion, as `binary_mask` says.
        paint: The model, on its own grid: float32 HU and uint8 mask in, HU out.
        crop_size: Edge of the model's grid, voxels.
        spacing_mm: Of the model's grid, isotropic.
        blend_mm: Width over which the lesion is blended in from the border of the mask inwards.
    Returns: The scan with the lesion, of the pixel type, geometry and metadata of `ct`.
    Raises: ValueError: If the geometries differ, the scan is not in HU, the mask is empty or no mask, or the lesion
        does not fit the grid.
    """
    check_same_grid(mask, ct, "mask")
    check_hu(sitk.GetArrayViewFromImage(ct), "ct")
    binary = sitk.GetImageFromArray(binary_mask(sitk.GetArrayViewFromImage(mask)))
    binary.CopyInformation(ct)
    ct_hu, _, grid = sample_grid(ct, _middle(binary, crop_size * spacing_mm), crop_size, spacing_mm)
    lesion_mask = sample_mask(binary, grid)
    if not lesion_mask.any():
        raise ValueError(f"the mask vanishes on the model's grid of {spacing_mm} mm; the lesion is too small to paint")
    weight = soft_edge(binary, blend_mm)
    return paste_difference(ct, grid, paint(ct_hu, lesion_mask) - ct_hu, weight)


def _middle(mask: sitk.Image, grid_mm: float) -> tuple[float, ...]:
    """Physical point (x, y, z) in the middle of the mask's extent, which must fit into the grid with its margin."""
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)
    if len(indices) == 0:
        raise ValueError("the lesion mask is empty, expected at least one voxel above 0")
    first, last = indices.min(0), indices.max(0)
    extent_mm = (last - first + 1) * np.array(mask.GetSpacing()[::-1])
    if extent_mm.max() + 2 * MARGIN_MM > grid_mm:
        raise ValueError(
            f"the mask spans {np.round(extent_mm, 1).tolist()} mm (z, y, x), the model's grid {grid_mm:g} mm; "
            f"expected at most {grid_mm - 2 * MARGIN_MM:g} mm; paint one lesion at a time, or use a pipeline with a "
            "larger crop_size"
        )
    return point_of_index(mask, (first + last) / 2)
