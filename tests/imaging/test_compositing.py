"""How a lesion fades into the CT, and what stays the CT's own."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import distance_transform_edt

from imaging.compositing import composite, edge_weight
from imaging.lesions.mask import grown_mask

SPACING = np.array([2.0, 1.0, 0.5])


def box(shape=(9, 11, 13)):
    inside = np.zeros(shape, np.uint8)
    inside[1:8, 1:10, 2:12] = 1
    return inside


def test_weight_is_the_depth_over_the_blend():
    weight = edge_weight(box(), SPACING, 2.0)
    assert_array_equal(weight > 0, box() > 0)
    assert_allclose(weight[4, 5, :7], [0, 0, 0.25, 0.5, 0.75, 1, 1])  # along x, in voxels of 0.5 mm
    depth_mm = distance_transform_edt(box(), sampling=SPACING)
    assert_allclose(weight, np.minimum(depth_mm / 2.0, 1), rtol=1e-6)
    assert_array_equal(edge_weight(box(), SPACING, 0), box())


def test_what_is_grown_by_the_blend_takes_all_of_the_change_in_the_mask():
    lesion = box((30, 40, 50))
    grown = grown_mask(lesion, 3.0, tuple(SPACING))
    assert (edge_weight(grown, SPACING, 3.0)[lesion > 0] == 1).all() and grown.sum() > lesion.sum()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_at_the_border_of_the_volume_there_is_nothing_to_fade_into(axis):
    whole = np.zeros((12, 16, 20), np.uint8)
    whole[3:9, 4:12, 5:15] = 1
    cut = [slice(None)] * 3
    cut[axis] = slice(whole.shape[axis] // 2, None)  # through the middle of the lesion
    mirrored = np.concatenate([np.flip(whole[tuple(cut)], axis), whole[tuple(cut)]], axis)
    half = [slice(None)] * 3
    half[axis] = slice(mirrored.shape[axis] // 2, None)
    assert_allclose(edge_weight(whole[tuple(cut)], SPACING, 3.0), edge_weight(mirrored, SPACING, 3.0)[tuple(half)])


def test_a_mask_that_is_the_whole_volume_takes_all_and_an_empty_one_nothing():
    assert_array_equal(edge_weight(np.ones((3, 4, 5)), SPACING, 2.0), 1)
    assert_array_equal(edge_weight(np.zeros((3, 4, 5)), SPACING, 2.0), 0)


@pytest.mark.parametrize("blend_mm", [-1.0, np.nan, np.inf])
def test_a_width_that_is_none_is_refused(blend_mm):
    with pytest.raises(ValueError, match=r"blend_mm .*, expected 0 or a positive width in mm"):
        edge_weight(box(), SPACING, blend_mm)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_composite_is_the_weighted_sum_inside_and_the_ct_outside(dtype):
    random = np.random.default_rng(0)
    ct_hu = random.uniform(100, 900, (9, 11, 13)).astype(dtype)
    difference_hu, weight = random.normal(0, 50, ct_hu.shape), edge_weight(box(), SPACING, 1.5)
    result = composite(ct_hu, difference_hu, weight)
    assert result.dtype == dtype
    assert_array_equal(result[weight == 0], ct_hu[weight == 0])
    expected = ct_hu.astype(float) + weight * difference_hu
    assert_allclose(result, expected, rtol=1e-6, atol=0.5 if np.issubdtype(dtype, np.integer) else 1e-4)


def test_nothing_is_painted_darker_than_air_or_beyond_the_type():
    ct_hu, weight = np.array([-1000, -2000, 32000], np.int16), np.ones(3)
    assert composite(ct_hu, np.array([-500, -500, 5000]), weight).tolist() == [-1024, -1024, 32767]
    assert composite(ct_hu, np.full(3, 224), weight).tolist() == [-776, -800, 32224]  # padding counts as air
    assert composite(ct_hu, np.full(3, 224), 0 * weight).tolist() == ct_hu.tolist()
