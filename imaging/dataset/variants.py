"""Variants of a nodule for stage 2: turned, its surroundings partly unknown, the painted region drawn differently.

`imaging.dataset.augmentation` makes more of them from a finer grid. All are made in voxels and encoded each by itself,
because the latent of a flipped crop is not the flipped latent, and a blanked crop's latent depends on what is blanked.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from imaging.boxes import mask_box
from imaging.lesions.mask import grown_mask

SYMMETRIES = tuple(
    (flips, turned) for flips in ("", "z", "y", "x", "zy", "zx", "yx", "zyx") for turned in (False, True)
)
ARRAYS = ("ct_hu", "lesion_mask", "solid_mask", "valid_mask")
UNKNOWN_SHARE = 0.35  # of the crops that the scan fills: how many lose their surroundings
MARGIN_RANGE_MM = (0.0, 10.0)  # what is left of them on each side of the lesion
USUAL_SHARE, FOREIGN_SHARE = 0.5, 0.15  # of the variants: painted with the usual margin, joined with another's mask
MARGIN_CHANGE_MM = 2.0


def turned_array(array: np.ndarray, flips: str, turned: bool) -> np.ndarray:
    """(D, H, W), flipped along the axes named and, if `turned`, with y and x exchanged: with flips, a quarter turn."""
    array = np.flip(array, tuple("zyx".index(axis) for axis in flips))
    return np.ascontiguousarray(array.swapaxes(1, 2) if turned else array)


def without_surroundings(
    ct_hu: np.ndarray, valid_mask: np.ndarray, lesion_mask: np.ndarray, margins: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of which only a box around the lesion is known; the rest repeats the box's edge, as where a scan ends.

    Args:
        ct_hu, valid_mask, lesion_mask: (D, H, W).
        margins: (3, 2) voxels kept before and behind the lesion along z, y, x.
    Returns: `ct_hu` and `valid_mask` of that crop.
    """
    before, behind = np.asarray(margins, int).T
    box = tuple(
        slice(first.start, last.stop)
        for first, last in zip(mask_box(lesion_mask, before), mask_box(lesion_mask, behind), strict=True)
    )
    beyond = [(along.start, size - along.stop) for along, size in zip(box, ct_hu.shape, strict=True)]
    known = np.zeros_like(valid_mask)
    known[box] = valid_mask[box]
    return np.pad(ct_hu[box], beyond, mode="edge"), known


def nodule_variant(
    nodule: Mapping[str, Any],
    symmetry: tuple[str, bool],
    random: np.random.Generator,
    paint_margin_mm: float,
    foreign_mask: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """One variant of a row of the prepared dataset on the row's own grid: turned, then as :func:`painted`.

    Args:
        nodule: `ct_hu`, `lesion_mask`, `valid_mask`, `spacing_mm`, and `solid_mask` where it is known.
        symmetry: One of `SYMMETRIES`.
        random, paint_margin_mm: As :func:`painted`.
        foreign_mask: Mask of another lesion, (D, H, W), centred in its crop as this one is; it is turned along.
    Returns: The arrays, with `paint_mask`.
    """
    arrays = {name: turned_array(nodule[name], *symmetry) for name in ARRAYS if name in nodule}
    foreign = None if foreign_mask is None else partial(turned_array, foreign_mask, *symmetry)
    return painted(arrays, nodule["spacing_mm"], random, paint_margin_mm, foreign)


def painted(
    arrays: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    random: np.random.Generator,
    paint_margin_mm: float,
    foreign: Callable[[], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """A variant's arrays with its surroundings partly unknown and the region that is painted drawn at random.

    The lesion mask keeps telling where the lesion is. What changes is the region that is painted: usually the lesion
    and `paint_margin_mm` around it, sometimes up to 2 mm more or less (less leaves some of the real lesion's rim to be
    continued), sometimes joined with the mask of another lesion laid over it.

    Args:
        arrays: `ct_hu`, `lesion_mask`, `valid_mask` and others, (D, H, W).
        spacing_mm: (z, y, x).
        random: Of this variant.
        paint_margin_mm: The usual margin.
        foreign: Gives the mask of another lesion, (D, H, W), where it is needed.
    Returns: The arrays, with `paint_mask`.
    """
    arrays = dict(arrays)
    spacing = np.asarray(spacing_mm, float)
    if arrays["valid_mask"].all() and random.random() < UNKNOWN_SHARE:
        margins = np.rint(random.uniform(*MARGIN_RANGE_MM, (3, 2)) / spacing[:, None])
        arrays["ct_hu"], arrays["valid_mask"] = without_surroundings(
            arrays["ct_hu"], arrays["valid_mask"], arrays["lesion_mask"], margins
        )
    margin_mm = paint_margin_mm
    kind = random.random()
    if kind >= USUAL_SHARE:
        margin_mm += random.uniform(-MARGIN_CHANGE_MM, MARGIN_CHANGE_MM)
    paint_mask = grown_mask(arrays["lesion_mask"], margin_mm, spacing.tolist())
    if foreign is not None and kind >= 1 - FOREIGN_SHARE:
        paint_mask |= grown_mask(foreign(), paint_margin_mm, spacing.tolist())
    return arrays | {"paint_mask": paint_mask * arrays["valid_mask"]}


def usual_variant(nodule: Mapping[str, Any], paint_margin_mm: float) -> dict[str, np.ndarray]:
    """The nodule as it is, painted with the usual margin: what is validated and what the pipeline does."""
    spacing_mm: Sequence[float] = np.asarray(nodule["spacing_mm"], float).tolist()
    arrays = {name: nodule[name] for name in ARRAYS if name in nodule}
    paint_mask = grown_mask(nodule["lesion_mask"], paint_margin_mm, spacing_mm) * nodule["valid_mask"]
    return arrays | {"paint_mask": paint_mask}
