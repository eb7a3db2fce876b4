"""The noise of a scan, made anew where something is painted: a model's output has less of it than the CT around."""

import numpy as np

CLIPPED_AT = 3.0  # robust standard deviations: edges that a model has not met exactly are no noise


def noise_like(residual_hu: np.ndarray, known: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Stationary Gaussian noise with the power spectrum of a residual.

    P(k) = |FFT(known · r)|² / Σ known, noise = IFFT(√P · FFT(white)): so its autocorrelation is that of the residual
    where it is known (Galerne et al. 2011, "Random phase textures", for the case of a whole image).

    Args:
        residual_hu: What the model leaves of the CT, (D, H, W), HU.
        known: Same shape; where the residual is the scan's.
        white: Standard normal, same shape; decides the draw.
    Returns: float32, same shape, HU; 0 where nothing is known.
    """
    inside = np.asarray(known) > 0
    if not inside.any():
        return np.zeros(np.shape(residual_hu), np.float32)
    values = residual_hu[inside].astype(np.float64)
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    noise = np.zeros(np.shape(residual_hu))
    noise[inside] = np.clip(values - middle, -CLIPPED_AT * spread, CLIPPED_AT * spread)
    noise[inside] -= noise[inside].mean()
    amplitude = np.abs(np.fft.rfftn(noise)) / np.sqrt(inside.sum())
    return np.fft.irfftn(amplitude * np.fft.rfftn(white), s=noise.shape, axes=(0, 1, 2)).astype(np.float32)
