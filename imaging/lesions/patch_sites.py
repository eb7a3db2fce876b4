"""Places for a lesion in any array of CT, found in milliseconds: a patch or a whole volume, axes in any order.

Training cannot wait for `imaging.semantic_map.lung_mask`, which works slice by slice on the whole scan. Here one
voxel in four millimetres is looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from imaging.lesions.wall_gaps import DEEPEST, TOUCHING_MM, drawn_gaps
from imaging.window import AIR_HU

STEP_MM, MOST_VOXELS = 4.0, 150_000  # of what is looked at; whole volumes get a coarser grid
TISSUE_HU = -500.0  # from here on tissue: wall, vessels, nodules
THICK_MM = 6.0  # tissue thinner than twice as much is a vessel and no wall
DARKEST_LUNG_HU = -930.0  # mean of an air space: air and foam around the patient are darker, emphysema is left out
LEAST_LUNG_MM3 = 2_000.0  # of an air space
FULL_SHARE, FULL_SHARE_AT_WALL = 0.15, 0.4  # of a lesion's place, taken by vessels, and by the wall that it touches
MOST_PLACES, TRIES = 500, 30  # that are ordered, and looked at


class PatchLung(NamedTuple):
    """The lung of an array, on a coarse grid.

    Attributes:
        steps: Voxels of the array per voxel of the grid, along each axis.
        spacing_mm: Of the grid.
        lung: Air of the lung, bool.
        wall: What is neither lung nor a vessel in it, bool.
        clearance_mm: Distance to the wall; beyond the array there is none.
    """

    steps: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    lung: np.ndarray
    wall: np.ndarray
    clearance_mm: np.ndarray


def patch_lung(ct_hu: np.ndarray, spacing_mm: Sequence[float]) -> PatchLung | None:
    """Find the lung.

    Args:
        ct_hu: (D, H, W), HU, in any order of axes.
        spacing_mm: Along each axis.
    Returns: The lung; None where the array shows none.
    """
    extent_mm = np.array(ct_hu.shape) * spacing_mm
    step_mm = max(STEP_MM, float(np.cbrt(np.prod(extent_mm) / MOST_VOXELS)))
    steps = tuple(max(1, round(step_mm / float(mm))) for mm in spacing_mm)
    coarse = np.maximum(ct_hu[tuple(slice(step // 2, None, step) for step in steps)], AIR_HU).astype(np.float32)
    grid_mm = tuple(float(mm) * step for mm, step in zip(spacing_mm, steps, strict=True))
    air = coarse < TISSUE_HU
    spaces, count = ndimage.label(air)
    if not count:
        return None
    sizes = np.bincount(spaces.ravel())
    means = np.bincount(spaces.ravel(), coarse.ravel()) / np.maximum(sizes, 1)
    kept = (sizes * np.prod(grid_mm) >= LEAST_LUNG_MM3) & (means > DARKEST_LUNG_HU)
    kept[0] = False
    lung = kept[spaces]
    if not lung.any():
        return None
    other = ~lung
    thick = other
    for _ in range(max(1, round(THICK_MM / max(grid_mm)))):
        thick = ndimage.binary_erosion(thick, border_value=1)
    wall = ndimage.binary_dilation(thick, iterations=max(1, round(THICK_MM / max(grid_mm))), mask=other)
    clearance_mm = ndimage.distance_transform_edt(~wall, sampling=grid_mm) if wall.any() else np.full(wall.shape, 1e3)
    return PatchLung(steps, grid_mm, lung, wall, clearance_mm)


def patch_site(lung: PatchLung, radius_mm: float, rng: np.random.Generator) -> tuple[float, ...] | None:
    """Draw a place, with a gap to the wall as real nodules have it.

    Args:
        lung: From :func:`patch_lung`.
        radius_mm: Of the sphere that has the lesion's volume.
        rng: Draws.
    Returns: Voxel index of the array, fractional, in its order of axes; None where there is no room.
    """
    places = np.argwhere(lung.lung & (lung.clearance_mm > (1 - DEEPEST) * radius_mm))
    if not len(places):
        return None
    places = places[rng.integers(len(places), size=MOST_PLACES)]
    gap_mm = lung.clearance_mm[tuple(places.T)] - radius_mm
    ball = _ball(radius_mm, lung.spacing_mm)
    shape = np.array(lung.lung.shape)
    for number in drawn_gaps(gap_mm, 2 * radius_mm, rng)[:TRIES]:
        around = places[number] + ball
        seen = around[((around >= 0) & (around < shape)).all(axis=1)]
        full = 1 - lung.lung[tuple(seen.T)].mean()
        if full <= (FULL_SHARE_AT_WALL if gap_mm[number] < TOUCHING_MM else FULL_SHARE):
            within = (places[number] + rng.uniform(-0.5, 0.5, 3)) * lung.steps + np.array(lung.steps) // 2
            return tuple(within.tolist())
    return None


def near_wall(lung: PatchLung, box: Sequence[slice]) -> np.ndarray:
    """Where the voxels of a box of the array lie within a voxel of the grid from the wall, bool, of the box's shape."""
    inner = tuple(
        slice(along.start // step, -(-along.stop // step)) for along, step in zip(box, lung.steps, strict=True)
    )
    near = ndimage.binary_dilation(lung.wall[tuple(slice(max(a.start - 1, 0), a.stop + 1) for a in inner)])
    if not near.any():
        return np.zeros([along.stop - along.start for along in box], bool)
    axes = [
        np.minimum(np.arange(along.start, along.stop) // step - max(part.start - 1, 0), size - 1)
        for along, part, step, size in zip(box, inner, lung.steps, near.shape, strict=True)
    ]
    return near[np.ix_(*axes)]


def _ball(radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Offsets of the voxels of a ball around its centre voxel, (N, 3)."""
    axes = [np.arange(-int(radius_mm // mm), int(radius_mm // mm) + 1) for mm in spacing_mm]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return offsets[np.linalg.norm(offsets * spacing_mm, axis=1) <= radius_mm]
