"""How large a volume may be: a damaged or hostile header must not make a reader ask for all memory."""

import math
from collections.abc import Sequence

MAX_VOXELS = 2**30  # 1024 slices of 1024 x 1024; the largest chest CTs have half of it


def check_declared_size(name: str, sizes: Sequence[int]) -> None:
    """Refuse sizes that no CT has, before memory is taken for them.

    Args:
        name: What the sizes belong to, for the message.
        sizes: Voxels along each axis, as the file declares them.
    Raises: ValueError: If one is below 1, or together they are more than `MAX_VOXELS`.
    """
    if min(sizes, default=0) < 1 or math.prod(sizes) > MAX_VOXELS:
        text = " x ".join(map(str, sizes))
        raise ValueError(
            f"{name}: declares {text} voxels, expected a volume of 1 to {MAX_VOXELS} voxels; is it damaged? "
            "Crop a larger scan"
        )
