"""Noise like that of a scan, for the painted region, because the output of a model has less noise than the CT."""

import numpy as np
from scipy import fft
from scipy.ndimage import maximum_filter
from scipy.stats import norm

STRUCTURE_AT = 3.0  # robust standard deviations: what is beyond is structure that a model has lost, and no noise
TRUNCATED_AT = 1.5  # standard deviations within which the deviation is estimated: low, so that structure counts little
LAGS = 8  # voxels, beyond which noise is not correlated
ROUNDS, SIMULATED = 3, 2  # of the calibration, and noise volumes drawn in each


def noise_like(residual_hu: np.ndarray, known: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Stationary Gaussian noise with the variance and the power spectrum of the noise in a residual.

    A model also loses fine vessels and edges. So voxels beyond 3 σ (`robust_deviation`) are left out, each with its 26
    neighbours, and the autocorrelation at lag d is taken over the pairs of voxels that are left,

        K(d) = Σ r(x) r(x + d) / number of pairs.

    This leaves out large values of the noise, too, so K is smaller than the noise's own autocorrelation A. The
    correction simulates it: noise drawn with the right A, on the same known voxels, gives the same K. From A = K,

        A ← s A + (K[residual] - s K[simulated]),  s = K[residual](0) / K[simulated](0),

    three times (indirect inference: Gourieroux, Monfort & Renault 1993, "Indirect inference"). So the estimate has no
    bias for stationary Gaussian noise, whatever its correlation and the shape of the region.

    Noise is drawn as IFFT(√P · FFT(white)), with P the Fourier transform of A, tapered and cut at 0 (Wiener-Khinchin).

    Args:
        residual_hu: The CT minus its reconstruction by the model, (D, H, W), HU.
        known: Same shape; where the residual is the scan's.
        white: Standard normal, same shape; decides the draw. The simulated noise is always the same.
    Returns: float32, same shape, HU; 0 where nothing is known.
    """
    inside = np.asarray(known) > 0
    if not inside.any():
        return np.zeros(np.shape(residual_hu), np.float32)
    measured = _autocorrelation(np.asarray(residual_hu, np.float32), inside)
    model, random = measured, np.random.default_rng(0)
    simulated_white = [random.standard_normal(inside.shape, np.float32) for _ in range(SIMULATED)]
    if measured.flat[0] > 0:
        for _ in range(ROUNDS):
            simulated = np.mean([_autocorrelation(_drawn(model, draw), inside) for draw in simulated_white], axis=0)
            scale = measured.flat[0] / simulated.flat[0]
            model = scale * model + (measured - scale * simulated)
    return _drawn(model, white).astype(np.float32)


def robust_deviation(values: np.ndarray) -> float:
    """Standard deviation of a Gaussian sample in which some values are far off, around its median.

    It solves σ² = mean(r² : |r| ≤ k σ) / c with k = 1.5 and c = 1 - 2 k φ(k) / (2 Φ(k) - 1), the variance of a standard
    normal that is truncated at ±k; iterated from the lower quartile of |r| over that of a standard normal's, so that
    values far off may be more than half of all.

    Args:
        values: Any shape, not empty.
    Returns: In the unit of the values; 0 where a quarter of them equal the median.
    """
    centred = np.abs(values - np.median(values))
    deviation = float(np.quantile(centred, 0.25) / norm.ppf(0.625))
    within = 2 * norm.cdf(TRUNCATED_AT) - 1
    truncated_variance = 1 - 2 * TRUNCATED_AT * norm.pdf(TRUNCATED_AT) / within
    for _ in range(20):
        before, kept = deviation, centred[centred <= TRUNCATED_AT * deviation]
        deviation = float(np.sqrt(np.mean(kept**2) / truncated_variance))
        if abs(deviation - before) <= 1e-3 * before:
            break
    return deviation


def clipped_to_noise(residual_hu: np.ndarray) -> np.ndarray:
    """A residual of which no more is left than noise can be: within 3 robust standard deviations of its median."""
    middle = np.median(residual_hu)
    most = STRUCTURE_AT * 1.4826 * np.median(np.abs(residual_hu - middle))
    return np.clip(residual_hu, middle - most, middle + most)


def _autocorrelation(residual: np.ndarray, known: np.ndarray) -> np.ndarray:
    """K(d) of the known voxels without structure, at the lags of an FFT of the volume."""
    values = residual[known]
    far = np.abs(residual - np.median(values)) > STRUCTURE_AT * robust_deviation(values)
    left = known & (maximum_filter((far & known).view(np.uint8), 3) == 0)
    left = left if left.any() else known
    centred = np.where(left, residual - residual[left].mean(), np.float32(0))
    padded = [fft.next_fast_len(size + LAGS, real=True) for size in known.shape]  # no pair across the border

    def lagged_sum(volume: np.ndarray) -> np.ndarray:
        return fft.irfftn(np.abs(fft.rfftn(volume, padded)) ** 2, padded)

    pairs = np.maximum(np.rint(lagged_sum(left.astype(np.float32))), 1)
    lags = [np.rint(fft.fftfreq(size, 1 / size)).astype(int) for size in known.shape]
    return (lagged_sum(centred) / pairs)[np.ix_(*lags)]


def _drawn(autocorrelation: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Gaussian noise of an autocorrelation, which is tapered to 0 at `LAGS` voxels."""
    tapered = autocorrelation
    for axis, size in enumerate(white.shape):
        lag = np.abs(fft.fftfreq(size, 1 / size))
        taper = np.where(lag < LAGS, 0.5 + 0.5 * np.cos(np.pi * lag / LAGS), 0)
        tapered = tapered * np.expand_dims(taper, [other for other in range(3) if other != axis])
    power = fft.rfftn(tapered).real.clip(0)
    return fft.irfftn(np.sqrt(power) * fft.rfftn(white), white.shape)
