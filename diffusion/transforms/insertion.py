"""A pooled lesion into an array of CT, at any spacing and orientation: fast, for training.

A lesion fills the air of the lung. So the pool keeps, for each voxel of the model's grid, which part f of the way from
the lung to the lesion's tissue T the model went (`opacity`, `tissue_hu`). In another scan with the smooth level s and
the noise n,

    s + n  ->  s + f · max(T - s, 0) + n .

Lung becomes lesion, ground glass keeps what lies behind it, a vessel or the wall stays what it is, and the noise is the
scan's own. What is finer than s and too large for noise, such as a fine vessel, fades by f.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from imaging.boxes import mask_box
from imaging.compositing import composite
from imaging.lesions.patch_sites import TISSUE_HU, PatchLung, near_wall, patch_lung, patch_site
from imaging.noise import clipped_to_noise
from imaging.window import AIR_HU

SOFT_TISSUE_HU = 60.0  # what fills a voxel wholly, unless the lesion is denser
SMOOTH_VOXELS = 1.0  # Gaussian sigma between the level of a scan and its noise
PLACES = 5  # that are tried for a lesion
LEAST_KEPT = 0.5  # share of a lesion that lies in the lung and in the array
APART_MM = 3.0  # from what is labelled already
LARGEST_SCALED = 10.0  # values of an image that is not in HU any more
LUNG_BELOW_HU, USUAL_LUNG_HU = -600.0, -850.0
LEAST_CONTRAST_HU, MOST_EMPTY = 150.0, 0.3  # of a lesion that shows
FAINT = 0.03  # opacity of noise


@dataclass(frozen=True)
class PooledLesion:
    """A lesion without its surroundings, on the model's grid; arrays (D, H, W), z from foot to head.

    Attributes:
        opacity: f, 0 to 1, float16.
        tissue_hu: T, float16.
        mask: Its label, uint8.
        spacing_mm: Of the grid, isotropic.
    """

    opacity: np.ndarray
    tissue_hu: np.ndarray
    mask: np.ndarray
    spacing_mm: float = 1.0

    @property
    def radius_mm(self) -> float:
        """Of the sphere that has its volume."""
        return float(np.cbrt(self.mask.sum() * 3 / (4 * np.pi))) * self.spacing_mm


def pooled_lesion(
    made_hu: np.ndarray, given_hu: np.ndarray, lesion_mask: np.ndarray, spacing_mm: float = 1.0
) -> PooledLesion | None:
    """Take a painted lesion from its surroundings.

    Args:
        made_hu: The crop with the lesion, HU, (D, H, W).
        given_hu: The crop before.
        lesion_mask: The lesion.
        spacing_mm: Of all three, isotropic.
    Returns: The lesion; None where it does not show: its median less than 150 HU above the lung, or three tenths of its
        mask below the middle between the two.
    """
    inside, changed = np.asarray(lesion_mask) > 0, made_hu != given_hu
    box = mask_box(changed | inside, margin=1)
    made, given = (np.asarray(hu[box], np.float32) for hu in (made_hu, given_hu))
    inside, around = inside[box], (~changed & (given_hu < LUNG_BELOW_HU))[box]
    lung_hu = float(np.median(given[around])) if around.any() else USUAL_LUNG_HU
    lesion_hu = float(np.median(made[inside]))
    if lesion_hu - lung_hu < LEAST_CONTRAST_HU or (made[inside] < (lung_hu + lesion_hu) / 2).mean() > MOST_EMPTY:
        return None
    tissue = np.maximum(made, SOFT_TISSUE_HU)
    # in the margin only what the model added to the lung counts, and no vessel that was there before
    before = np.where(inside, lung_hu, np.maximum(ndimage.gaussian_filter(given, SMOOTH_VOXELS), lung_hu))
    opacity = (made - before) / np.maximum(tissue - before, 1.0)
    opacity = np.where(inside, opacity, np.where(changed[box], opacity - FAINT, 0)).clip(0, 1)
    kept = mask_box((opacity > 0) | inside, margin=1)
    return PooledLesion(
        opacity[kept].astype(np.float16), tissue[kept].astype(np.float16), inside[kept].astype(np.uint8), spacing_mm
    )


def insert_lesions(
    ct_hu: np.ndarray,
    labels: np.ndarray | None,
    index_to_mm: np.ndarray,
    lesions: Sequence[PooledLesion],
    rng: np.random.Generator,
    label_value: int | None = 1,
) -> int:
    """Put lesions into an array, in place, each at a place of its own; one that finds no room is left out.

    Args:
        ct_hu: (X, Y, Z) in any order of axes, HU, any real type.
        labels: Same shape; None if there are none.
        index_to_mm: (3, 3), from a step along the axes to mm in the patient's x, y, z (left or right, back, head).
        lesions: To put in.
        rng: Draws place and mirror image.
        label_value: What is written into `labels`; None writes the next number after the largest, an instance each.
    Returns: How many were put in.
    Raises: ValueError: If the values cannot be HU, or a shape does not fit.
    """
    if ct_hu.ndim != 3 or (labels is not None and labels.shape != ct_hu.shape):
        raise ValueError(
            f"image of {ct_hu.shape} voxels, label of {None if labels is None else labels.shape}; expected three axes "
            "and the same grid; put the transform after those that bring both to one grid"
        )
    spacing_mm = np.linalg.norm(index_to_mm, axis=0)
    lung = patch_lung(ct_hu, spacing_mm)
    if lung is None:
        _check_hu(ct_hu)
        return 0
    made = 0
    for lesion in lesions:
        for _ in range(PLACES):
            center = patch_site(lung, lesion.radius_mm, rng)
            if center is None:
                break
            if _inserted(ct_hu, labels, index_to_mm, lesion, center, lung, rng, label_value):
                made += 1
                break
    return made


def _inserted(
    ct_hu: np.ndarray,
    labels: np.ndarray | None,
    index_to_mm: np.ndarray,
    lesion: PooledLesion,
    center: Sequence[float],
    lung: PatchLung,
    rng: np.random.Generator,
    label_value: int | None,
) -> bool:
    """Put a lesion at a place, mirrored and turned by a right angle or not; whether there was room."""
    spacing_mm = np.linalg.norm(index_to_mm, axis=0)
    sources = _sources(index_to_mm, bool(rng.integers(2)))
    sizes = [lesion.opacity.shape[source] for source in sources]
    reach = [size / 2 * lesion.spacing_mm / mm for size, mm in zip(sizes, spacing_mm, strict=True)]
    ends = [
        (max(int(np.floor(at - half)), 0), min(int(np.ceil(at + half)) + 1, size))
        for at, half, size in zip(center, reach, ct_hu.shape, strict=True)
    ]
    box = tuple(slice(*end) for end in ends)
    signs = rng.choice((-1.0, 1.0), 3)
    weights = [
        sampling_weights((np.arange(along.start, along.stop) - at) * mm * sign, mm, size, lesion.spacing_mm)
        for along, at, mm, sign, size in zip(box, center, spacing_mm, signs, sizes, strict=True)
    ]
    inside = _sampled(lesion.mask.transpose(sources), weights)
    if labels is not None:
        taken = labels[box] > 0
        if taken.any():
            near = ndimage.binary_dilation(taken, iterations=max(1, round(APART_MM / float(spacing_mm.min()))))
            if (near & (inside > 0)).any():
                return False
    level = np.maximum(ct_hu[box].astype(np.float32), AIR_HU)
    label = (inside >= 0.5) & ~(near_wall(lung, box) & (level > TISSUE_HU))
    whole = lesion.mask.sum() * lesion.spacing_mm**3 / abs(np.linalg.det(index_to_mm))
    if label.sum() < max(1, LEAST_KEPT * whole):
        return False
    opacity, tissue_hu = (_sampled(one.transpose(sources), weights) for one in (lesion.opacity, lesion.tissue_hu))
    smooth = ndimage.gaussian_filter(level, SMOOTH_VOXELS, truncate=2)
    on = np.nonzero(opacity > 0)
    opacity, tissue_hu, level, smooth = (array[on] for array in (opacity, tissue_hu, level, smooth))
    detail = level - smooth
    change = opacity * (np.maximum(tissue_hu - smooth, 0) + clipped_to_noise(detail) - detail)
    part = ct_hu[box]
    part[on] = composite(part[on], change, np.ones_like(opacity))
    if labels is not None:
        labels[box][label] = int(labels.max()) + 1 if label_value is None else label_value
    return True


def _sources(index_to_mm: np.ndarray, swapped: bool) -> list[int]:
    """Which axis of a pooled lesion (z, y, x) lies along each of the array's; those in the plane may be swapped."""
    along_z = int(np.abs(index_to_mm[2] / np.linalg.norm(index_to_mm, axis=0)).argmax())
    others = [2, 1] if swapped else [1, 2]
    return [0 if axis == along_z else others.pop() for axis in range(3)]


