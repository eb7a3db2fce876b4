"""The Gaussian blur that is as wrong as a reconstruction: what an autoencoder has to beat at its own PSNR."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq

TOLERANCE_MM = 1e-4


def blur_valid(volume: np.ndarray, valid_mask: np.ndarray, sigma_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Gaussian blur that sees valid voxels only: G(volume · valid) / G(valid), a normalised convolution.

    Beyond the volume's border is padding, too.

    Args:
        volume: (D, H, W), any unit.
        valid_mask: Same shape, 0 on padding.
        sigma_mm: Standard deviation of the Gaussian, the same in mm along each axis; 0 changes nothing.
        spacing_mm: (z, y, x).
    Returns: Same shape, float64; 0 on padding.
    """
    valid = np.asarray(valid_mask) != 0
    inside = np.where(valid, volume, 0.0).astype(np.float64)
    sigmas = [sigma_mm / s for s in spacing_mm]
    weight = gaussian_filter(valid.astype(np.float64), sigmas, mode="constant")
    return np.where(valid, gaussian_filter(inside, sigmas, mode="constant") / np.where(valid, weight, 1.0), 0.0)


def matched_sigma_mm(
    original: np.ndarray, reconstruction: np.ndarray, valid_mask: np.ndarray, spacing_mm: Sequence[float]
) -> float | None:
    """Standard deviation of the blur whose mean squared error, hence PSNR, equals the reconstruction's.

    The root is bracketed by no blur and a blur as wide as the volume, and found by Brent's bisection.

    Args:
        original, reconstruction: (D, H, W), the same unit.
        valid_mask: Same shape, 0 on padding, which does not count.
        spacing_mm: (z, y, x).
    Returns: mm; 0 for equal volumes; None if even the widest blur is closer to the original than the reconstruction.
    """
    valid = np.asarray(valid_mask) != 0

    def squared_error(made: np.ndarray) -> float:
        return float(((made - original)[valid].astype(np.float64) ** 2).mean())

    target = squared_error(reconstruction)

    def excess(sigma_mm: float) -> float:
        return squared_error(blur_valid(original, valid, sigma_mm, spacing_mm)) - target

    widest = max(size * s for size, s in zip(original.shape, spacing_mm, strict=True))
    if target == 0:
        return 0.0
    if excess(widest) <= 0:
        return None
    return float(brentq(excess, 0.0, widest, xtol=TOLERANCE_MM))
