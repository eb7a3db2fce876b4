"""Noise like that of a scan, for the painted region, because the output of a model has less noise than the CT."""

import numpy as np
from scipy.ndimage import uniform_filter

CLIPPED_AT = 3.0  # robust standard deviations: edges that a model has not met exactly are no noise
QUIET_SHARE = 0.3  # of what is known: where the residual is smallest, it is noise and not vessels
LAGS = 8  # voxels, beyond which noise is not correlated
BOX = 5  # voxels over which that is judged


def noise_like(residual_hu: np.ndarray, known: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Stationary Gaussian noise with the power spectrum of a residual.

    Its autocorrelation at lag d is Σ r(x) r(x + d) over the pairs of which both voxels are known, divided by their
    number; P is its Fourier transform, tapered, and noise = IFFT(√P · FFT(white)) (Wiener-Khinchin).

    Only the quietest part of the residual is used, because fine vessels that a model has lost are not noise.

    Args:
        residual_hu: The CT minus its reconstruction by the model, (D, H, W), HU.
        known: Same shape; where the residual is the scan's.
        white: Standard normal, same shape; decides the draw.
    Returns: float32, same shape, HU; 0 where nothing is known.
    """
    inside = np.asarray(known) > 0
    if not inside.any():
        return np.zeros(np.shape(residual_hu), np.float32)
    inside = _quiet(residual_hu, inside)
    noise = np.zeros(np.shape(residual_hu))
    noise[inside] = clipped_to_noise(residual_hu[inside].astype(np.float64))
    noise[inside] -= noise[inside].mean()

    def lagged_sum(volume: np.ndarray) -> np.ndarray:
        return np.fft.irfftn(np.abs(np.fft.rfftn(volume)) ** 2, s=volume.shape, axes=(0, 1, 2))

    autocorrelation = lagged_sum(noise) / np.maximum(lagged_sum(inside.astype(np.float64)), 1)
    size: int
    for axis, size in enumerate(noise.shape):
        lag = np.abs(np.fft.fftfreq(size, 1 / size))
        taper = np.where(lag < LAGS, 0.5 + 0.5 * np.cos(np.pi * lag / LAGS), 0)
        autocorrelation = autocorrelation * np.expand_dims(taper, [other for other in range(3) if other != axis])
    power = np.fft.rfftn(autocorrelation).real.clip(0)
    made = np.fft.irfftn(np.sqrt(power) * np.fft.rfftn(white), s=noise.shape, axes=(0, 1, 2))
    return made.astype(np.float32)


def clipped_to_noise(residual_hu: np.ndarray) -> np.ndarray:
    """A residual of which no more is left than noise can be: within 3 robust standard deviations of its median."""
    middle = np.median(residual_hu)
    most = CLIPPED_AT * 1.4826 * np.median(np.abs(residual_hu - middle))
    return np.clip(residual_hu, middle - most, middle + most)


def _quiet(residual_hu: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The share of the known voxels around which the residual varies least."""
    weight = uniform_filter(known.astype(np.float64), BOX)
    masked = np.where(known, residual_hu, 0).astype(np.float64)
    mean, square = (uniform_filter(masked**power, BOX) / np.maximum(weight, 1e-9) for power in (1, 2))
    variance = np.where(known & (weight > 0.5), square - mean**2, np.inf)
    if not np.isfinite(variance).any():
        return known
    return variance <= np.quantile(variance[np.isfinite(variance)], QUIET_SHARE)
