import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from evaluation.statistics import distances
from evaluation.statistics.distances import (
    frechet_distance,
    kernel_distance,
    standardised_wasserstein,
    wasserstein_per_feature,
)


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 5)), rng.normal(0.4, 1.3, size=(24, 5))


def test_wasserstein_is_scipys_for_each_feature(sets):
    X, Y = sets
    expected = [wasserstein_distance(X[:, f], Y[:, f]) for f in range(5)]
    np.testing.assert_allclose(wasserstein_per_feature(X, Y), expected, rtol=1e-12)
    expected = [wasserstein_distance(X[:24, f], Y[:, f]) for f in range(5)]
    np.testing.assert_allclose(wasserstein_per_feature(X[:24], Y), expected, rtol=1e-12)
    np.testing.assert_allclose(wasserstein_per_feature(X, X + 2), 2)


def test_standardised_wasserstein_does_not_depend_on_units_and_drops_constant_features(sets):
    X, Y = sets
    units = np.array([1, 10, 1e4, 1e-3, 1])
    expected = standardised_wasserstein(X.std(0))(X, Y)
    np.testing.assert_allclose(standardised_wasserstein((X * units).std(0))(X * units, Y * units), expected)
    constant = np.hstack([X, np.ones((30, 1))]), np.hstack([Y, np.ones((24, 1))])
    np.testing.assert_allclose(standardised_wasserstein(constant[0].std(0))(*constant), expected)


def test_frechet_distance_equals_the_matrix_root(sets):
    X, Y = sets
    covariance_x, covariance_y = np.cov(X.T), np.cov(Y.T)
    root = sqrtm(covariance_x @ covariance_y).real
    expected = ((X.mean(0) - Y.mean(0)) ** 2).sum() + np.trace(covariance_x + covariance_y - 2 * root)
    assert frechet_distance(X, Y) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_fewer_rows_than_features_is_exact():
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(6, 12)), rng.normal(size=(7, 12))
    covariance_x, covariance_y = np.cov(X.T), np.cov(Y.T)
    values, vectors = np.linalg.eigh(covariance_x)
    root_x = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root_x @ covariance_y @ root_x).clip(0)).sum()
    expected = ((X.mean(0) - Y.mean(0)) ** 2).sum() + np.trace(covariance_x) + np.trace(covariance_y) - 2 * cross
    assert frechet_distance(X, Y) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_many_rows_takes_no_larger_matrix_than_features_by_features(monkeypatch):
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(2, 70, 6)), rng.normal(0.3, 1.2, size=(2, 50, 6))
    A, B = ((Z - Z.mean(1, keepdims=True)) / np.sqrt(Z.shape[1] - 1) for Z in (X, Y))
    root = np.linalg.svd(A @ B.swapaxes(1, 2), compute_uv=False).sum(1)
    expected = ((X.mean(1) - Y.mean(1)) ** 2).sum(1) + (A**2).sum((1, 2)) + (B**2).sum((1, 2)) - 2 * root
    sizes, svd = [], np.linalg.svd
    monkeypatch.setattr(
        np.linalg, "svd", lambda matrix, **options: (sizes.append(matrix.shape), svd(matrix, **options))[1]
    )
    monkeypatch.setattr(distances, "QR_ROWS", 20)  # several parts
    np.testing.assert_allclose(frechet_distance(X, Y), expected, rtol=2e-13)
    assert sizes == [(2, 6, 6)]


def test_kernel_distance_of_large_sets_is_the_mean_over_interleaved_parts(monkeypatch):
    rng = np.random.default_rng(5)
    X, Y = rng.normal(size=(11, 3)), rng.normal(0.5, 1, size=(7, 3))
    expected = np.mean([kernel_distance(X[k::3], Y[k::3]) for k in range(3)])
    monkeypatch.setattr(distances, "KERNEL_ROWS", 4)
    assert kernel_distance(X, Y) == pytest.approx(expected)


def test_frechet_distance_of_a_shift_is_its_square_and_of_identical_sets_0(sets):
    X, _ = sets
    assert frechet_distance(X, X + 3) == pytest.approx(9 * 5)
    assert frechet_distance(X, X) == pytest.approx(0, abs=1e-12)


def test_kernel_distance_equals_the_sum_over_pairs():
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(4, 3)), rng.normal(0.5, 1, size=(5, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within_x = np.mean([kernel(X[i], X[j]) for i in range(4) for j in range(4) if i != j])
    within_y = np.mean([kernel(Y[i], Y[j]) for i in range(5) for j in range(5) if i != j])
    between = np.mean([kernel(x, y) for x in X for y in Y])
    assert kernel_distance(X, Y) == pytest.approx(within_x + within_y - 2 * between)


def test_kernel_distance_has_no_small_sample_bias_where_the_frechet_distance_has():
    rng = np.random.default_rng(3)
    draws = [(rng.normal(size=(8, 4)), rng.normal(size=(8, 4))) for _ in range(400)]
    kernel = np.array([kernel_distance(X, Y) for X, Y in draws])
    frechet = np.array([frechet_distance(X, Y) for X, Y in draws])
    assert abs(kernel.mean()) < 3 * kernel.std() / np.sqrt(len(draws))
    assert frechet.mean() > 10 * frechet.std() / np.sqrt(len(draws))


@pytest.mark.parametrize("distance", [wasserstein_per_feature, frechet_distance, kernel_distance])
@pytest.mark.parametrize("rows", [7, 9])
def test_a_stack_of_sets_is_measured_as_each_pair_alone(distance, rows):
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(3, 7, 5)), rng.normal(0.3, 1, size=(3, rows, 5))
    np.testing.assert_allclose(distance(X, Y), [distance(x, y) for x, y in zip(X, Y, strict=True)], rtol=1e-9)


@pytest.mark.parametrize("distance", [wasserstein_per_feature, frechet_distance, kernel_distance])
def test_unusable_sets_are_refused(sets, distance):
    X, Y = sets
    with pytest.raises(ValueError, match=r"expected \(..., N, F\) and \(..., M, F\)"):
        distance(X, Y[:, 1:])
    with pytest.raises(ValueError, match="NaN"):
        distance(X * np.nan, Y)
    with pytest.raises(ValueError, match="rows"):
        distance(X[:0], Y)
