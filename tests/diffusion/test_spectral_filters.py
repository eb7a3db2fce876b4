"""Filters fitted to spectra, against simulations whose filter is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from diffusion.spectral_filters import EDGE, TAPS, filtered, filters, power_of
from imaging.acquisition import soft_kernel


def scans(count, seed, strength=1.0):
    """White noise, HU."""
    random = np.random.default_rng(seed)
    return [strength * 30 * random.standard_normal((24, 24, 40)) for _ in range(count)]


def gain(taps, f_plane):
    """Of a filter for a wave along x."""
    x = np.arange(TAPS) - TAPS // 2
    return float((taps.numpy().sum((0, 1)) * np.cos(2 * np.pi * f_plane * x)).sum())


def test_filtering_is_convolution_with_mirrored_borders():
    volume = np.random.default_rng(0).standard_normal((9, 11, 16)).astype(np.float32)
    taps = np.random.default_rng(1).standard_normal(3 * (TAPS,))
    taps = taps + taps[::-1, ::-1, ::-1]  # symmetric
    expected = convolve(volume, taps, mode="mirror")
    made = filtered(torch.from_numpy(volume)[None, None], torch.from_numpy(taps).float())[0, 0]
    assert np.allclose(made, expected, atol=1e-3)


def test_a_kernel_is_found_from_unpaired_scans_of_different_strength():
    sharp, other = scans(12, 0), scans(12, 1, strength=1.5)
    soft = [soft_kernel(scan, 1.0, half_at_per_mm=0.4) for scan in other]
    powers = [power_of(kind, "kernel") for kind in (sharp, soft)]
    for one, wanted, sign in ((powers[0], powers[1], -1), (powers[1], powers[0], 1)):
        found = filters(one, wanted, "kernel")
        assert float(found.expected.sum()) == pytest.approx(1, abs=1e-5)
        for f in (0.2, 0.3, 0.4):
            assert gain(found.expected, f) == pytest.approx(2.0 ** (sign * (f / 0.4) ** 2), rel=0.12)
        assert not found.noise.any()


def test_added_noise_is_found_and_the_wiener_filter_takes_its_share():
    """White noise of variance 1 in one kind and of 1 + 3 in the other."""
    full, low = scans(24, 0), scans(24, 1, strength=2.0)
    powers = [power_of(kind, "dose") for kind in (full, low)]
    added = filters(*powers, "dose").noise  # from full to low
    assert float(added.square().sum()) == pytest.approx(3 * 900, rel=0.15)
    less = filters(*powers[::-1], "dose", signal=10 * powers[0])
    assert gain(less.expected, 0.4) == pytest.approx(10 / 13, abs=0.1)
    assert float(less.expected.sum()) == pytest.approx(1, abs=1e-5) and float(less.noise.abs().max()) < 1e-3


def test_nothing_is_filtered_where_nothing_is_known():
    power = np.ones(3 * (EDGE,))
    found = filters(power, 4 * power, "unknown")
    volume = torch.randn(1, 1, 8, 9, 10)
    assert torch.allclose(filtered(volume, found.expected), volume, atol=1e-5) and not found.noise.any()


def test_a_scan_too_small_for_a_spectrum_is_refused():
    with pytest.raises(ValueError, match=r"scan of \(8, 20, 20\) voxels, expected at least 16 along each axis"):
        power_of([np.zeros((8, 20, 20))], "dose")
    with pytest.raises(ValueError, match="no scan to take a spectrum of"):
        power_of([], "dose")
