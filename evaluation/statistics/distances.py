"""Distances between two sets of feature vectors: Wasserstein per feature, Fréchet, and kernel (KID).

Every function takes X (N, F) and Y (M, F), float, one row per lesion (or slice), and neither changes nor stores them.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import wasserstein_distance

SetDistance = Callable[[np.ndarray, np.ndarray], float]
VectorDistance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # one value per feature


def wasserstein_per_feature(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """1D Wasserstein-1 distance of each feature's two distributions (scipy).

    The source's Table 1 gives the mean and, in brackets, the standard deviation of this vector over the features.

    Returns: (F,), each in its feature's unit; 0 for identical sets.
    Raises: ValueError: If the numbers of features differ, a set is empty or a value is not finite.
    """
    _check(X, Y, rows=1)
    return np.array([wasserstein_distance(x, y) for x, y in zip(X.T, Y.T, strict=True)])


def standardised_wasserstein(scale: np.ndarray) -> VectorDistance:
    """`wasserstein_per_feature` with each feature divided by `scale`, so that no unit dominates the mean.

    Args:
        scale: (F,), the standard deviation over the real lesions. Features that are constant there (0) are left out.
    """
    varying = scale > 0

    def per_feature(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        return wasserstein_per_feature(X[:, varying], Y[:, varying]) / scale[varying]

    return per_feature


def frechet_distance(X: np.ndarray, Y: np.ndarray) -> float:
    """|mean difference|² + tr(Σx + Σy − 2 (Σx Σy)^½), Gaussians fitted to both sets (Heusel et al. 2017, eq. 6).

    With centred rows A = (X − mean)/√(N−1) and B likewise, Σx = AᵀA, and the trace of (Σx Σy)^½ is the sum of the
    singular values of A Bᵀ: exact also with fewer rows than features, and no F × F matrix root is taken.

    Returns: At least 0; biased upwards for small sets, so read it beside real vs real of the same size.
    Raises: ValueError: As `wasserstein_per_feature`, or if a set has fewer than two rows.
    """
    _check(X, Y, rows=2)
    mean_x, mean_y = X.mean(0), Y.mean(0)
    A = (X - mean_x) / np.sqrt(len(X) - 1)
    B = (Y - mean_y) / np.sqrt(len(Y) - 1)
    cross = np.linalg.svd(A @ B.T, compute_uv=False).sum()
    return max(float(((mean_x - mean_y) ** 2).sum() + (A**2).sum() + (B**2).sum() - 2 * cross), 0.0)


def kernel_distance(X: np.ndarray, Y: np.ndarray) -> float:
    """KID: squared maximum mean discrepancy with the kernel (x·y/F + 1)³, unbiased (Bińkowski et al. 2018, eq. 4).

    Its expectation does not depend on the sets' sizes, unlike the Fréchet distance's.

    Returns: 0 on average for sets of one distribution, and below 0 about half the time then.
    Raises: ValueError: As `frechet_distance`.
    """
    _check(X, Y, rows=2)
    n, m = len(X), len(Y)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    kxx, kyy = kernel(X, X), kernel(Y, Y)
    within_x = (kxx.sum() - np.trace(kxx)) / (n * (n - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * kernel(X, Y).mean())


def _check(X: np.ndarray, Y: np.ndarray, rows: int) -> None:
    if X.ndim != 2 or Y.ndim != 2 or X.shape[1] != Y.shape[1]:
        raise ValueError(f"sets have shapes {X.shape} and {Y.shape}, expected (N, F) and (M, F)")
    if min(len(X), len(Y)) < rows:
        raise ValueError(f"sets have {len(X)} and {len(Y)} rows, expected at least {rows} in each")
    if not (np.isfinite(X).all() and np.isfinite(Y).all()):
        raise ValueError("sets have NaN or infinite features; leave those lesions out")
