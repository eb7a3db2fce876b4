"""Resampled variants of a nodule: one interpolation from a fine grid to the model's, which turns, zooms and bends it.

A prepared dataset on a finer grid than the model's keeps what an interpolation would soften; each variant is sampled
from there once, by cubic splines, after the smoothing that widens the fine grid's point spread to the model's.

Zoom, density, sharpness and bending change how a lesion looks. The network must learn from such images and not paint
them: they are conditions of the denoiser, 0 for plain images. This is non-leaky augmentation (Karras et al. 2022,
"Elucidating the design space of diffusion-based generative models", appendix F.2). Turns and flips of a CT look like
another CT and need no condition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from imaging.window import AIR_HU

AUGMENTATION = ("zoom", "density_shift", "sharpness", "elastic")  # columns of the encoded dataset, 0 for plain images

ZOOM_RANGE = (0.7, 1.4)
TILT_DEGREES = 10.0  # standard deviation is half of it; cut off at it
ELASTIC_MM = 1.5  # standard deviation of the bending at strength 1
ELASTIC_KNOTS = 5  # along each axis of the crop
DENSITY_SHIFT_HU = 30.0
DENSITY_UNIT_HU = 50.0
DENSE_HU = (0.0, 200.0)  # the shift fades out between: bone and calcification stay
SHARPNESS_SIGMA = 0.5  # voxels, at sharpness -1 and 1
ZOOMED_SHARE, OTHER_SHARE = 0.7, 0.5  # of the variants that are zoomed, and that each of the others applies to
SMALLEST_MM, FREE_MM = 3.0, 4.0  # of a zoomed lesion; beside the largest on each side
FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True)
class Deformation:
    """How a variant differs from the nodule it is made of.

    Attributes:
        zoom: Factor of its size; above 1 the lesion grows.
        rotation: (3, 3), of the crop around its centre, z, y, x; may mirror.
        knots_mm: Displacement at the knots of a regular grid over the crop, (3, K, K, K); None bends nothing.
        elastic: Strength of the bending, 0 to 1.
        density_shift_hu: Added below `DENSE_HU`.
        sharpness: Below 0 blurred, above 0 sharpened, by Gaussians of `SHARPNESS_SIGMA` times it.
    """

    zoom: float = 1.0
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    knots_mm: np.ndarray | None = None
    elastic: float = 0.0
    density_shift_hu: float = 0.0
    sharpness: float = 0.0

    def conditions(self) -> dict[str, float]:
        """The columns of `AUGMENTATION`."""
        values = (np.log2(self.zoom), self.density_shift_hu / DENSITY_UNIT_HU, self.sharpness, self.elastic)
        return {name: float(value) for name, value in zip(AUGMENTATION, values, strict=True)}


def draw_deformation(
    random: np.random.Generator, flips: str, extent_mm: float, diameter_mm: float, field_mm: float
) -> Deformation:
    """A random deformation: any angle in the plane, a small tilt, and some of zoom, bending, density and sharpness.

    Args:
        random: Of the variant.
        flips: Axes to mirror, of "zyx".
        extent_mm: Longest side of the lesion's box; it is not zoomed beyond the crop.
        diameter_mm: Of the lesion; it is not zoomed below `SMALLEST_MM`.
        field_mm: Side of the model's crop.
    """
    angle = random.uniform(0, 360)
    tilts = np.clip(random.normal(0, TILT_DEGREES / 2, 2), -TILT_DEGREES, TILT_DEGREES)
    turned = Rotation.from_euler("ZYX", [angle, *tilts], degrees=True).as_matrix()[::-1, ::-1]  # to z, y, x
    mirrored = np.diag([-1.0 if axis in flips else 1.0 for axis in "zyx"])
    zoomed, bent, shifted, sharpened = random.random(4) < (ZOOMED_SHARE, OTHER_SHARE, OTHER_SHARE, OTHER_SHARE)
    low = max(ZOOM_RANGE[0], min(1.0, SMALLEST_MM / diameter_mm))
    high = min(ZOOM_RANGE[1], max(1.0, (field_mm - 2 * FREE_MM) / extent_mm))
    zoom = 2 ** random.uniform(np.log2(low), np.log2(high))
    elastic, density, sharpness = random.uniform((0, -1, -1), 1)
    knots_mm = random.normal(0, ELASTIC_MM, (3, *[ELASTIC_KNOTS] * 3))
    return Deformation(
        zoom if zoomed else 1.0,
        mirrored @ turned,
        elastic * knots_mm if bent else None,
        elastic if bent else 0.0,
        DENSITY_SHIFT_HU * density if shifted else 0.0,
        sharpness if sharpened else 0.0,
    )


def resampled(
    nodule: Mapping[str, Any], deformation: Deformation, size: int, spacing_mm: float
) -> dict[str, np.ndarray]:
    """A nodule's arrays on the model's grid, deformed.

    What lies outside the nodule's own crop repeats its edge and is not valid.

    Args:
        nodule: `ct_hu`, `valid_mask`, and masks of the lesion, each (N, N, N); `spacing_mm`, isotropic. `slice_mm`, the
            slice distance of its scan, keeps z from being smoothed more than its slices did.
        deformation: `Deformation()` resamples only.
        size: S, edge of the model's crop.
        spacing_mm: Of the model's grid, not finer than the nodule's.
    Returns: `ct_hu` int16, and uint8 `valid_mask`, `lesion_mask`, `solid_mask`, each (S, S, S).
    """
    own_mm = float(nodule["spacing_mm"][0])
    step = spacing_mm / own_mm / deformation.zoom  # source voxels per voxel of the model's grid
    slice_mm = np.fmax(nodule.get("slice_mm", np.nan), own_mm)  # what is in thick slices is as wide already
    own = np.array([slice_mm, own_mm, own_mm]) / own_mm
    sigma = np.sqrt(np.maximum(step**2 - own**2, 0)) / FWHM_PER_SIGMA
    source_hu = ndimage.gaussian_filter(np.asarray(nodule["ct_hu"], np.float32), sigma, mode="nearest")
    sample = _sampler(source_hu.shape, deformation, size, spacing_mm, step)

    ct_hu = sample(source_hu, 3, "nearest")
    ct_hu = sharpened(shifted_density(ct_hu, deformation.density_shift_hu), deformation.sharpness)
    valid_mask = sample(np.asarray(nodule["valid_mask"], np.float32), 1, "constant") >= 0.5
    weight = sample(np.asarray(nodule["lesion_mask"], np.float32), 1, "constant") * valid_mask
    lesion_mask = weight >= min(0.5, float(weight.max()))  # a lesion of few voxels must not vanish
    solid, whole = np.asarray(nodule["solid_mask"]), np.asarray(nodule["lesion_mask"])
    if np.array_equal(solid, whole):
        solid_mask = lesion_mask
    else:
        solid_mask = lesion_mask & (sample(solid.astype(np.float32), 1, "constant") >= 0.5)
    masks = {"valid_mask": valid_mask, "lesion_mask": lesion_mask, "solid_mask": solid_mask}
    return {
        "ct_hu": np.rint(np.clip(ct_hu, AIR_HU, np.iinfo(np.int16).max)).astype(np.int16),
        **{name: mask.astype(np.uint8) for name, mask in masks.items()},
    }


def shifted_density(ct_hu: np.ndarray, shift_hu: float) -> np.ndarray:
    """HU shifted below `DENSE_HU`, not above, fading between; air is not lowered below -1024."""
    if shift_hu == 0:
        return ct_hu
    share = np.clip((DENSE_HU[1] - ct_hu) / (DENSE_HU[1] - DENSE_HU[0]), 0, 1)
    return np.maximum(ct_hu + shift_hu * share, AIR_HU)


def sharpened(ct_hu: np.ndarray, sharpness: float) -> np.ndarray:
    """A reconstruction kernel that is a little softer (below 0: Gaussian blur) or harder (above 0: unsharp mask)."""
    if sharpness == 0:
        return ct_hu
    blurred = ndimage.gaussian_filter(ct_hu, SHARPNESS_SIGMA * abs(sharpness), mode="nearest")
    return blurred if sharpness < 0 else 2 * ct_hu - blurred


def _sampler(shape: Sequence[int], deformation: Deformation, size: int, spacing_mm: float, step: float):
    """A function (array, order, mode) -> its values on the model's grid, (size,) * 3 float32."""
    matrix = deformation.rotation * step
    centre, target_centre = (np.array(shape) - 1) / 2, np.full(3, (size - 1) / 2)
    if deformation.knots_mm is None:
        offset = centre - matrix @ target_centre

        def sample_affine(array: np.ndarray, order: int, mode: str) -> np.ndarray:
            return ndimage.affine_transform(array, matrix, offset, (size,) * 3, np.float32, order, mode=mode)

        return sample_affine
    bend = np.stack([_smooth_field(knots, size) for knots in deformation.knots_mm]) / spacing_mm
    places = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij")) + bend
    coordinates = np.tensordot(matrix, places, 1) + centre[:, None, None, None]

    def sample_bent(array: np.ndarray, order: int, mode: str) -> np.ndarray:
        return ndimage.map_coordinates(array, coordinates, np.float32, order, mode=mode)

    return sample_bent


def _smooth_field(knots: np.ndarray, size: int) -> np.ndarray:
    """Knots (K, K, K) interpolated by cubic splines to (size,) * 3, 0 at the centre, where the lesion is."""
    spline = CubicSpline(np.linspace(0, 1, len(knots)), np.eye(len(knots)))(np.linspace(0, 1, size))
    values = np.einsum("za,yb,xc,abc->zyx", spline, spline, spline, knots, optimize=True)
    return values - values[(size // 2,) * 3]
