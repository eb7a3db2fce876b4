from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import fourier_gaussian, gaussian_filter

from evaluation.autoencoders.power_spectrum import (
    MIN_EDGE,
    band_edges_per_mm,
    homogeneous_box,
    power_ratio,
    power_spectrum,
    shell_edges_per_mm,
    valid_box,
)

SHAPE, SPACING_MM = (24, 40, 36), (1.5, 0.8, 1.0)


def _noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _shell_means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean over the frequencies of each shell, with the frequencies written out again."""
    z, y, x = (np.fft.fftfreq(size, s) for size, s in zip(values.shape, SPACING_MM, strict=True))
    frequency = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    return np.array([values[(frequency > low) & (frequency <= high)].mean() for low, high in pairwise(edges)])


def test_equal_volumes_have_a_ratio_of_exactly_1_and_twice_the_amplitude_4():
    volume, edges = _noise() - 700, shell_edges_per_mm(SPACING_MM)
    np.testing.assert_array_equal(power_ratio(volume, volume, SPACING_MM, edges), 1)
    np.testing.assert_allclose(power_ratio(2 * volume + 5, volume, SPACING_MM, edges), 4)


def test_white_noise_has_the_flat_density_variance_times_voxel_volume():
    edges = shell_edges_per_mm(SPACING_MM)
    densities = [_shell_means(power_spectrum(3 * _noise(seed), SPACING_MM)[0], edges) for seed in range(60)]
    above_main_lobe = np.mean(densities, axis=0)[2:]  # below, the removed mean takes some of the power
    np.testing.assert_allclose(above_main_lobe, 9 * np.prod(SPACING_MM), rtol=0.05)


def test_other_white_noise_of_the_same_variance_has_a_flat_ratio_of_1():
    edges = band_edges_per_mm(SPACING_MM)
    ratios = [power_ratio(_noise(seed), _noise(seed + 100), SPACING_MM, edges) for seed in range(60)]
    np.testing.assert_allclose(np.exp(np.log(ratios).mean(axis=0)), 1, atol=0.1)


def test_blurred_white_noise_follows_the_gaussian_in_closed_form():
    sigma_mm, edges = 0.9, shell_edges_per_mm(SPACING_MM)
    sigmas = [sigma_mm / s for s in SPACING_MM]

    def blurred(seed):
        return np.fft.ifftn(fourier_gaussian(np.fft.fftn(_noise(seed)), sigmas)).real

    z, y, x = (np.fft.fftfreq(size, s) for size, s in zip(SHAPE, SPACING_MM, strict=True))
    squared = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    expected = _shell_means(np.exp(-((2 * np.pi * sigma_mm) ** 2) * squared), edges)
    ratios = [power_ratio(blurred(seed), _noise(seed), SPACING_MM, edges) for seed in range(20)]
    np.testing.assert_allclose(np.mean(ratios, axis=0), expected, rtol=0.05)


def test_a_pattern_of_one_frequency_lies_in_the_shell_of_that_frequency():
    wave_mm = np.cos(2 * np.pi * 0.25 * np.arange(SHAPE[1]) * SPACING_MM[1])  # 0.25 cycles per mm along y
    volume = np.broadcast_to(wave_mm[:, None], SHAPE)
    density, frequency = power_spectrum(volume, SPACING_MM)
    centre = (density * frequency).sum() / density.sum()
    assert centre == pytest.approx(0.25, abs=0.02)


def test_the_bands_of_a_1_mm_grid_are_those_of_the_report_and_shrink_with_the_coarsest_axis():
    np.testing.assert_allclose(band_edges_per_mm((1, 1, 1)), [0, 0.1, 0.2, 0.35, 0.5])
    np.testing.assert_allclose(band_edges_per_mm((2, 0.7, 0.7)), [0, 0.05, 0.1, 0.175, 0.25])


def test_a_volume_that_is_too_small_constant_or_of_another_shape_is_refused():
    volume, edges = _noise(), band_edges_per_mm(SPACING_MM)
    for original, message in (
        (np.zeros(SHAPE), r"is 0\.0 everywhere and has no power"),
        (volume[1:], "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            power_ratio(volume, original, SPACING_MM, edges)
    with pytest.raises(ValueError, match="expected at least 16 on each axis"):
        power_ratio(volume[:15], volume[:15], SPACING_MM, edges)


def test_padding_is_cut_off_only_where_the_rest_is_a_box():
    valid = np.zeros((20, 22, 24), np.uint8)
    valid[2:19, 1:20, :] = 1
    assert valid_box(valid) == np.s_[2:19, 1:20, 0:24]
    valid[5, 5, 5] = 0
    assert valid_box(valid) is None
    assert valid_box(np.ones((15, 20, 20))) is None and valid_box(np.zeros((20, 20, 20))) is None


def test_the_homogeneous_cube_avoids_structure_and_what_is_not_allowed():
    volume = 0.1 * _noise(1, (34, 36, 38))
    volume[:, :, :20] += gaussian_filter(_noise(2, (34, 36, 20)), 3) * 20  # structure
    allowed = np.ones(volume.shape, bool)
    allowed[25] = False  # an obstacle that leaves one half
    box = homogeneous_box(volume, allowed, (1, 1, 1))
    assert [s.stop - s.start for s in box] == [MIN_EDGE] * 3
    assert allowed[box].all() and box[2].start >= 20
    assert homogeneous_box(volume, allowed & (np.arange(38) % 12 > 0), (1, 1, 1)) is None
