"""The radial power spectrum inside a lesion: what shows mottling, which distances of texture alone can miss."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from imaging.boxes import mask_box

EDGES_PER_MM = (0.05, 0.1, 0.15, 0.2, 0.27, 0.35, 0.5)  # cycles per mm; 0.5 is the Nyquist frequency at 1 mm
SPECTRUM_NAMES = tuple(f"{low:g}-{high:g}/mm" for low, high in pairwise(EDGES_PER_MM))
SIZE = 48  # voxels that the lesion is padded to; a larger one has its own size
MIN_VOXELS = 8


def lesion_spectrum(ct_hu: np.ndarray, lesion_mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Power density of the foreground in shells of spatial frequency, in decibel of HU² mm³.

    The foreground's mean is subtracted and everything outside is 0, so that nothing outside has any influence:
    |FFT|² · voxel volume / foreground voxels, averaged over each shell. Of white noise of variance σ² that is
    σ² · voxel volume in every shell. The mask's shape takes part as it does in Gabor-64: compare in equal masks.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside.
        spacing_mm: (z, y, x).
    Returns: (6,), 10 log10 of the density in the shells of `EDGES_PER_MM`, low < f ≤ high.
    Raises: ValueError: If the mask has fewer than 8 voxels or a foreground value is not finite.
    """
    inside = np.asarray(lesion_mask) != 0
    count = int(inside.sum())
    if count < MIN_VOXELS:
        raise ValueError(f"lesion_mask has {count} voxels, expected at least {MIN_VOXELS}; leave the lesion out")
    box = mask_box(inside)
    values, inside = np.asarray(ct_hu, np.float64)[box], inside[box]
    if not np.isfinite(values[inside]).all():
        raise ValueError("ct_hu has NaN or infinite values inside the lesion; leave the lesion out")
    foreground = np.where(inside, values - values[inside].mean(), 0)
    size = [max(SIZE, edge) for edge in foreground.shape]
    density = np.abs(np.fft.fftn(foreground, size)) ** 2 * np.prod(spacing_mm) / count
    grid = np.meshgrid(*map(np.fft.fftfreq, size, spacing_mm), indexing="ij", sparse=True)
    frequency = np.sqrt(sum(f**2 for f in grid))
    shell = np.searchsorted(EDGES_PER_MM, frequency.ravel() * (1 - 1e-12))
    total, number = (np.bincount(shell, w, len(EDGES_PER_MM) + 1)[1:-1] for w in (density.ravel(), None))
    return 10 * np.log10(np.maximum(total / np.maximum(number, 1), 1e-3))
