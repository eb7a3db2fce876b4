"""What a config says of the data in words; imports nothing heavy."""

from typing import Literal

MaskPolicy = Literal["half_maximum", "consensus", "union", "single"]  # see `imaging.lidc.consensus`
PairOutline = Literal["half_maximum", "consensus", "union"]  # see `imaging.dataset.nifti_pairs`
Intensity = Literal["hu", "signed_unit", "unit", "byte"]  # see `imaging.dataset.lab_files`
Axes = Literal["zyx", "yxz", "xyz"]  # order of the axes of an array file
LayoutName = Literal["nnunet", "nndetection", "monai", "coco3d"]  # see `imaging.layouts`
Validate = Literal["all", "real"]  # cases, see `imaging.layouts.folds`
