"""From the readers' outlines to nodules: rasterise, group the marks of one nodule, agree on a mask, mean the ratings.

LIDC outlines run through the first pixels *outside* the nodule, for nodules and for holes alike (Armato et al. 2011,
section II.C), so an outline's own pixels never belong to the nodule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from skimage.draw import line, polygon

from imaging.boxes import mask_box
from imaging.lidc.xml import RATING_ELEMENTS, Contour, Mark
from imaging.option_types import MaskPolicy


@dataclass(frozen=True)
class ReaderMask:
    """One reader's nodule as voxels.

    Attributes:
        mark: The outlines and ratings it comes from.
        start: First voxel of the box in the scan, (z, y, x).
        mask: Tight box of the nodule, bool (d, h, w).
    """

    mark: Mark
    start: tuple[int, int, int]
    mask: np.ndarray


@dataclass(frozen=True)
class Nodule:
    """The marks of one physical nodule and the mask agreed from them.

    Attributes:
        readers: One entry for each reader who marked it, in the order of the reading sessions.
        start: First voxel of `mask` in the scan, (z, y, x).
        mask: bool (d, h, w); the box that holds all readers' masks.
        ratings: Mean of each rating over the readers who gave it; None if nobody did.
    """

    readers: tuple[ReaderMask, ...]
    start: tuple[int, int, int]
    mask: np.ndarray
    ratings: dict[str, float | None]


def interior(points_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels strictly inside an outline, and the pixels of the outline.

    The outline is closed and, where its points are not neighbours, joined by straight lines of pixels.

    Args:
        points_xy: Pixel indices (column, row), (N, 2) int.
    Returns: (inside, on): bool images (h, w) of the outline's bounding box, and the box's first (row, column).
    """
    low_xy = points_xy.min(axis=0)
    cols, rows = (points_xy - low_xy).T
    shape = (int(rows.max()) + 1, int(cols.max()) + 1)
    filled, on = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    filled[polygon(rows, cols, shape)] = True
    for begin, end in zip(np.roll(points_xy - low_xy, 1, axis=0), points_xy - low_xy, strict=True):
        on[line(begin[1], begin[0], end[1], end[0])] = True
    return filled & ~on, on, low_xy[::-1]


def rasterise(
    mark: Mark, slice_index: Callable[[Contour], int], shape: Sequence[int]
) -> tuple[ReaderMask, tuple[str, ...]]:
    """Voxels of one reader's nodule: inside its outlines, holes with their outlines taken away.

    Args:
        mark: The reader's outlines.
        slice_index: Gives the z index of a contour's slice; raises ValueError for a slice the scan does not have.
        shape: Scan size (D, H, W) in voxels.
    Returns: The mask in its tight box, and a sentence for each single outline that encloses no pixel.
    Raises: ValueError: If an outline leaves the image or lies on no slice, or if no voxel is enclosed at all.
    """
    insides: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    holes: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    empty = []
    for contour in mark.contours:
        z = slice_index(contour)
        low, high = contour.points_xy.min(axis=0), contour.points_xy.max(axis=0)
        if low.min() < 0 or high[0] >= shape[2] or high[1] >= shape[1]:
            raise ValueError(
                f"outline outside the image: columns {low[0]}..{high[0]}, rows {low[1]}..{high[1]}, "
                f"expected within {shape[2]} columns and {shape[1]} rows"
            )
        inside, on, corner = interior(contour.points_xy)
        if contour.inclusion:
            insides.setdefault(z, []).append((inside, corner))
            if not inside.any():
                empty.append(f"outline of {len(contour.points_xy)} points on slice {z} encloses no pixel")
        else:
            holes.setdefault(z, []).append((inside | on, corner))

    volume = np.zeros((max(insides) - min(insides) + 1, *shape[1:]), dtype=bool) if insides else np.zeros((0, 1, 1))
    first = min(insides, default=0)
    for parts, value in ((insides, True), (holes, False)):
        for z, images in parts.items():
            if z not in insides:
                continue  # a hole on a slice without outline has nothing to be taken from
            for image, (row, col) in images:
                box = volume[z - first, row : row + image.shape[0], col : col + image.shape[1]]
                box[image] = value
    if not volume.any():
        raise ValueError("zero area: its outlines enclose no pixel")
    slices = mask_box(volume)
    start = (first + slices[0].start, slices[1].start, slices[2].start)
    return ReaderMask(mark, start, volume[slices].copy()), tuple(empty)


