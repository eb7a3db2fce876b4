"""A model's grid around a point of a scan, and the way back.

Geometry lives in `SimpleITK.Image`. Points are physical, (x, y, z) in mm, in the DICOM patient frame as SimpleITK
gives them; arrays, sizes, indices and spacings are (z, y, x), as everywhere else.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import SimpleITK as sitk

from imaging.boxes import mask_box
from imaging.compositing import composite, edge_weight
from imaging.noise import clipped_to_noise
from imaging.window import AIR_HU

SAME_GRID_MM = 0.01  # NIfTI stores its geometry in float32
FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))
REPLACED_HU = 100.0  # change from which on nothing is left of what was there


def point_of_index(image: sitk.Image, index_zyx: Sequence[float]) -> tuple[float, ...]:
    """Physical point (x, y, z) in mm of a voxel index (z, y, x), which may be fractional."""
    return image.TransformContinuousIndexToPhysicalPoint([float(i) for i in reversed(index_zyx)])


def index_of_point(image: sitk.Image, point_xyz_mm: Sequence[float]) -> tuple[float, ...]:
    """Fractional voxel index (z, y, x) of a physical point (x, y, z) in mm."""
    return tuple(reversed(image.TransformPhysicalPointToContinuousIndex([float(x) for x in point_xyz_mm])))


def index_in_scan(
    image: sitk.Image, point_mm: Sequence[float], frame: Literal["LPS", "RAS"] = "LPS"
) -> tuple[float, float, float]:
    """Voxel index (z, y, x) of a physical point, which must lie in the image.

    Args:
        image: 3D image.
        point_mm: (x, y, z).
        frame: Where x and y grow: "LPS", to the patient's left and back, as in DICOM and SimpleITK; or "RAS", to the
            right and front, as in NIfTI, 3D Slicer and MONAI.
    Raises: ValueError: If the point lies outside.
    """
    x, y, z = point_mm
    index = index_of_point(image, (-x, -y, z) if frame == "RAS" else (x, y, z))
    if not all(-0.5 <= at <= size - 0.5 for at, size in zip(index, image.GetSize()[::-1], strict=True)):
        raise ValueError(
            f"center {_rounded(point_mm)} mm ({frame}) is voxel {_rounded(index)} (z, y, x), outside the scan of "
            f"{image.GetSize()[::-1]} voxels; check it, and whether it is in {'RAS' if frame == 'LPS' else 'LPS'}"
        )
    return (index[0], index[1], index[2])


def mask_centroid(mask_image: sitk.Image) -> tuple[float, ...]:
    """Physical centroid (x, y, z) in mm of the voxels above 0.

    Raises: ValueError: If there is none.
    """
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask_image) > 0)
    if len(indices) == 0:
        raise ValueError("the lesion mask is empty, expected at least one voxel above 0")
    return point_of_index(mask_image, indices.mean(axis=0))


def sample_grid(
    image: sitk.Image,
    point_xyz_mm: Sequence[float],
    size: int | Sequence[int],
    spacing_mm: float | Sequence[float] | None,
    fill_hu: float | None = None,
    order: Literal["linear", "nearest"] = "linear",
) -> tuple[np.ndarray, np.ndarray, sitk.Image]:
    """Sample a grid centred on a point, along the image's own axes.

    Values below air are raised to it first, so that a scanner's padding of -2000 HU and below does not bleed into its
    neighbours. Outside the image the nearest voxel's value is repeated: a wall of air where a scan ends is an edge that
    is not in the patient, and a network sees it from inside. Linear sampling at a coarser spacing would alias noise
    into texture that is not there; each such axis is first smoothed by the Gaussian that widens the image's point
    spread to the grid's (Cardoso et al. 2015, "Scale factor point spread function matching": FWHM² = spacing_grid² -
    spacing_image²). On an axis whose spacing is the image's own, the centre moves by up to half a voxel onto the
    image's voxels, so that values are copied and keep their noise.

    Args:
        image: 3D scalar image, HU.
        point_xyz_mm: Physical point (x, y, z); must lie inside the image.
        size: Voxels, one number or (D, H, W).
        spacing_mm: One number or (z, y, x); None keeps the image's own.
        fill_hu: Value of the grid outside the image; None repeats the image's edge.
        order: "linear", or "nearest" without smoothing, for label images, whose values stay as they are.
    Returns:
        `ct_hu` float32 (D, H, W); `valid_mask` uint8 (D, H, W), 0 where the grid reaches outside the image; and
        the grid itself as an image that carries `ct_hu` and its geometry.
    Raises: ValueError: If the image is not 3D and scalar, size or spacing are not positive, or the point lies outside.
    """
    size_zyx, spacing, start = _grid_on(image, point_xyz_mm, size, spacing_mm)
    step = spacing / np.array(image.GetSpacing()[::-1])
    extent = np.array(image.GetSize()[::-1])
    margin = np.ceil(3 * step) + 1  # more than three sigmas of the smoothing below
    lower = np.clip(np.floor(start - margin), 0, extent - 1).astype(int)
    upper = np.clip(np.ceil(start + step * (size_zyx - 1) + margin) + 1, lower + 1, extent).astype(int)
    region = image[tuple(slice(int(a), int(b)) for a, b in zip(lower[::-1], upper[::-1], strict=True))]
    inside = sitk.Image(region.GetSize(), sitk.sitkUInt8) + 1
    inside.CopyInformation(region)
    region = sitk.Cast(region, sitk.sitkFloat32)
    if order == "linear":
        region = _widen_point_spread(sitk.Maximum(region, AIR_HU), spacing)

    resample = sitk.ResampleImageFilter()
    resample.SetSize(size_zyx[::-1].tolist())
    resample.SetOutputSpacing(spacing[::-1].tolist())
    resample.SetOutputOrigin(point_of_index(image, start.tolist()))
    resample.SetOutputDirection(image.GetDirection())
    resample.SetInterpolator(sitk.sitkNearestNeighbor)
    valid_mask = sitk.GetArrayFromImage(resample.Execute(inside))
    resample.SetInterpolator(sitk.sitkLinear if order == "linear" else sitk.sitkNearestNeighbor)
    if fill_hu is None:
        resample.SetUseNearestNeighborExtrapolator(True)
    else:
        resample.SetDefaultPixelValue(fill_hu)
    grid = resample.Execute(region)
    return sitk.GetArrayFromImage(grid), valid_mask, grid


def empty_grid(
    image: sitk.Image, point_xyz_mm: Sequence[float], size: int | Sequence[int], spacing_mm: float | Sequence[float]
) -> sitk.Image:
    """The grid of :func:`sample_grid` with its geometry and no values (uint8 zeros); arguments and errors as there."""
    size_zyx, spacing, start = _grid_on(image, point_xyz_mm, size, spacing_mm)
    grid = sitk.Image(size_zyx[::-1].tolist(), sitk.sitkUInt8)
    grid.SetSpacing(spacing[::-1].tolist())
    grid.SetOrigin(point_of_index(image, start.tolist()))
    grid.SetDirection(image.GetDirection())
    return grid


def _grid_on(
    image: sitk.Image,
    point_xyz_mm: Sequence[float],
    size: int | Sequence[int],
    spacing_mm: float | Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size and spacing of a grid centred on a point, and the image's index of its first voxel; each (3,), z, y, x."""
    _check_scalar_3d(image, "image")
    size_zyx = np.broadcast_to(np.asarray(size, int), 3)
    own = np.array(image.GetSpacing()[::-1])
    spacing = own if spacing_mm is None else np.broadcast_to(np.asarray(spacing_mm, float), 3)
    if not (np.all(size_zyx > 0) and np.all(spacing > 0)):
        raise ValueError(f"size {size} voxels at spacing_mm {spacing_mm}, expected positive numbers (z, y, x)")
    centre = np.array(index_of_point(image, point_xyz_mm))
    extent = np.array(image.GetSize()[::-1])
    if np.any(centre < -0.5) or np.any(centre > extent - 0.5):
        raise ValueError(
            f"point {_rounded(point_xyz_mm)} mm (x, y, z) is voxel {_rounded(centre)} (z, y, x), outside the image "
            f"of {tuple(extent.tolist())} voxels; give a physical point inside the scan"
        )
    step = spacing / own
    start = centre - step * (size_zyx - 1) / 2
    start = np.where(np.isclose(step, 1, rtol=1e-4), np.rint(start), start)
    return size_zyx, spacing, start