def sampling_weights(positions_mm: np.ndarray, spacing_mm: float, size: int, own_mm: float) -> np.ndarray:
    """How much each voxel of a pooled lesion counts at each position along an axis.

    Linear between the pool's voxels. Where the array's voxels are larger, the mean over the part of a voxel that the
    pool's own does not cover yet (see `imaging.geometry.sample_grid`): thick slices blur a lesion.

    Args:
        positions_mm: From the middle of the lesion, (N,).
        spacing_mm: Of the array along the axis.
        size: Voxels M of the lesion along it.
        own_mm: Of the lesion.
    Returns: float32 (N, M); 0 beyond the lesion.
    """
    width_mm = np.sqrt(max(spacing_mm**2 - own_mm**2, 0.0))
    count = max(1, int(np.ceil(width_mm / own_mm)))
    shifts_mm = width_mm * ((np.arange(count) + 0.5) / count - 0.5)
    at = (positions_mm[:, None] + shifts_mm)[..., None] / own_mm + (size - 1) / 2
    return np.maximum(1 - np.abs(at - np.arange(size)), 0).mean(axis=1).astype(np.float32)


def _sampled(volume: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """A volume at the positions of each axis's weights, one axis after the other."""
    a, b, c = weights
    along = np.tensordot(a, volume.astype(np.float32), axes=1)
    return np.matmul(np.matmul(b, along), c.T)


def _check_hu(ct_hu: np.ndarray) -> None:
    """Raise ValueError for an image without lung whose values have been scaled."""
    low, high = float(ct_hu.min()), float(ct_hu.max())
    if low < high and max(abs(low), abs(high)) <= LARGEST_SCALED:
        raise ValueError(
            f"the image's values span {low:g} to {high:g}, expected a CT in HU; put the transform before those that "
            "scale intensities"
        )
