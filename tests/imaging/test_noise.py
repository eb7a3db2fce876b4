"""Noise made anew has the variance and the spectrum of the residual it is like, and none of its structure."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imaging.noise import noise_like

SHAPE = (24, 26, 28)


def white(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def autocorrelation(noise: np.ndarray, lag: int) -> list[float]:
    centred = noise - noise.mean()
    return [float((centred * np.roll(centred, lag, axis)).mean() / centred.var()) for axis in range(3)]


@pytest.mark.parametrize("sigma", [(0, 0, 0), (0, 1.0, 1.0), (1.5, 0.5, 0)])
def test_noise_has_the_deviation_and_the_correlation_of_the_residual(sigma):
    residual = gaussian_filter(white(0), sigma, mode="wrap")
    residual *= 40 / residual.std()
    known = np.ones(SHAPE)
    known[8:16, 8:16, 8:16] = 0
    residual[known == 0] = 1e4  # what is not known has no influence
    made = noise_like(residual, known, white(1))
    assert 0.75 * 40 < made.std() < 1.05 * 40 and abs(made.mean()) < 2  # the quieter part of it
    outside = np.where(known > 0, residual, 0)
    np.testing.assert_allclose(autocorrelation(made, 1), autocorrelation(outside, 1), atol=0.2)
    assert abs(np.corrcoef(made[known > 0], residual[known > 0])[0, 1]) < 0.1


def test_structure_that_the_model_lost_is_no_noise():
    residual = 10 * white(2)
    residual[:, :14] *= 8  # vessels of half the volume
    made = noise_like(residual, np.ones(SHAPE), white(3))
    assert 7 < made.std() < 11


def test_edges_that_the_model_missed_do_not_make_it_noisier():
    residual = 10 * white(2)
    edged = residual.copy()
    edged[:, 5, :4] = 800
    plain, other = (noise_like(given, np.ones(SHAPE), white(3)) for given in (residual, edged))
    assert other.std() == pytest.approx(plain.std(), rel=0.1)


def test_where_nothing_is_left_or_known_there_is_no_noise():
    assert not noise_like(np.zeros(SHAPE), np.ones(SHAPE), white(4)).any()
    assert not noise_like(white(5), np.zeros(SHAPE), white(6)).any()
