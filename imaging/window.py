"""The CT window: Hounsfield units (`ct_hu`) to and from the models' range [-1, 1] (`ct_norm`)."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

ArrayT = TypeVar("ArrayT", np.ndarray, "torch.Tensor")

AIR_HU = -1024  # lowest value of prepared data, its padding, and the floor of what is painted
WINDOW_WIDTH = 1500.0  # HU; the lung window of the texture-loss method, -1150 ... 350 HU with the level below
WINDOW_LEVEL = -400.0  # HU


def to_norm(ct_hu: ArrayT, width: float = WINDOW_WIDTH, level: float = WINDOW_LEVEL) -> ArrayT:
    """Map the window [level - width/2, level + width/2] linearly onto [-1, 1] and clip what lies outside.

    Args:
        ct_hu: NumPy array or torch tensor of any shape, HU. Integers become float32, floats keep their type.
        width: Width of the window, HU.
        level: Centre of the window, HU.
    Returns: `ct_norm`, same shape and library, no unit.
    Raises: ValueError: If the width is not positive.
    Examples:
        >>> import numpy as np
        >>> to_norm(np.array([-1150, -400, 350, 3000]))  # the window is -1150 ... 350 HU
        array([-1.,  0.,  1.,  1.], dtype=float32)
    """
    _check_width(width)
    if isinstance(ct_hu, np.ndarray) and not np.issubdtype(ct_hu.dtype, np.floating):
        ct_hu = ct_hu.astype(np.float32)
    return ((ct_hu - level) / (width / 2)).clip(-1.0, 1.0)


def to_hu(ct_norm: ArrayT, width: float = WINDOW_WIDTH, level: float = WINDOW_LEVEL) -> ArrayT:
    """The linear inverse of `to_norm`; nothing is clipped, so a gradient passes everywhere.

    Args:
        ct_norm: NumPy array or torch tensor of any shape, floating point, no unit.
        width: Width of the window, HU.
        level: Centre of the window, HU.
    Returns: `ct_hu`, same shape, type and library, HU.
    Raises: ValueError: If the width is not positive.
    Examples:
        >>> import numpy as np
        >>> to_hu(np.array([-1.0, 0.0, 1.0]))
        array([-1150.,  -400.,   350.])
    """
    _check_width(width)
    return ct_norm * (width / 2) + level


def _check_width(width: float) -> None:
    if not width > 0:
        raise ValueError(f"width {width} HU, expected a positive window width such as {WINDOW_WIDTH:g}")
