"""What a config says of the data in words; imports nothing heavy."""

from typing import Literal

MaskPolicy = Literal["consensus", "union", "single"]  # see `imaging.lidc.consensus`
Intensity = Literal["hu", "signed_unit", "unit", "byte"]  # see `imaging.dataset.lab_files`
Axes = Literal["zyx", "yxz", "xyz"]  # order of the axes of an array file
