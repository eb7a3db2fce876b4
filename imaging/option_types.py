"""What a config says of the data in words; imports nothing heavy."""

from typing import Literal

MaskPolicy = Literal["half_maximum", "consensus", "union", "single"]  # see `imaging.lidc.consensus`
PairOutline = Literal["half_maximum", "consensus", "union"]  # see `imaging.dataset.nifti_pairs`
Intensity = Literal["hu", "signed_unit", "unit", "byte"]  # see `imaging.dataset.lab_files`
Axes = Literal["zyx", "yxz", "xyz"]  # order of the axes of an array file
