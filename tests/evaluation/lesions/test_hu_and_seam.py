import numpy as np
import pytest

from evaluation.lesions.hu_and_seam import core_deviation, hu_statistics, seam_score


@pytest.fixture
def cube_mask():
    mask = np.zeros((12, 13, 14), bool)
    mask[4:8, 4:9, 5:9] = True
    return mask


def test_hu_statistics_are_those_of_the_foreground(cube_mask):
    ct_hu = np.random.default_rng(0).normal(-300, 50, cube_mask.shape)
    mean, std = hu_statistics(ct_hu, cube_mask)
    assert mean == pytest.approx(ct_hu[cube_mask].mean()) and std == pytest.approx(ct_hu[cube_mask].std())


def ball(radius_mm: float, spacing_mm=(1.0, 1.0, 1.0)):
    """Coordinates [mm] from the centre, and the ball's mask."""
    axes = [np.arange(-12, 12 + spacing / 2, spacing) for spacing in spacing_mm]
    places = np.meshgrid(*axes, indexing="ij")
    return places, np.sqrt(sum(place**2 for place in places)) <= radius_mm


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 0.7, 0.7)])
def test_core_deviation_is_that_of_a_slow_change_inside(spacing_mm):
    (z, _, _), mask = ball(9, spacing_mm)
    ct_hu = np.where(mask, 20.0 + 5.0 * z, -850.0)
    radius = 9 - 3  # of the core: variance of z in a ball is r²/5
    expected = 5.0 * radius / np.sqrt(5)
    assert core_deviation(ct_hu, mask, spacing_mm) == pytest.approx(expected, rel=0.2)


def test_core_deviation_sees_neither_rim_nor_noise_but_mottling():
    (z, y, x), mask = ball(9)
    radius = np.sqrt(z**2 + y**2 + x**2)
    smooth = np.where(mask, 20.0 - 200 * np.clip(radius - 6, 0, None), -850.0)
    assert core_deviation(smooth, mask, (1, 1, 1)) == pytest.approx(0, abs=1e-6)
    noisy = smooth + np.random.default_rng(0).normal(0, 40, smooth.shape)
    assert core_deviation(noisy, mask, (1, 1, 1)) < 15
    mottled = noisy + 60 * np.sign(np.sin(np.pi * z / 4) * np.sin(np.pi * y / 4))
    assert core_deviation(mottled, mask, (1, 1, 1)) > 25


def test_a_lesion_that_is_small_or_not_solid_has_no_core():
    _, small = ball(4)
    _, large = ball(9)
    assert core_deviation(np.where(small, 20.0, -850.0), small, (1, 1, 1)) is None
    assert core_deviation(np.where(large, -500.0, -850.0), large, (1, 1, 1)) is None


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
