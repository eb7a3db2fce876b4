"""One nodule of a CT as a crop on the model's grid: the array columns of the prepared dataset."""

from typing import Any

import numpy as np
import SimpleITK as sitk

from imaging.boxes import mask_box
from imaging.geometry import index_of_point, mask_centroid, point_of_index, sample_grid, sample_mask


def crop_nodule(
    ct_image: sitk.Image,
    mask_image: sitk.Image,
    crop_size: int,
    spacing_mm: float | None,
    fill_hu: float | None = None,
) -> tuple[dict[str, Any], sitk.Image, bool]:
    """Crop a CT around the centroid of a lesion mask.

    Volume and diameter (of the sphere of that volume) are counted on the mask's own voxels, before resampling.

    Args:
        ct_image: HU.
        mask_image: Lesion above 0; its box may be smaller than the CT, its axes are the CT's.
        crop_size: Edge of the cubic crop, voxels.
        spacing_mm: Isotropic spacing of the crop; None keeps the CT's own.
        fill_hu: Value where the crop reaches outside the CT; None repeats the CT's edge.
    Returns: (columns, grid, whole): `ct_hu` int16, `lesion_mask` and `valid_mask` uint8 (S, S, S), `spacing_mm`
        float32 (3,), `volume_mm3`, `diameter_mm`; the crop's geometry; and whether all of the lesion is inside.
    Raises: ValueError: If the mask is empty or vanishes on the grid.
    """
    ct_hu, valid_mask, grid = sample_grid(ct_image, mask_centroid(mask_image), crop_size, spacing_mm, fill_hu)
    lesion_mask = sample_mask(mask_image, grid) * valid_mask
    if not lesion_mask.any():
        raise ValueError(f"the lesion vanishes at spacing_mm {spacing_mm}; use a finer spacing")
    inside = sitk.GetArrayViewFromImage(mask_image) > 0
    volume_mm3 = int(inside.sum()) * float(np.prod(mask_image.GetSpacing()))
    box = mask_box(inside)
    ends = ([along.start for along in box], [along.stop - 1 for along in box])
    corners = [index_of_point(grid, point_of_index(mask_image, corner)) for corner in ends]
    whole = bool(np.min(corners) >= -0.5 and np.max(corners) <= crop_size - 0.5)
    columns = {
        "ct_hu": np.rint(ct_hu).astype(np.int16),
        "lesion_mask": lesion_mask,
        "valid_mask": valid_mask,
        "spacing_mm": np.array(grid.GetSpacing()[::-1], np.float32),
        "volume_mm3": volume_mm3,
        "diameter_mm": float(np.cbrt(6 * volume_mm3 / np.pi)),
    }
    return columns, grid, whole
