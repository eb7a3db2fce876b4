"""Simulated kernels and doses, against waves and spectra that are known."""

import numpy as np
import pytest

from imaging.acquisition import quantum_noise, soft_kernel


def test_a_kernel_multiplies_a_wave_by_its_transfer_function():
    """Cosines that the mirrored borders continue without a kink."""
    n = np.arange(40) + 0.5
    for waves in (4, 16, 32):
        f = waves / (2 * 40 * 0.8)  # cycles per mm at 0.8 mm
        wave = np.broadcast_to(100 * np.cos(np.pi * waves * n / 40), (3, 40, 40))
        for ct_hu in (wave, wave.transpose(0, 2, 1)):
            made = soft_kernel(ct_hu, 0.8, half_at_per_mm=0.3)
            middle = (slice(None), slice(16, 24), slice(16, 24))
            assert np.allclose(made[middle], 2 ** -((f / 0.3) ** 2) * ct_hu[middle], atol=0.1)


def test_a_kernel_leaves_the_mean_and_the_slices_apart():
    ct_hu = np.zeros((5, 32, 32), np.float32)
    ct_hu[2] = 400 * np.random.default_rng(0).random((32, 32))
    made = soft_kernel(ct_hu, 1.0)
    assert made[2].mean() == pytest.approx(ct_hu[2].mean(), rel=0.02) and made[2].std() < 0.5 * ct_hu[2].std()
    assert not made[[0, 1, 3, 4]].any()


def test_noise_of_counted_photons_has_a_ramp_like_spectrum_and_unit_variance():
    noise = quantum_noise((24, 32, 32), np.random.default_rng(0))
    assert noise.shape == (24, 32, 32) and noise.std() == pytest.approx(1) and abs(noise.mean()) < 0.05
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    low, middle, high = (power[(f > a) & (f <= b)].mean() for a, b in ((0.0, 0.05), (0.12, 0.3), (0.45, 0.5)))
    assert middle > 1.5 * low and middle > 4 * high  # f times the window, not white
    neighbours = (noise[1:] * noise[:-1]).mean(), (noise[3:] * noise[:-3]).mean()
    assert neighbours[0] == pytest.approx(2 / 3, abs=0.05)  # of slices blurred by 1/4, 1/2, 1/4
    assert abs(neighbours[1]) < 0.05


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"spacing 0 mm, f50 0\.3 per mm: expected numbers above 0"):
        soft_kernel(np.zeros((2, 8, 8)), 0)
    with pytest.raises(ValueError, match=r"slices of \(512, 512\) voxels, expected at most 256 x 256"):
        quantum_noise((1, 512, 512), np.random.default_rng(0))
