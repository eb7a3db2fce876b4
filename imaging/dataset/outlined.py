"""A nodule's mask with its border redrawn at half maximum, on a fine isotropic grid of its own."""

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import bounding_box, point_of_index
from imaging.lesions.outline import GROW_MM, SHELL_MM, Outline, half_maximum_outline
from imaging.window import AIR_HU

FINE_MM = 0.6  # thick slices are interpolated to it before the threshold, so that the outline has no steps


def half_maximum_image(
    ct_image: sitk.Image, weight_image: sitk.Image, texture: float | None = None
) -> tuple[sitk.Image, Outline]:
    """The mask of `imaging.lesions.outline.half_maximum_outline`, found on a fine isotropic grid.

    The CT is interpolated by cubic splines, the readers' agreement linearly, so that the outline of thick slices is
    smooth in the coronal and sagittal planes too.

    Args:
        ct_image: HU.
        weight_image: Share of the readers who outlined each voxel, or a mask of 0 and 1; at least 0.5 is the lesion.
            Its box may be smaller than the CT, its axes are the CT's.
        texture: The readers' mean rating, see `half_maximum_outline`.
    Returns: (mask, outline): the mask as an image of its own geometry, and how it came about.
    Raises: ValueError: If no voxel reaches 0.5.
    """
    if not (sitk.GetArrayViewFromImage(weight_image) >= 0.5).any():
        raise ValueError("no voxel was outlined by half of the readers")
    weights = sitk.Cast(weight_image, sitk.sitkFloat32)
    grid = _fine_grid(ct_image, weights)
    consensus = sitk.GetArrayFromImage(sitk.Resample(weights, grid, sitk.Transform(), sitk.sitkLinear, 0.0)) >= 0.5
    if not consensus.any():  # a lesion of a voxel or two, between whose centres the weight falls off
        consensus = sitk.GetArrayFromImage(sitk.Resample(weights, grid, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
    known = sitk.Image(ct_image.GetSize(), sitk.sitkUInt8) + 1
    known.CopyInformation(ct_image)
    valid = sitk.GetArrayFromImage(sitk.Resample(known, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    ct_hu = _cubic(ct_image, grid)
    outline = half_maximum_outline(ct_hu, consensus, (FINE_MM,) * 3, texture, valid)
    mask = sitk.GetImageFromArray(outline.mask * (valid if (outline.mask * valid).any() else 1))
    mask.CopyInformation(grid)
    return mask, outline


def _fine_grid(ct_image: sitk.Image, weights: sitk.Image) -> sitk.Image:
    """An isotropic grid of `FINE_MM` along the CT's axes around what any reader outlined and the lung beside it."""
    box = bounding_box(weights >= 0.5)
    margin_mm = SHELL_MM[1] + GROW_MM
    lower_mm = np.array([side.start - 0.5 for side in box]) * weights.GetSpacing() - margin_mm
    upper_mm = np.array([side.stop - 0.5 for side in box]) * weights.GetSpacing() + margin_mm
    size = np.ceil((upper_mm - lower_mm) / FINE_MM).astype(int)
    grid = sitk.Image(size.tolist(), sitk.sitkUInt8)
    grid.SetSpacing([FINE_MM] * 3)
    grid.SetDirection(ct_image.GetDirection())
    grid.SetOrigin(point_of_index(weights, ((lower_mm + FINE_MM / 2) / weights.GetSpacing())[::-1].tolist()))
    return grid


def _cubic(ct_image: sitk.Image, grid: sitk.Image) -> np.ndarray:
    """The CT at the grid's voxels by cubic splines, its edge repeated; (D, H, W) float32."""
    start = np.array(ct_image.TransformPhysicalPointToContinuousIndex(grid.GetOrigin()))
    step = np.array(grid.GetSpacing()) / ct_image.GetSpacing()
    stop = start + step * (np.array(grid.GetSize()) - 1)
    size = np.array(ct_image.GetSize())
    low = np.clip(np.floor(start) - 8, 0, size - 1).astype(int)  # the spline's influence ends within 8 voxels
    high = np.clip(np.ceil(stop) + 9, low + 1, size).astype(int)
    region = ct_image[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    values = np.maximum(sitk.GetArrayFromImage(region).astype(np.float32), AIR_HU)
    shape = grid.GetSize()[::-1]
    return ndimage.affine_transform(values, step[::-1], (start - low)[::-1], shape, np.float32, 3, mode="nearest")
