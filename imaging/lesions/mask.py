"""What counts as a lesion mask: the one rule for files, images and arrays."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from imaging.boxes import mask_box


def binary_mask(mask: np.ndarray, name: str = "mask") -> np.ndarray:
    """The mask as 0 and 1.

    A mask holds 0 and at most one other value, which must be positive and is taken as 1: so 0/1, 0/255 and a label
    image of one label all mean the same. Several labels or fractions, such as the edges of an interpolated mask, say
    more than inside or outside and are refused.

    Args:
        mask: Array of any shape; numbers or bool.
        name: How the message names it: a file, or an argument.
    Returns: uint8, same shape.
    Raises: ValueError: Naming the values found, if there are negative, infinite, undefined, or several positive ones.
    """
    array = np.asarray(mask)
    inside = array != 0  # also where it is NaN
    values = array[inside]
    if values.size and not (np.isfinite(values[0]) and values[0] > 0 and np.all(values == values[0])):
        found = np.unique(values)
        shown = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"{name} has the values 0 and {shown}; expected 0 and one positive value, which is taken as 1: round or "
            "threshold an interpolated mask, and pass one label at a time"
        )
    return inside.astype(np.uint8)


def numbered_nodules(labels: np.ndarray) -> np.ndarray:
    """The nodules of a label image, which may be empty, numbered without gaps.

    Several labels are a nodule each. One label alone is a mask of all nodules: each part of it that hangs together,
    corners included, is a nodule.

    Args:
        labels: (D, H, W), 0 outside.
    Returns: uint16, same shape, 0 and n in the n-th nodule.
    Raises: ValueError: If labels are no whole numbers above 0.
    """
    inside = labels != 0
    values = np.unique(labels[inside])
    if not (np.isfinite(values).all() and (values > 0).all() and (values == values.astype(np.int64)).all()):
        shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
        raise ValueError(f"labels {shown}, expected 0 and a whole number above 0 in each nodule")
    if len(values) == 1:
        return label(inside, structure=np.ones((3, 3, 3)))[0].astype(np.uint16)
    numbered = np.zeros(labels.shape, np.uint16)
    numbered[inside] = np.searchsorted(values, labels[inside]) + 1
    return numbered


def grown_mask(mask: np.ndarray, margin_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """A mask dilated by a ball of `margin_mm`, or eroded by one where it is negative; never eroded to nothing.

    Args:
        mask: (D, H, W), 0 or 1, not empty. Beyond the volume it is continued.
        margin_mm: Radius; a voxel belongs if its centre is at most so far from the nearest voxel's of the mask.
        spacing_mm: (z, y, x).
    Returns: uint8, same shape; the mask itself where erosion would leave none of it.
    Examples:
        >>> mask = np.zeros((5, 7, 7), np.uint8)
        >>> mask[2, 3, 3] = 1
        >>> int(grown_mask(mask, margin_mm=1.0, spacing_mm=(1, 1, 1)).sum())  # the voxel and its six neighbours
        7
        >>> int(grown_mask(mask, margin_mm=1.0, spacing_mm=(1, 0.5, 0.5)).sum())  # finer in the slices
        15
    """
    inside = np.asarray(mask) > 0
    if margin_mm == 0 or not inside.any() or inside.all():
        return inside.astype(np.uint8)
    sampling = [float(mm) for mm in spacing_mm]
    box = mask_box(inside, [int(np.ceil(abs(margin_mm) / mm)) + 1 for mm in sampling])
    result = inside.astype(np.uint8)
    if margin_mm > 0:
        result[box] = distance_transform_edt(~inside[box], sampling=sampling) <= margin_mm
        return result
    padded = np.pad(inside[box], 1, mode="edge")
    kept = distance_transform_edt(padded, sampling=sampling)[1:-1, 1:-1, 1:-1] > -margin_mm
    if kept.any():
        result[box] = kept
    return result
