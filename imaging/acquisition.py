"""What a softer kernel or a lower dose does to a CT, simulated, so that a translation can be judged by the truth.

A kernel is a linear filter of the projections, and so of the axial image: its modulation transfer function multiplies
the spectrum in the plane. Quantum noise is Poisson in the counts behind the body; filtered back-projection makes of it
noise with a ramp-like spectrum, which is computed here, not assumed.
"""

import numpy as np
from scipy import fft

PADDING = 16  # voxels beyond the borders, mirrored, so that the filter does not wrap around
WATER_PER_MM = 0.02  # attenuation of water at 60-70 keV
CHEST_PER_MM = 0.011  # mean attenuation of a chest, half of which is lung


def soft_kernel(ct_hu: np.ndarray, spacing_mm: float, half_at_per_mm: float = 0.3) -> np.ndarray:
    """A CT as a softer kernel would reconstruct it.

    The transfer function in the axial plane is 2^-(f / f50)², from 1 at 0 to a half at f50; none along z.

    Args:
        ct_hu: (D, H, W), HU.
        spacing_mm: Of y and x.
        half_at_per_mm: f50, cycles per mm.
    Returns: float32, same shape.
    Raises: ValueError: If the spacing or the frequency is not positive.
    """
    if not (spacing_mm > 0 and half_at_per_mm > 0):
        raise ValueError(f"spacing {spacing_mm} mm, f50 {half_at_per_mm} per mm: expected numbers above 0")
    padded = np.pad(np.asarray(ct_hu, np.float32), ((0, 0), (PADDING, PADDING), (PADDING, PADDING)), mode="symmetric")
    rows, columns = (fft.fftfreq(padded.shape[1], spacing_mm), fft.rfftfreq(padded.shape[2], spacing_mm))
    transfer = np.exp2(-(rows[:, None] ** 2 + columns**2) / half_at_per_mm**2).astype(np.float32)
    soft = fft.irfft2(transfer * fft.rfft2(padded), padded.shape[1:])
    return soft[:, PADDING:-PADDING, PADDING:-PADDING].astype(np.float32)


def quantum_noise(shape: tuple[int, int, int], random: np.random.Generator, photons: float = 1e5) -> np.ndarray:
    """Noise of a reconstruction from counted photons, at 1 mm, of unit standard deviation.

    The projections of a cylinder like a chest (scikit-image's `radon`) give expected counts N = N0 exp(-p). Poisson
    counts and their logarithm are back-projected with a ramp and a cosine window (`iradon`), and the same without noise
    is subtracted. Axial slices are drawn apart and blurred along z by half a slice, as resampling to 1 mm does.

    Args:
        shape: (D, H, W), H and W at most 256.
        random: Draws the counts.
        photons: N0 of a ray. The noise is normalised; so many that the logarithm is close to linear.
    Returns: float32, (D, H, W).
    Raises: ValueError: If the slices are larger than 256.
    """
    from skimage.transform import iradon, radon

    if max(shape[1:]) > 256:
        raise ValueError(f"slices of {shape[1:]} voxels, expected at most 256 x 256")
    size = int(np.ceil(max(shape[1:]) * np.sqrt(2))) + 8  # the circle of the reconstruction holds the slice
    grid = np.arange(size) - size // 2
    cylinder = CHEST_PER_MM * (np.hypot(*np.meshgrid(grid, grid)) < size / 2 - 2)
    angles = np.linspace(0, 180, int(np.ceil(size * np.pi / 2)), endpoint=False)
    path = radon(cylinder, angles)
    counts = photons * np.exp(-path)
    corner = [(size - edge) // 2 for edge in shape[1:]]
    inner = tuple(slice(first, first + edge) for first, edge in zip(corner, shape[1:], strict=True))
    slices = []
    for _ in range(shape[0] + 2):
        measured = np.log(photons / np.maximum(random.poisson(counts), 1))
        slices.append(iradon(measured - path, angles, filter_name="cosine")[inner])
    noise = np.stack(slices)
    noise = 0.25 * noise[:-2] + 0.5 * noise[1:-1] + 0.25 * noise[2:]
    return (noise / noise.std()).astype(np.float32)
