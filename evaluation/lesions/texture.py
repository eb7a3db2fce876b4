"""Gabor-64: one 64-dimensional texture vector per lesion, of the foreground only.

8 frequencies x 8 orientations of scikit-image's Gabor kernel, applied slice by slice in the xy, xz and yz planes. The
source names neither its frequencies nor its bandwidth; ours follow Manjunath & Ma 1996 (0.05 to 0.4 cycles per voxel,
bandwidth one octave) and are constants below, so that figures stay comparable.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy.fft import next_fast_len
from skimage.filters import gabor_kernel

from imaging.boxes import mask_box

FREQUENCIES = tuple(float(f) for f in np.geomspace(0.05, 0.4, 8))  # cycles per voxel
ORIENTATIONS = tuple(k * np.pi / 8 for k in range(8))  # radians, in the slice's plane
BANDWIDTH = 1.0  # octaves
MIN_VOXELS = 8  # fewer than 2x2x2 foreground voxels carry no texture

GABOR_NAMES = tuple(f"f={f:.3f} θ={np.degrees(t):.1f}°" for f in FREQUENCIES for t in ORIENTATIONS)


def gabor_features(ct_norm: np.ndarray, lesion_mask: np.ndarray) -> np.ndarray:
    """Mean magnitude of each filter's response over the lesion, averaged over the three planes.

    Before filtering, the foreground's mean is subtracted and everything outside the mask is set to 0, so nothing
    outside the lesion has any influence and no step appears at its border. Each response equals
    `skimage.filters.gabor(slice, frequency, theta, bandwidth=1, mode="constant")`; it is computed by FFT on the
    lesion's bounding box.

    Args:
        ct_norm: (D, H, W), no unit. Frequencies are per voxel: compare only sets on the same grid.
        lesion_mask: (D, H, W), non-zero inside the lesion.
    Returns: (64,) float64, in the unit of `ct_norm`; orientation varies fastest. All 0 for a constant lesion.
    Raises: ValueError: If shapes differ, the mask has fewer than 8 voxels, or a foreground value is not finite.
    """
    mask = np.asarray(lesion_mask) != 0
    if mask.shape != ct_norm.shape or mask.ndim != 3:
        raise ValueError(f"ct_norm has shape {ct_norm.shape} and lesion_mask {mask.shape}, expected equal (D, H, W)")
    if mask.sum() < MIN_VOXELS:
        raise ValueError(f"lesion_mask has {mask.sum()} voxels, expected at least {MIN_VOXELS}; leave the lesion out")
    box = mask_box(mask)
    mask = mask[box]
    foreground = np.where(mask, ct_norm[box], 0).astype(np.float64)
    if not np.isfinite(foreground).all():
        raise ValueError("ct_norm has NaN or infinite values inside the lesion; leave the lesion out")
    if np.ptp(foreground[mask]) == 0:
        return np.zeros(len(GABOR_NAMES))
    foreground = np.where(mask, foreground - foreground[mask].mean(), 0)
    planes = [_plane_responses(np.moveaxis(foreground, axis, 0), np.moveaxis(mask, axis, 0)) for axis in range(3)]
    return np.mean(planes, axis=0)


def _plane_responses(slices: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(64,) mean response magnitude over the mask, the filters acting on the last two axes."""
    height, width = slices.shape[1:]
    size = (next_fast_len(2 * height - 1), next_fast_len(2 * width - 1))
    spectrum = torch.fft.fft2(torch.from_numpy(slices), s=size)
    inside = torch.from_numpy(mask)
    features: list[float] = []
    for frequency in FREQUENCIES:
        kernels = torch.stack([_kernel_on_box(frequency, theta, height, width, size) for theta in ORIENTATIONS])
        responses = torch.fft.ifft2(spectrum * torch.fft.fft2(kernels)[:, None])[:, :, :height, :width]
        features += responses.abs()[:, inside].mean(dim=1).tolist()
    return np.array(features)


@lru_cache(maxsize=len(GABOR_NAMES))
def _kernel(frequency: float, theta: float) -> np.ndarray:
    return gabor_kernel(frequency, theta=theta, bandwidth=BANDWIDTH)


def _kernel_on_box(frequency: float, theta: float, height: int, width: int, size: tuple[int, int]) -> torch.Tensor:
    """The kernel with its centre at index (0, 0) and negative offsets wrapped to the end, for a circular convolution.

    Offsets of `height` or `width` and more are dropped: inside the box they never meet a non-zero voxel.
    """
    kernel = _kernel(frequency, theta)
    wrapped = np.zeros(size, complex)
    rows = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    columns = np.arange(kernel.shape[1]) - kernel.shape[1] // 2
    keep_rows, keep_columns = np.abs(rows) < height, np.abs(columns) < width
    wrapped[np.ix_(rows[keep_rows], columns[keep_columns])] = kernel[np.ix_(keep_rows, keep_columns)]
    return torch.from_numpy(wrapped)
