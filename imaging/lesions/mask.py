"""What counts as a lesion mask: the one rule for files, images and arrays."""

import numpy as np


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