def overlap(a: ReaderMask, b: ReaderMask) -> float:
    """Dice coefficient of two masks given in boxes of the same scan."""
    low = np.maximum(a.start, b.start)
    high = np.minimum(np.add(a.start, a.mask.shape), np.add(b.start, b.mask.shape))
    if (low >= high).any():
        return 0.0
    common = [
        box.mask[tuple(slice(int(l - s), int(h - s)) for l, h, s in zip(low, high, box.start, strict=True))]
        for box in (a, b)
    ]
    return 2.0 * float((common[0] & common[1]).sum()) / float(a.mask.sum() + b.mask.sum())


def group_marks(masks: Sequence[ReaderMask]) -> list[list[ReaderMask]]:
    """Put the marks of one physical nodule together.

    Marks of different readers that share a voxel are joined, best overlap first, as long as no reader would be in a
    group twice; so a chain of touching nodules is not swallowed by one generous reader.

    Args:
        masks: All marks of one scan.
    Returns: Groups in the order of their first mark; inside a group the readers' order.
    """
    group_of = list(range(len(masks)))
    pairs = [(overlap(masks[i], masks[j]), i, j) for i, j in combinations(range(len(masks)), 2)]
    for dice, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        if dice == 0.0:
            break
        members = [k for k, group in enumerate(group_of) if group in (group_of[i], group_of[j])]
        if len({masks[k].mark.reader for k in members}) == len(members):
            for k in members:
                group_of[k] = min(members)
    groups: dict[int, list[ReaderMask]] = {}
    for mask, group in zip(masks, group_of, strict=True):
        groups.setdefault(group, []).append(mask)
    return [sorted(group, key=lambda mask: mask.mark.reader) for group in groups.values()]


def agree(group: Sequence[ReaderMask], policy: MaskPolicy = "consensus", level: float = 0.5) -> Nodule:
    """One nodule from the marks of one group.

    Args:
        group: Marks of one nodule, one a reader.
        policy: "consensus": voxels marked by at least `level` of the readers who marked this nodule; "union": by any
            of them; "single": by the first of them. "half_maximum" is the consensus here: its border is redrawn where
            the CT is at hand (`imaging.dataset.outlined`).
        level: Share of readers in (0, 1], for "consensus".
    Returns: The nodule; its mask may be empty where the readers agree on no voxel.
    Raises: ValueError: If the level is outside (0, 1] or the policy is unknown.
    """
    if not 0.0 < level <= 1.0:
        raise ValueError(
            f"consensus level {level}, expected above 0 and at most 1; use the union policy for any reader"
        )
    start = np.min([member.start for member in group], axis=0)
    stop = np.max([np.add(member.start, member.mask.shape) for member in group], axis=0)
    votes = np.zeros(stop - start, dtype=np.int64)
    first = np.zeros(stop - start, dtype=bool)
    for number, member in enumerate(group):
        low = np.subtract(member.start, start)
        box = tuple(slice(int(l), int(l + n)) for l, n in zip(low, member.mask.shape, strict=True))
        votes[box] += member.mask
        if number == 0:
            first[box] = member.mask
    if policy in ("consensus", "half_maximum"):
        mask = votes >= level * len(group) - 1e-9
    elif policy == "union":
        mask = votes > 0
    elif policy == "single":
        mask = first
    else:
        raise ValueError(f"mask policy {policy!r}, expected half_maximum, consensus, union or single")
    ratings: dict[str, float | None] = {}
    for name in RATING_ELEMENTS:
        given = [value for member in group if (value := member.mark.ratings[name]) is not None]
        ratings[name] = float(np.mean(given)) if given else None
    return Nodule(tuple(group), (int(start[0]), int(start[1]), int(start[2])), mask, ratings)
