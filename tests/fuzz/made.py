"""What the fuzzed inputs share: the reader under test, and small valid arrays."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

Files = dict[str, bytes]  # relative path -> content

GIB = 2**30

EDGE = 6


class Reader(NamedTuple):
    """A reader under test.

    Attributes:
        make: Writes a valid input into an empty folder.
        read: Reads all of it from there.
        is_text: Whether words and numbers are worth exchanging.
        bombs: Hostile versions of the valid input, made by hand.
        spared: Endings of the files that are left as they are.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    is_text: bool = False
    bombs: Callable[[Files], Iterator[Files]] = lambda files: iter(())
    spared: tuple[str, ...] = ()


def made_ct(shape: tuple[int, int, int] = (5, 8, 9)) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 300, shape).astype(np.int16)


def made_mask(shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[1:3, 2:4, 2:5] = 1
    return mask


def made_image(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.0))
    return image
