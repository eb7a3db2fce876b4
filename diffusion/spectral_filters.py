"""Linear filters between two kinds of CT, fitted to the power spectra of unpaired patches: where a translation begins.

For stationary Gaussian textures with spectra S_A and S_B, the filter √(S_B / S_A) turns one into the other. It is right
where the kinds are filters of the same data, as kernels are. Where B has the same noise and less of it, as at a higher
dose, the Wiener filter S / (S + S_A - S_B), with S the spectrum of B with its anatomy, has the least squared error; and
noise of the spectrum S_A - S_B turns B into A.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy import fft
from torch import Tensor
from torch.nn import functional as F

from diffusion.option_types import Difference

EDGE = 16  # voxels of the patches that spectra are taken of
GRID = 32  # voxels; grid of a gain that is known at any frequency
TAPS = 15  # of a filter along each axis
STRIDE = 8  # voxels between patches of a scan
FLAT = 0.05  # share of a scan's patches, those with the least anatomy, whose spectra count
MOST_PATCHES = 2000  # of a scan
MOST_GAIN = 12.0  # of an amplitude
ANATOMY = 0.1  # cycles per voxel, below which anatomy hides what the kinds differ in


class Filters(NamedTuple):
    """From one kind to the other, (TAPS, TAPS, TAPS) each, symmetric.

    Attributes:
        expected: The best linear estimate of the wanted image; sums to 1.
        texture: Gives the wanted texture from the source's; sums to 1.
        noise: Gives, from white noise, what then lacks of the wanted texture; 0 for kernels.
    """

    expected: Tensor
    texture: Tensor
    noise: Tensor


def power_of(scans: Iterable[np.ndarray], difference: Difference, share: float = FLAT) -> np.ndarray:
    """Mean power of the flattest patches by frequency, every scan counted alike.

    Args:
        scans: (D, H, W) each, any unit U; each axis at least `EDGE`.
        difference: The mean over scans is arithmetic for "dose", where powers of noise add, else geometric.
        share: Of a scan's patches that count, those with the least anatomy; 1 takes all.
    Returns: (EDGE, EDGE, EDGE), U²; the same in all directions of a plane.
    Raises: ValueError: If there is no scan, or one is smaller than a patch.
    """
    powers = [_scan_power(scan, share) for scan in scans]
    if not powers:
        raise ValueError("no scan to take a spectrum of; check the folder")
    chosen = np.maximum(np.stack(powers), 1e-12)
    return _even(chosen.mean(0) if difference == "dose" else np.exp(np.log(chosen).mean(0)))


def _scan_power(scan: np.ndarray, share: float) -> np.ndarray:
    """Mean power of the patches of a scan that vary least on the scale of 4 voxels."""
    if min(scan.shape) < EDGE:
        raise ValueError(f"scan of {scan.shape} voxels, expected at least {EDGE} along each axis")
    window = np.hanning(EDGE + 2)[1:-1]
    window = window[:, None, None] * window[:, None] * window
    corners = np.stack(np.meshgrid(*[np.arange(0, size - EDGE + 1, STRIDE) for size in scan.shape]), -1).reshape(-1, 3)
    corners = corners[:: -(-len(corners) // MOST_PATCHES)]
    boxes = [tuple(slice(first, first + EDGE) for first in corner) for corner in corners]
    anatomy = [scan[box].reshape(3 * (EDGE // 4, 4)).mean(axis=(1, 3, 5)).var() for box in boxes]
    flat = np.argsort(anatomy)[: max(round(share * len(boxes)), 1)]
    patches = np.stack([np.asarray(scan[boxes[index]], np.float64) for index in flat])
    centred = patches - patches.mean((1, 2, 3), keepdims=True)
    return (np.abs(fft.fftn(window * centred, axes=(1, 2, 3))) ** 2).mean(0) / (window**2).sum()


def filters(
    source: np.ndarray, wanted: np.ndarray, difference: Difference, signal: np.ndarray | None = None
) -> Filters:
    """Filters from the powers of both kinds; the identity if nothing is known of what they differ in.

    Args:
        source, wanted: From :func:`power_of`, of flat patches, which show the noise.
        difference: Of the two.
        signal: Power of the wanted kind with its anatomy, all patches; None takes `wanted`.
    """
    if difference == "unknown":
        same = torch.zeros(3 * (TAPS,))
        same[3 * (TAPS // 2,)] = 1
        return Filters(same, same, torch.zeros_like(same))
    if difference == "kernel":
        gain = _smooth_gain(wanted / source)
        return Filters(_taps(gain), _taps(gain), torch.zeros(3 * (TAPS,)))
    frequency = np.hypot(*_frequencies(EDGE))
    weight = frequency**2 / (frequency**2 + ANATOMY**2)
    excess = weight * np.maximum(source - wanted, 0)
    wiener = 1 / (1 + excess / (wanted if signal is None else signal))
    texture = np.sqrt(wanted / (wanted + excess))
    lack = np.sqrt(weight * np.maximum(wanted - source, 0))
    return Filters(_taps(wiener), _taps(texture), _taps(lack, mean=None))


def _smooth_gain(ratio: np.ndarray) -> np.ndarray:
    """√ of a ratio of powers in the plane, as exp of a polynomial in f² and f⁴ that is 0 at frequency 0.

    Patients of one kind may have more texture than those of the other at all frequencies, or thinner slices. This is
    fitted too, as a constant and a polynomial of f_z, and left out: a kernel leaves the mean and the z axis as they
    are.
    """
    along, plane = (np.broadcast_to(f, ratio.shape) for f in _frequencies(EDGE))
    terms = np.stack([plane**2, plane**4, along**2, along**4, np.ones_like(plane)], axis=-1)
    counted = np.hypot(along, plane) > ANATOMY
    fit, *_ = np.linalg.lstsq(terms[counted], 0.5 * np.log(ratio[counted]), rcond=None)
    plane = np.broadcast_to(_frequencies(GRID)[1], 3 * (GRID,))
    return np.exp(np.clip(fit[0] * plane**2 + fit[1] * plane**4, -np.log(MOST_GAIN), np.log(MOST_GAIN)))


def filtered(volume: Tensor, taps: Tensor) -> Tensor:
    """Convolve with a symmetric filter; the volume is mirrored at its borders.

    Args:
        volume: (B, 1, D, H, W), each axis longer than `TAPS` // 2.
        taps: (TAPS, TAPS, TAPS).
    Returns: Same shape, float32.
    """
    half = TAPS // 2
    padded = F.pad(volume.float(), 6 * (half,), mode="reflect")
    shape = [fft.next_fast_len(size, real=True) for size in padded.shape[2:]]
    kernel = torch.fft.rfftn(taps.to(padded), s=shape)
    made = torch.fft.irfftn(torch.fft.rfftn(padded, s=shape, dim=(2, 3, 4)) * kernel, s=shape, dim=(2, 3, 4))
    return made[(..., *[slice(2 * half, 2 * half + size) for size in volume.shape[2:]])]


def _frequencies(edge: int) -> tuple[np.ndarray, np.ndarray]:
    """|f_z| and the frequency in the plane, cycles per voxel, that broadcast to (edge, edge, edge)."""
    f = fft.fftfreq(edge)
    return np.abs(f)[:, None, None], np.hypot(f[:, None], f)[None]


def _even(power: np.ndarray) -> np.ndarray:
    """The mean over rings in the plane, a cell of frequency wide, and over ±z, each ring given its mean."""
    along, plane = _frequencies(EDGE)
    rings = np.broadcast_to(np.rint(plane * EDGE).astype(int), power.shape)
    slices = np.broadcast_to(np.rint(along * EDGE).astype(int), power.shape)
    number = rings + (rings.max() + 1) * slices
    sums, counts = np.bincount(number.ravel(), power.ravel()), np.bincount(number.ravel())
    return (sums / np.maximum(counts, 1))[number]


def _taps(gain: np.ndarray, mean: float | None = 1.0) -> Tensor:
    """A gain at each frequency as a short symmetric filter, tapered, that sums to `mean`."""
    middle = len(gain) // 2
    full = fft.fftshift(fft.ifftn(gain).real)[3 * (slice(middle - TAPS // 2, middle + TAPS // 2 + 1),)]
    taper = np.cos(np.pi * (np.arange(TAPS) - TAPS // 2) / (TAPS + 3)) ** 2
    short = full * taper[:, None, None] * taper[:, None] * taper
    if mean is not None:
        short[3 * (TAPS // 2,)] += mean - short.sum()
    return torch.from_numpy(short).float()
