import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from evaluation.autoencoders.matched_blur import blur_valid, matched_sigma_mm

SHAPE, SPACING_MM = (20, 24, 22), (1.25, 0.7, 1.0)


@pytest.fixture
def volume():
    return gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 0.7)


def test_far_from_padding_the_blur_is_that_of_scipy(volume):
    expected = gaussian_filter(volume, [0.6 / s for s in SPACING_MM])
    blurred = blur_valid(volume, np.ones(SHAPE), 0.6, SPACING_MM)
    inner = np.s_[4:-4, 5:-5, 4:-4]
    np.testing.assert_allclose(blurred[inner], expected[inner], atol=1e-12)


def test_padding_has_no_influence_and_a_constant_stays_constant(volume):
    valid = np.ones(SHAPE)
    valid[:6] = 0
    other = np.where(valid > 0, volume, -1e6)
    np.testing.assert_array_equal(blur_valid(volume, valid, 1.5, SPACING_MM), blur_valid(other, valid, 1.5, SPACING_MM))
    flat = blur_valid(np.where(valid > 0, 0.3, -1.0), valid, 1.5, SPACING_MM)
    np.testing.assert_allclose(flat[6:], 0.3)
    assert not flat[:6].any()


def test_the_sigma_of_a_blurred_volume_is_found_again(volume):
    valid = np.ones(SHAPE)
    valid[:, :3] = 0
    for sigma_mm in (0.6, 1.3):
        made = blur_valid(volume, valid, sigma_mm, SPACING_MM)
        assert matched_sigma_mm(volume, made, valid, SPACING_MM) == pytest.approx(sigma_mm, abs=1e-3)


def test_the_blur_has_the_psnr_of_any_reconstruction(volume):
    made = volume + 0.05 * np.random.default_rng(1).standard_normal(SHAPE)
    blurred = blur_valid(volume, np.ones(SHAPE), matched_sigma_mm(volume, made, np.ones(SHAPE), SPACING_MM), SPACING_MM)
    expected = peak_signal_noise_ratio(volume, made, data_range=2)
    assert peak_signal_noise_ratio(volume, blurred, data_range=2) == pytest.approx(expected, abs=0.02)


def test_an_equal_volume_has_no_blur_and_one_beyond_all_blurs_no_partner(volume):
    assert matched_sigma_mm(volume, volume.copy(), np.ones(SHAPE), SPACING_MM) == 0
    np.testing.assert_array_equal(blur_valid(volume, np.ones(SHAPE), 0, SPACING_MM), volume)
    assert matched_sigma_mm(volume, volume + 9, np.ones(SHAPE), SPACING_MM) is None