def sample_mask(mask_image: sitk.Image, grid: sitk.Image) -> np.ndarray:
    """Bring a lesion mask to a grid: linear interpolation of the binary mask, 1 from 0.5 on, 0 outside the image.

    Linear with a threshold keeps the volume as nearest does, and turns the steps of thick slices into slopes; no
    smoothing comes first, because it would shrink a lesion of few voxels.

    Args:
        mask_image: 3D image, lesion above 0.
        grid: Image whose geometry is asked for, such as the one of `sample_grid`.
    Returns: `lesion_mask` uint8 (D, H, W).
    """
    _check_scalar_3d(mask_image, "mask")
    weight = sitk.Resample(mask_image > 0, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return (sitk.GetArrayViewFromImage(weight) >= 0.5).astype(np.uint8)


def paste_difference(
    image: sitk.Image,
    grid: sitk.Image,
    difference_hu: np.ndarray,
    weight_image: sitk.Image,
    order: Literal["linear", "bspline"] = "linear",
    sampled_hu: np.ndarray | None = None,
) -> sitk.Image:
    """Add a change made on a grid to the scan it was sampled from, inside a mask only.

    Only the difference is resampled, so the scan's own noise stays; voxels of weight 0 are bit-identical. Where the
    scan is coarser than the grid (thick slices), the difference is first smoothed as in `sample_grid`.

    Args:
        image: Scan, 3D scalar, HU.
        grid: Grid of `sample_grid`.
        difference_hu: (D, H, W) on that grid, generated minus sampled, HU.
        weight_image: Weights in [0, 1] on the scan's voxels: a lesion mask, or `soft_edge` of one.
        order: Interpolation; "bspline" (cubic) keeps more of fine texture, and can overshoot beside steep edges.
        sampled_hu: What was sampled on the grid, (D, H, W). Given, the scan's own detail, which the grid is too coarse
            for, stays as far as it can be noise (3 robust standard deviations) where the change is large: a fine vessel
            that is painted over does not shine through.
    Returns: A new image of the scan's pixel type, geometry and metadata, composed as `imaging.compositing.composite`.
    Raises: ValueError: If shapes or geometries do not fit, the difference is not finite, the weights are all 0 or
        leave [0, 1], or they reach outside the grid.
    """
    _check_scalar_3d(image, "image")
    if difference_hu.shape != grid.GetSize()[::-1]:
        raise ValueError(f"difference_hu has shape {difference_hu.shape}, expected the grid's {grid.GetSize()[::-1]}")
    if not np.isfinite(difference_hu).all():
        raise ValueError("difference_hu has NaN or infinite values, expected finite HU")
    check_same_grid(weight_image, image, "weight_image")
    box = bounding_box(weight_image)
    weights = sitk.GetArrayFromImage(weight_image[box]).astype(np.float32)
    if weights.min() < 0 or weights.max() > 1:
        raise ValueError(f"weight_image spans {weights.min()} ... {weights.max()}, expected weights in [0, 1]")
    native = image[box]

    inside = _resample_like(sitk.Image(grid.GetSize(), sitk.sitkUInt8) + 1, grid, native, sitk.sitkNearestNeighbor)
    outside = np.count_nonzero((inside == 0) & (weights > 0))
    if outside:
        raise ValueError(
            f"{outside} voxels of weight_image lie outside the grid of {grid.GetSize()[::-1]} voxels at "
            f"{_rounded(grid.GetSpacing()[::-1])} mm; make the grid larger or the lesion smaller"
        )
    interpolator = sitk.sitkLinear if order == "linear" else sitk.sitkBSpline

    def on_scan(values_hu: np.ndarray) -> np.ndarray:
        values = sitk.GetImageFromArray(np.asarray(values_hu, np.float32))
        values.CopyInformation(grid)
        return _resample_like(
            _widen_point_spread(values, np.array(image.GetSpacing()[::-1])), grid, native, interpolator
        )

    change_hu = on_scan(difference_hu)
    if sampled_hu is not None:
        detail_hu = np.maximum(sitk.GetArrayFromImage(native).astype(np.float32), AIR_HU) - on_scan(sampled_hu)
        replaced = np.minimum(np.abs(change_hu) / REPLACED_HU, 1)
        change_hu = change_hu + replaced * (clipped_to_noise(detail_hu) - detail_hu)
    patch = sitk.GetImageFromArray(composite(sitk.GetArrayFromImage(native), change_hu, weights))
    result = sitk.Image(image)
    result[box] = patch
    for key in image.GetMetaDataKeys():
        result.SetMetaData(key, image.GetMetaData(key))
    return result


def soft_edge(mask_image: sitk.Image, blend_mm: float) -> sitk.Image:
    """`imaging.compositing.edge_weight` of a mask image, for `paste_difference` without a visible seam.

    Args:
        mask_image: 3D image, lesion above 0.
        blend_mm: Width of the edge, mm; 0 gives the mask itself.
    Returns: Image of the mask's geometry, float32 in [0, 1].
    Raises: ValueError: If the mask is not 3D, or the width is negative or not finite.
    """
    _check_scalar_3d(mask_image, "mask")
    mask = sitk.GetArrayViewFromImage(mask_image)
    result = sitk.GetImageFromArray(edge_weight(mask, mask_image.GetSpacing()[::-1], blend_mm))
    result.CopyInformation(mask_image)
    return result


def bounding_box(mask_image: sitk.Image) -> tuple[slice, slice, slice]:
    """Slices (x, y, z), as SimpleITK indexes, around the voxels that are not 0. Raises ValueError: If there is none."""
    z, y, x = mask_box(sitk.GetArrayViewFromImage(mask_image))
    return x, y, z


def check_same_grid(image: sitk.Image, reference: sitk.Image, name: str) -> None:
    """Refuse an image whose voxels are not those of another: its size, or a corner's place by more than 0.01 mm.

    Args:
        image: 3D image to check.
        reference: 3D image it should lie on.
        name: How the message names `image`: a file, or an argument.
    Raises: ValueError: Saying how far apart they are.
    """
    if image.GetSize() != reference.GetSize():
        raise ValueError(
            f"{name}: {image.GetSize()[::-1]} voxels (z, y, x), but the CT has {reference.GetSize()[::-1]}; expected "
            "the same grid; resample it to the CT"
        )
    far = np.array(reference.GetSize()) - 1
    corners = [np.where(axis, far, 0).tolist() for axis in (*np.eye(3, dtype=bool), np.zeros(3, bool))]
    apart_mm = max(
        np.linalg.norm(
            np.subtract(image.TransformIndexToPhysicalPoint(corner), reference.TransformIndexToPhysicalPoint(corner))
        )
        for corner in corners
    )
    if apart_mm > SAME_GRID_MM:
        raise ValueError(
            f"{name}: its corners lie up to {apart_mm:.2f} mm from the CT's, expected the same grid; resample it to "
            "the CT"
        )


def _resample_like(image: sitk.Image, geometry: sitk.Image, target: sitk.Image, interpolator: int) -> np.ndarray:
    """Values of `image`, placed by `geometry`, at the target's voxels; 0 outside. (D, H, W) of the target."""
    image.CopyInformation(geometry)
    return sitk.GetArrayFromImage(sitk.Resample(image, target, sitk.Transform(), interpolator, 0))


def _widen_point_spread(image: sitk.Image, spacing_mm: np.ndarray) -> sitk.Image:
    """Gaussian smoothing along the axes on which `spacing_mm` (z, y, x) is coarser than the image's."""
    own = np.array(image.GetSpacing()[::-1])
    variance = np.maximum(spacing_mm**2 - own**2, 0) / FWHM_PER_SIGMA**2
    for axis in np.flatnonzero(variance > (0.01 * own) ** 2):
        along = np.zeros(3)
        along[2 - axis] = variance[axis]
        image = sitk.DiscreteGaussian(image, along.tolist(), maximumKernelWidth=64, maximumError=1e-4)
    return image


def _check_scalar_3d(image: sitk.Image, name: str) -> None:
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(
            f"{name} has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} components per "
            "voxel, expected a 3D image of one component"
        )


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(v), 2) for v in values)
