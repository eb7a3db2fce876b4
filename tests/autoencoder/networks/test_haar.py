"""The Haar stem against PyWavelets."""

from itertools import product

import numpy as np
import pytest
import pywt
import torch

from autoencoder.networks.haar import HaarTransform3D


def volume(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def test_bands_are_those_of_pywavelets_channel_by_channel():
    x = volume(2, 3, 4, 6, 10)
    bands = HaarTransform3D()(x)
    assert bands.shape == (2, 24, 2, 3, 5)
    for sample, channel in product(range(2), range(3)):
        expected = pywt.dwtn(x[sample, channel].numpy(), "haar")
        for number, name in enumerate("".join(letters) for letters in product("ad", repeat=3)):
            np.testing.assert_allclose(bands[sample, 8 * channel + number], expected[name], atol=1e-5)


def test_inverse_gives_the_volume_back_and_the_norm_is_kept():
    x, haar = volume(2, 3, 4, 6, 10), HaarTransform3D()
    torch.testing.assert_close(haar.inverse(haar(x)), x, rtol=0, atol=2e-6)
    torch.testing.assert_close(haar(x).norm(), x.norm())
    bands = volume(1, 16, 2, 3, 5)
    torch.testing.assert_close(haar(haar.inverse(bands)), bands, rtol=0, atol=2e-6)


def test_an_odd_size_is_refused():
    with pytest.raises(ValueError, match=r"size \(4, 5, 6\) is odd somewhere; pad or crop"):
        HaarTransform3D()(volume(1, 1, 4, 5, 6))


def test_the_stem_learns_nothing_and_saves_nothing():
    assert not list(HaarTransform3D().parameters()) and not HaarTransform3D().state_dict()
