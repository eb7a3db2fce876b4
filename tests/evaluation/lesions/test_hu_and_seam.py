import numpy as np
import pytest

from evaluation.lesions.hu_and_seam import hu_statistics, seam_score


@pytest.fixture
def cube_mask():
    mask = np.zeros((12, 13, 14), bool)
    mask[4:8, 4:9, 5:9] = True
    return mask


def test_hu_statistics_are_those_of_the_foreground(cube_mask):
    ct_hu = np.random.default_rng(0).normal(-300, 50, cube_mask.shape)
    mean, std = hu_statistics(ct_hu, cube_mask)
    assert mean == pytest.approx(ct_hu[cube_mask].mean()) and std == pytest.approx(ct_hu[cube_mask].std())


def test_a_ramp_has_no_seam_and_a_step_has_its_height(cube_mask):
    ramp = np.broadcast_to(30.0 * np.arange(14), cube_mask.shape)
    assert seam_score(ramp, cube_mask) == pytest.approx(0, abs=1e-9)
    assert seam_score(np.where(cube_mask, -200.0, -800.0), cube_mask) == pytest.approx(600)


def test_a_pasted_lesion_has_a_larger_seam_than_a_real_one(make_lesion):
    real, other = make_lesion(1), make_lesion(2)
    pasted = np.where(real.lesion_mask, other.ct_hu[12, 13, 14], real.ct_hu)
    assert seam_score(pasted, real.lesion_mask) > seam_score(real.ct_hu, real.lesion_mask) + 50


def test_padding_does_not_count(cube_mask):
    valid = np.ones_like(cube_mask)
    valid[:, :4] = False
    ct_hu = np.where(cube_mask, -200.0, -800.0)
    assert seam_score(np.where(valid, ct_hu, np.nan), cube_mask, valid) == pytest.approx(600)


def test_a_mask_without_border_is_refused(cube_mask):
    for mask in (np.zeros_like(cube_mask), np.ones_like(cube_mask)):
        with pytest.raises(ValueError, match="no border"):
            seam_score(np.zeros(mask.shape), mask)
    with pytest.raises(ValueError, match="empty"):
        hu_statistics(np.zeros(cube_mask.shape), np.zeros_like(cube_mask))
