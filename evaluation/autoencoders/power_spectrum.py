"""How much of a CT's texture survives: the power of a reconstruction over that of the original, by spatial frequency.

Noise is all that a homogeneous region holds, so its ratio there says how much noise texture is left: 1 keeps it, 0 is
perfectly smooth. Whether it is the same noise is not requested; that is what errors are for.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, minimum_filter, uniform_filter

from imaging.boxes import mask_box

BANDS = {"coarse": (0.0, 0.2), "middle": (0.2, 0.4), "fine": (0.4, 0.7), "finest": (0.7, 1.0)}  # of the Nyquist
SHELLS = 8  # of the drawn curve; a box of 16 voxels has a frequency in each
MIN_EDGE = 2 * SHELLS  # voxels
STRUCTURE_MM = 2.0  # vessels and borders are coarser, noise is finer


def nyquist_per_mm(spacing_mm: Sequence[float]) -> float:
    """The frequency up to which every direction of the grid has frequencies.

    Args:
        spacing_mm: (z, y, x).
    Returns: 1 / (2 · coarsest spacing), cycles per mm.
    """
    return 0.5 / max(spacing_mm)


def band_edges_per_mm(spacing_mm: Sequence[float]) -> np.ndarray:
    """Borders of `BANDS`.

    Args:
        spacing_mm: (z, y, x).
    Returns: (5,), cycles per mm: 0, 0.1, 0.2, 0.35, 0.5 at 1 mm.
    """
    return np.array([0.0, *(high for _, high in BANDS.values())]) * nyquist_per_mm(spacing_mm)


def shell_edges_per_mm(spacing_mm: Sequence[float]) -> np.ndarray:
    """Borders of the curve's shells, which have equal widths.

    Args:
        spacing_mm: (z, y, x).
    Returns: (SHELLS + 1,), cycles per mm.
    """
    return np.linspace(0.0, nyquist_per_mm(spacing_mm), SHELLS + 1)


def power_spectrum(volume: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Power spectral density of a volume, windowed against its borders.

    |FFT(w · (x − mean))|² · voxel volume / Σw², with w the 3D Hann window: white noise of variance σ² has the density
    σ² · voxel volume at every frequency.

    Args:
        volume: (D, H, W), any unit U; finite, without padding.
        spacing_mm: (z, y, x).
    Returns: Density (D, H, W), U² mm³; and the radial frequency of each entry, cycles per mm.
    """
    axes = [np.hanning(size + 2)[1:-1] for size in volume.shape]
    window = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    transform = np.fft.fftn(window * (volume - volume.mean(dtype=np.float64)))
    density = np.abs(transform) ** 2 * np.prod(spacing_mm) / (window**2).sum()
    grid = np.meshgrid(*map(np.fft.fftfreq, volume.shape, spacing_mm), indexing="ij", sparse=True)
    return density, np.sqrt(sum(f**2 for f in grid))


def power_ratio(
    reconstruction: np.ndarray, original: np.ndarray, spacing_mm: Sequence[float], edges_per_mm: np.ndarray
) -> np.ndarray:
    """Power of the reconstruction over that of the original, summed over each frequency shell.

    Args:
        reconstruction, original: (D, H, W), the same unit; without padding.
        spacing_mm: (z, y, x).
        edges_per_mm: (K + 1,) rising, cycles per mm. A shell holds low < f ≤ high, so the mean is in none.
    Returns: (K,), no unit; exactly 1 for equal volumes.
    Raises: ValueError: If shapes differ, an axis has fewer than 16 voxels, or the original is constant.
    """
    if reconstruction.shape != original.shape:
        raise ValueError(f"reconstruction has shape {reconstruction.shape} and original {original.shape}")
    if min(original.shape) < MIN_EDGE:
        raise ValueError(f"volumes of {original.shape} voxels, expected at least {MIN_EDGE} on each axis")
    if np.ptp(original) == 0:
        raise ValueError(f"the original is {original.flat[0]} everywhere and has no power to compare with")
    made, frequency = power_spectrum(reconstruction, spacing_mm)
    true, _ = power_spectrum(original, spacing_mm)
    shell = np.searchsorted(edges_per_mm, frequency.ravel() * (1 - 1e-12))  # low < f ≤ high, up to rounding
    made_power, true_power = (np.bincount(shell, p.ravel(), len(edges_per_mm) + 1)[1:-1] for p in (made, true))
    return made_power / true_power


def valid_box(valid_mask: np.ndarray) -> tuple[slice, ...] | None:
    """The box of the valid voxels, padding cut off.

    Args:
        valid_mask: (D, H, W) bool, False on padding.
    Returns: Its slices, or None if padding is in it or an axis has fewer than 16 voxels.
    """
    if not valid_mask.any():
        return None
    box = mask_box(valid_mask)
    return box if valid_mask[box].all() and min(valid_mask[box].shape) >= MIN_EDGE else None


def homogeneous_box(
    ct_norm: np.ndarray, allowed_mask: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[slice, ...] | None:
    """The cube of 16 voxels with the least structure: the smallest variance after a Gaussian of 2 mm.

    Args:
        ct_norm: (D, H, W), the original.
        allowed_mask: Non-zero where the cube may lie: valid, no lesion, not clipped.
        spacing_mm: (z, y, x).
    Returns: Its slices, or None if none lies wholly in the allowed voxels.
    """
    inside = minimum_filter((allowed_mask != 0).astype(np.uint8), MIN_EDGE, mode="constant", cval=0) > 0
    if not inside.any():
        return None
    structure = gaussian_filter(ct_norm.astype(np.float64), [STRUCTURE_MM / s for s in spacing_mm])
    variance = uniform_filter(structure**2, MIN_EDGE) - uniform_filter(structure, MIN_EDGE) ** 2
    centre = np.unravel_index(np.argmin(np.where(inside, variance, np.inf)), ct_norm.shape)
    return tuple(slice(int(c) - MIN_EDGE // 2, int(c) + MIN_EDGE // 2) for c in centre)
