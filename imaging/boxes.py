"""Boxes of voxels: around a mask, and around a point. Arrays are (D, H, W), boxes their slices (z, y, x)."""

from collections.abc import Sequence

import numpy as np


def mask_box(mask: np.ndarray, margin: int | Sequence[int] = 0) -> tuple[slice, ...]:
    """The smallest box that holds all voxels of a mask, with a margin as far as the volume goes.

    Args:
        mask: Of any number of axes; not 0 inside.
        margin: Voxels before and behind the mask, one number or one for each axis.
    Returns: A slice for each axis, within the array.
    Raises: ValueError: If the mask is empty.
    """
    inside = np.asarray(mask) != 0
    margins = np.broadcast_to(np.asarray(margin, int), inside.ndim).tolist()
    box = []
    for axis, (size, around) in enumerate(zip(inside.shape, margins, strict=True)):
        occupied = np.flatnonzero(inside.any(axis=tuple(other for other in range(inside.ndim) if other != axis)))
        if not len(occupied):
            raise ValueError("the lesion mask is empty, expected at least one voxel above 0")
        first, last = int(occupied[0]), int(occupied[-1]) + 1
        inside = inside[(slice(None),) * axis + (slice(first, last),)]  # the other axes then have less to look at
        box.append(slice(max(first - around, 0), min(last + around, size)))
    return tuple(box)


def point_box(
    shape: Sequence[int], index_zyx: Sequence[float], reach_mm: float, spacing_mm: Sequence[float]
) -> tuple[slice, slice, slice]:
    """The box of all voxels within `reach_mm` of a point along each axis, as far as the volume goes.

    Args:
        shape: (D, H, W) of the volume.
        index_zyx: The point as a voxel index, which may be fractional.
        reach_mm: To either side.
        spacing_mm: (z, y, x).
    """
    geometry = zip(index_zyx, spacing_mm, shape, strict=True)
    ends = [(max(int(at - reach_mm / mm), 0), min(int(at + reach_mm / mm) + 2, size)) for at, mm, size in geometry]
    z, y, x = (slice(*end) for end in ends)
    return z, y, x
