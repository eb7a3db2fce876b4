"""Distances between two sets of feature vectors: Wasserstein per feature, Fréchet, and kernel (KID).

Every function takes X (..., N, F) and Y (..., M, F), float, one row per lesion (or slice), and neither changes nor
stores them. Leading axes, equal in both, are a stack of pairs of sets that is measured in one call: a permutation test
needs tens of thousands of distances.
"""

from collections.abc import Callable

import numpy as np

KERNEL_ROWS = 4000  # of two sets in the kernel distance: 16 million kernel values at a time
QR_ROWS = 2000  # that are centred at a time, at least
SetDistance = Callable[[np.ndarray, np.ndarray], float]
VectorDistance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (..., N, F), (..., M, F) -> (..., values)


def wasserstein_per_feature(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """1D Wasserstein-1 distance of each feature's two distributions: ∫ |F_x − F_y| of the empirical distributions.

    Table 1 of the texture-loss proposal gives the mean and, in brackets, the standard deviation of this vector over the
    features.

    Args:
        X, Y: (..., N, F) and (..., M, F).
    Returns: (..., F), each in its feature's unit; 0 for identical sets.
    Raises: ValueError: If the numbers of features differ, a set is empty or a value is not finite.
    Examples:
        >>> X = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])  # three lesions, two features
        >>> wasserstein_per_feature(X, X + [0, 2])  # the second feature is shifted by 2
        array([0., 2.])
    """
    _check(X, Y, rows=1)
    n, m = X.shape[-2], Y.shape[-2]
    if n == m:
        return np.abs(np.sort(X, axis=-2) - np.sort(Y, axis=-2)).mean(axis=-2)
    values = np.concatenate([X, Y], axis=-2)
    order = np.argsort(values, axis=-2)
    difference = np.cumsum(np.where(order < n, 1 / n, -1 / m), axis=-2)  # F_x − F_y right of each value
    steps = np.diff(np.take_along_axis(values, order, axis=-2), axis=-2)
    return (np.abs(difference[..., :-1, :]) * steps).sum(axis=-2)


def standardised_wasserstein(scale: np.ndarray) -> VectorDistance:
    """`wasserstein_per_feature` with each feature divided by `scale`, so that no unit dominates the mean.

    Args:
        scale: (F,), the standard deviation over the real lesions. Features that are constant there (0) are left out.
    Returns: A distance, no unit.
    """
    varying = scale > 0

    def per_feature(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        return wasserstein_per_feature(X[..., varying], Y[..., varying]) / scale[varying]

    return per_feature


def frechet_distance(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """|mean difference|² + tr(Σx + Σy − 2 (Σx Σy)^½), Gaussians fitted to both sets (Heusel et al. 2017, eq. 6).

    With centred rows A = (X − mean)/√(N−1) and B likewise, Σx = AᵀA, and the trace of (Σx Σy)^½ is the sum of the
    singular values of A Bᵀ: exact also with fewer rows than features, and no F × F matrix root is taken. A set of more
    rows than features is replaced by the triangle R of A = QR, which has the same RᵀR, so that time grows linearly with
    the number of rows.

    Args:
        X, Y: (..., N, F) and (..., M, F).
    Returns: (...), at least 0, in the features' unit squared; biased upwards for small sets, so read it beside real vs
        real of the same size.
    Raises: ValueError: As `wasserstein_per_feature`, or if a set has fewer than two rows.
    Examples:
        >>> X = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
        >>> round(float(frechet_distance(X, X + [0, 2])), 6)  # equal covariance: the squared shift of the mean
        4.0
    """
    _check(X, Y, rows=2)
    mean_x, mean_y = (Z.mean(axis=-2, keepdims=True, dtype=np.float64) for Z in (X, Y))
    A, B = _root(X, mean_x), _root(Y, mean_y)
    cross = np.linalg.svd(A @ np.swapaxes(B, -1, -2), compute_uv=False).sum(axis=-1)
    means = ((mean_x - mean_y) ** 2).sum(axis=(-2, -1))
    return np.maximum(means + (A**2).sum(axis=(-2, -1)) + (B**2).sum(axis=(-2, -1)) - 2 * cross, 0.0)


def kernel_distance(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """KID: squared maximum mean discrepancy with the kernel (x·y/F + 1)³, unbiased (Bińkowski et al. 2018, eq. 4).

    Its expectation does not depend on the sets' sizes, unlike the Fréchet distance's. Sets of more than `KERNEL_ROWS`
    rows are dealt out to interleaved parts of at most so many, and the parts' distances are averaged: unbiased as well,
    the way KID is usually computed, and in linear time.

    Args:
        X, Y: (..., N, F) and (..., M, F).
    Returns: (...), no unit; 0 on average for sets of one distribution, and below 0 about half the time then.
    Raises: ValueError: As `frechet_distance`.
    """
    _check(X, Y, rows=2)
    n, m = X.shape[-2], Y.shape[-2]
    parts = max(1, min(-(-max(n, m) // KERNEL_ROWS), min(n, m) // 2))
    return np.mean([_kernel_distance(X[..., k::parts, :], Y[..., k::parts, :]) for k in range(parts)], axis=0)


def _kernel_distance(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    X, Y = X.astype(np.float64, copy=False), Y.astype(np.float64, copy=False)
    n, m = X.shape[-2], Y.shape[-2]

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ np.swapaxes(b, -1, -2) / a.shape[-1] + 1) ** 3

    def between_rows(gram: np.ndarray) -> np.ndarray:
        return gram.sum(axis=(-2, -1)) - np.trace(gram, axis1=-2, axis2=-1)

    within_x = between_rows(kernel(X, X)) / (n * (n - 1))
    within_y = between_rows(kernel(Y, Y)) / (m * (m - 1))
    return within_x + within_y - 2 * kernel(X, Y).mean(axis=(-2, -1))


def _root(X: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """R with RᵀR = the covariance of the rows, float64 (..., min(N, F), F).

    The triangle of a QR decomposition, taken of some rows at a time: the centred rows of all would be a second set.
    """
    n, features = X.shape[-2:]
    scale = np.sqrt(n - 1)
    if n <= features:
        return (X - mean) / scale
    rows = max(QR_ROWS, 3 * features)
    R = np.asarray(np.linalg.qr((X[..., :rows, :] - mean) / scale, mode="r"))
    for start in range(rows, n, rows):
        block = (X[..., start : start + rows, :] - mean) / scale
        R = np.asarray(np.linalg.qr(np.concatenate([R, block], axis=-2), mode="r"))
    return R


def _check(X: np.ndarray, Y: np.ndarray, rows: int) -> None:
    if min(X.ndim, Y.ndim) < 2 or (X.shape[:-2], X.shape[-1]) != (Y.shape[:-2], Y.shape[-1]):
        raise ValueError(f"sets have shapes {X.shape} and {Y.shape}, expected (..., N, F) and (..., M, F)")
    if min(X.shape[-2], Y.shape[-2]) < rows:
        raise ValueError(
            f"sets have {X.shape[-2]} and {Y.shape[-2]} rows, expected at least {rows} in each; give more lesions"
        )
    if not (np.isfinite(X).all() and np.isfinite(Y).all()):
        raise ValueError("sets have NaN or infinite features; leave those lesions out")
