"""One rule for every mask."""

import numpy as np
import pytest

from imaging.lesions.mask import binary_mask


@pytest.mark.parametrize("mask", [[0, 1, 1], [False, True, True], [0, 255, 255], [0, 7, 7], [0.0, 0.5, 0.5]])
def test_one_positive_value_is_taken_as_one(mask):
    taken = binary_mask(np.array(mask))
    assert taken.dtype == np.uint8 and taken.tolist() == [0, 1, 1]


def test_an_empty_mask_is_a_mask():
    assert not binary_mask(np.zeros((2, 3), np.int16)).any()


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        ([0, 1, 7], "1, 7"),
        ([0, 0.2, 0.7, 1], "0.2, 0.7, 1"),
        ([0, -1, -1], "-1"),
        ([0, 1, np.nan], "1, nan"),
        ([0, np.inf], "inf"),
        (np.arange(9), r"1, 2, 3, 4, 5, \.\.\."),
    ],
)
def test_anything_else_is_refused_by_its_values(mask, found):
    with pytest.raises(ValueError, match=f"lesion.nii.gz has the values 0 and {found}; expected 0 and one positive"):
        binary_mask(np.array(mask), "lesion.nii.gz")
