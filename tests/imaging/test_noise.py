"""Noise made anew has the variance and the spectrum of the noise in a residual, and none of its structure."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imaging.noise import noise_like, robust_deviation

SHAPE = (24, 26, 28)
CROP = (48, 48, 48)  # what the pipeline works on
SHARES = (0.2, 0.35, 0.6, 0.45)  # of the crop that is known
CORRELATIONS = [(0, 0, 0), (0.6, 0.6, 0.6), (0.8, 0.8, 0.8), (1, 1, 1), (0.3, 0.9, 0.9)]  # Gaussian σ, voxels


def white(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def gaussian_noise(seed: int, correlation: tuple[float, ...]) -> np.ndarray:
    """A cut-out, so that it is not periodic."""
    noise = gaussian_filter(white(seed, (64, 64, 64)), correlation, mode="wrap")
    return 40 * noise[8:56, 8:56, 8:56] / noise.std()


def known_part(seed: int) -> np.ndarray:
    """A ball, or an irregular region, that covers one of `SHARES` of the crop."""
    away = gaussian_filter(white(100 + seed, CROP), 6, mode="wrap")
    if seed % 2:
        away = sum((axis - 23.5) ** 2 for axis in np.indices(CROP))
    return away <= np.quantile(away, SHARES[seed])


@cache
def fine_vessels(seed: int) -> np.ndarray:
    """Curved tubes of 3 to 8 in their middle, one or two voxels wide, over 15 % of the crop."""
    random = np.random.default_rng(200 + seed)
    vessels = np.zeros(CROP)
    while (vessels > 1).mean() < 0.15:
        steps = random.standard_normal(3) + 0.6 * random.standard_normal((120, 3)).cumsum(axis=0) / 10
        path = random.uniform(0, 48, 3) + np.cumsum(0.5 * steps / np.linalg.norm(steps, axis=1)[:, None], axis=0)
        path = path[((path >= 0) & (path < 48)).all(axis=1)].astype(int)
        if len(path):
            line = np.zeros(CROP)
            line[tuple(path.T)] = 1
            line = gaussian_filter(line, random.choice([0.4, 0.8]))
            vessels = np.maximum(vessels, random.uniform(3, 8) * line / line.max())
    return vessels


def autocorrelation(noise: np.ndarray, lag: int) -> list[float]:
    centred = noise - noise.mean()
    return [float((centred * np.roll(centred, lag, axis)).mean() / centred.var()) for axis in range(3)]


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_noise_has_the_deviation_of_stationary_noise_within_3_percent_and_its_correlation(correlation):
    ratios, shapes, expected = [], [], []
    for seed in range(len(SHARES)):
        noise, known = gaussian_noise(seed, correlation), known_part(seed)
        made = noise_like(np.where(known, noise, 1e4), known, white(10 + seed, CROP))  # the unknown has no influence
        ratios.append(made.std() / noise[known].std())
        shapes.append([autocorrelation(made, lag) for lag in (1, 2)])
        expected.append([autocorrelation(noise, lag) for lag in (1, 2)])
        assert abs(made.mean()) < 4
        assert abs(np.corrcoef(made[known], noise[known])[0, 1]) < 0.1
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(np.mean(shapes, 0), np.mean(expected, 0), atol=0.04)


@pytest.mark.parametrize("correlation", [(0, 0, 0), (0.8, 0.8, 0.8), (0.3, 0.9, 0.9)])
def test_fine_vessels_that_the_model_lost_do_not_make_it_noisier(correlation):
    raised = []
    for seed in range(len(SHARES)):
        noise, known, draw = gaussian_noise(seed, correlation), known_part(seed), white(10 + seed, CROP)
        vessels = 40 * fine_vessels(seed)
        raised.append(noise_like(noise + vessels, known, draw).std() / noise_like(noise, known, draw).std())
    assert 0.98 < np.mean(raised) < 1.04


def test_tissue_of_more_noise_that_fills_half_of_the_crop_does_not_count():
    residual = 10 * white(2)
    residual[:, :14] *= 8
    made = noise_like(residual, np.ones(SHAPE), white(3))
    assert 9 < made.std() < 12


def test_edges_that_the_model_missed_do_not_make_it_noisier():
    residual = 10 * white(2)
    edged = residual.copy()
    edged[:, 5, :4] = 800
    plain, other = (noise_like(given, np.ones(SHAPE), white(3)) for given in (residual, edged))
    assert other.std() == pytest.approx(plain.std(), rel=0.03)


def test_the_same_white_noise_gives_the_same_noise_and_another_gives_another():
    residual = 10 * white(2)
    first, again, other = (noise_like(residual, np.ones(SHAPE), white(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.05


def test_twice_the_residual_gives_twice_the_noise():
    residual = 10 * white(2)
    once, twice = (noise_like(factor * residual, np.ones(SHAPE), white(3)) for factor in (1, 2))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=0.01)


def test_the_robust_deviation_of_a_sample_is_that_of_the_distribution_of_most_of_it():
    values = 5 + 3 * np.random.default_rng(0).standard_normal(200_000)
    assert robust_deviation(values) == pytest.approx(3, rel=0.01)
    values[:20_000] = 100
    assert robust_deviation(values) == pytest.approx(3, rel=0.05)


def test_where_nothing_is_left_or_known_there_is_no_noise():
    assert not noise_like(np.zeros(SHAPE), np.ones(SHAPE), white(4)).any()
    assert not noise_like(white(5), np.zeros(SHAPE), white(6)).any()


def test_a_few_known_voxels_are_enough():
    known = np.zeros(SHAPE)
    known[4:7, 5:8, 6:9] = 1
    made = noise_like(10 * white(2), known, white(3))
    assert np.isfinite(made).all() and 4 < made.std() < 25
