"""Gabor texture loss (eq. 6) and its bank of filters, exact and at the cost of the lesion's box.

Three facts make it cheap without changing its value. The responses are linear, so only the difference of prediction
and target is filtered. The regions are zero outside the mask, so nothing beyond the lesion's box contributes. And a
Gabor filter with a round envelope is the product of a row filter and a column filter, so that filtering a slice is
two small matrix products, however long the kernel.
"""

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from autoencoder.losses.lesion_box import LesionCrop, Reduction, lesion_crops, reduce_samples, spacing_rows
from diffusion.option_types import PlaneReduction

PLANES = {"xy": (0, 1, 2), "xz": (1, 0, 2), "yz": (2, 0, 1)}  # (slice, row, column) axes of a (z, y, x) array
FREQUENCIES_PER_MM = tuple(float(f) for f in np.geomspace(0.05, 0.4, 8))  # periods of 20 to 2.5 mm


class GaborBank(nn.Module):
    """Complex 2D Gabor filters of several frequencies and orientations, with one trainable weight each.

    At 1 mm pixels the kernels are those of `skimage.filters.gabor_kernel(frequency, theta, bandwidth)`. Frequencies
    are in cycles per mm, and kernels are sampled at the pixel's size along rows and columns, so that a thick slice
    changes the kernel and not the texture it looks for.

    The weights are `floor + (1 - floor) * N_f * softmax(logits)`: non-negative, 1 at the start, and of mean 1 whatever
    the logits. A free weight would be driven to zero, since that makes any loss smallest; with a fixed sum they can
    only be shifted between filters, and `floor` keeps each from vanishing when descent shifts them all to the filter
    that is easiest to satisfy. `bank.requires_grad_(False)` holds them at 1.

    Args:
        frequencies: Cycles per mm.
        orientations: Number of angles, evenly spread over [0, pi); 0 is a harmonic along the columns' axis (x).
        bandwidth: Octaves; the envelope's sigma is inversely proportional to it and to the frequency.
        n_stds: Kernel half-size in sigmas, as in scikit-image.
        weight_floor: Smallest weight a filter can have, in [0, 1].
    Raises: ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        frequencies: Sequence[float] = FREQUENCIES_PER_MM,
        orientations: int = 8,
        bandwidth: float = 1.0,
        n_stds: float = 3.0,
        weight_floor: float = 0.1,
    ) -> None:
        super().__init__()
        if len(frequencies) == 0 or min(frequencies) <= 0:
            raise ValueError(f"frequencies {tuple(frequencies)}: expected positive cycles per mm, at least one")
        if orientations < 1:
            raise ValueError(f"orientations {orientations}: expected at least 1")
        if not 0 <= weight_floor <= 1:
            raise ValueError(f"weight_floor {weight_floor}: expected 0 (free to vanish) to 1 (not trainable)")
        self.frequency, self.theta = (
            grid.ravel()
            for grid in np.meshgrid(frequencies, np.arange(orientations) * np.pi / orientations, indexing="ij")
        )
        octave = 2.0**bandwidth
        self.sigma_mm = math.sqrt(math.log(2) / 2) / math.pi * (octave + 1) / (octave - 1) / self.frequency
        self.n_stds = n_stds
        self.weight_floor = weight_floor
        self.logits = nn.Parameter(torch.zeros(len(self.frequency)))

    def __len__(self) -> int:
        return len(self.frequency)

    def weights(self) -> Tensor:
        """Weight w of each filter, (N_f,), at least `weight_floor` and of mean 1."""
        softmax = torch.softmax(self.logits.to(torch.promote_types(self.logits.dtype, torch.float32)), dim=0)
        return self.weight_floor + (1 - self.weight_floor) * len(self) * softmax

    def representable(self, pixel_mm: tuple[float, float]) -> np.ndarray:
        """Which filters stay below the Nyquist frequency of both axes, (N_f,) bool; the others would alias.

        Args:
            pixel_mm: Size of a pixel along rows' axis and columns' axis.
        """
        row_frequency = self.frequency * np.abs(np.sin(self.theta)) * pixel_mm[0]
        column_frequency = self.frequency * np.abs(np.cos(self.theta)) * pixel_mm[1]
        return np.maximum(row_frequency, column_frequency) <= 0.5

    def kernels(self, pixel_mm: tuple[float, float] = (1.0, 1.0)) -> list[np.ndarray]:
        """The 2D kernels, complex, each of its own odd size (rows, columns); for looking at and for reference."""
        radius = [max(self._radius(mm)) for mm in pixel_mm]
        rows, columns = (self.factors(axis, radius[axis], pixel_mm[axis]) for axis in (0, 1))
        kernels = []
        for row, column, r, c in zip(rows, columns, self._radius(pixel_mm[0]), self._radius(pixel_mm[1]), strict=True):
            inner_row, inner_column = row[radius[0] - r : radius[0] + r + 1], column[radius[1] - c : radius[1] + c + 1]
            kernels.append(np.outer(inner_row, inner_column))
        return kernels

    def factors(self, axis: int, reach: int, voxel_mm: float) -> np.ndarray:
        """The 1D factor of each kernel along rows' axis (0) or columns' axis (1), complex, (N_f, 2 * reach + 1).

        kernel(y, x) = factors(0)(y) * factors(1)(x), because the envelope is round. Zero beyond the kernel's size.

        Args:
            axis: 0 for the factor in y (sine of the angle), 1 for that in x (cosine).
            reach: Largest offset wanted, voxels.
            voxel_mm: Voxel size along this axis; it multiplies the factor, so that sums approximate integrals.
        """
        offset = np.arange(-reach, reach + 1)
        position_mm = offset * voxel_mm
        direction = (np.cos if axis else np.sin)(self.theta)
        sigma = self.sigma_mm[:, None]
        harmonic = 2j * np.pi * (self.frequency * direction)[:, None] * position_mm
        values = voxel_mm / (np.sqrt(2 * np.pi) * sigma) * np.exp(-0.5 * (position_mm / sigma) ** 2 + harmonic)
        return np.where(np.abs(offset) <= self._radius(voxel_mm)[:, None], values, 0)

    def _radius(self, voxel_mm: float) -> np.ndarray:
        """Kernel half-size in voxels; scikit-image takes the larger of the rotated sigmas."""
        extent = self.n_stds * self.sigma_mm / voxel_mm
        extents = [np.abs(extent * np.cos(self.theta)), np.abs(extent * np.sin(self.theta)), np.ones(len(self))]
        return np.ceil(np.max(extents, axis=0)).astype(int)


def gabor_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor,
    bank: GaborBank,
    plane_reduction: PlaneReduction = "mean",
    *,
    spacing_mm: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
    reduction: Reduction = "mean",
) -> Tensor:
    """Squared difference of Gabor responses inside the lesion, slice by slice in the xy, xz and yz planes (eq. 6).

    Per plane: 1/N_f * sum_f w_f * 1/N_m * sum_p m(p) |f * (m g) - f * (m r)|^2 (p), with N_m the number of masked
    voxels. As in eq. 6 the filters see the foreground regions alone: outside the mask both images are zero before
    filtering, so nothing there has any influence, whatever its value. The response is complex; its squared modulus
    counts the even and the odd filter. Filters that would alias in a plane of thick slices are left out there.

    Args:
        pred: Decoded prediction g, (B, 1, D, H, W), ct_norm. Computed in float32 (float64 if given) also in autocast.
        target: Real image r, same shape; gets no gradient.
        mask: Lesion mask, same shape, 1 inside. An empty one gives 0 with zero gradient.
        bank: The filters and their trainable weights.
        plane_reduction: "mean" (as in the texture-loss proposal), "max" (the worst plane alone) or "softmax" (the mean
            weighted by the softmax of each plane's loss over the mean of the three, which does not depend on the
            loss's scale).
        spacing_mm: (z, y, x) of all samples, or (B, 3).
        reduction: "mean" over samples, or "none" for one value each, (B,), which time weights need.
    Returns: Scalar or (B,), squared ct_norm.
    Raises: ValueError: If a shape or an option does not fit, or no filter can be sampled at the spacing.
    Examples:
        >>> real = torch.randn(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> mask = torch.zeros_like(real)
        >>> mask[..., 4:8, 4:8, 4:8] = 1
        >>> bank = GaborBank(frequencies=(0.1, 0.2), orientations=4)
        >>> gabor_loss(real, real, mask, bank).item()
        0.0
        >>> gabor_loss(0.5 * real, real, mask, bank).item() > 0
        True
        >>> gabor_loss(real + 9 * (1 - mask), real, mask, bank).item()  # nothing outside the mask counts
        0.0
    """
    if plane_reduction not in get_args(PlaneReduction):
        raise ValueError(f"plane_reduction {plane_reduction!r}: expected one of {get_args(PlaneReduction)}")
    spacings = spacing_rows(spacing_mm, len(pred))
    with torch.autocast(pred.device.type, enabled=False):
        losses = []
        for crop, spacing in zip(lesion_crops(pred, target, mask, channels=1), spacings, strict=True):
            planes = torch.stack([_plane_loss(crop, bank, axes, spacing) for axes in PLANES.values()])
            if plane_reduction == "softmax":
                relative = planes / (planes.mean() + 1e-12)
                losses.append((torch.softmax(relative, dim=0) * planes).sum())
            else:
                losses.append(planes.mean() if plane_reduction == "mean" else planes.max())
        return reduce_samples(losses, reduction)


def _plane_loss(crop: LesionCrop, bank: GaborBank, axes: tuple[int, int, int], spacing: tuple[float, ...]) -> Tensor:
    """Eq. 6 in one plane of one sample: scalar."""
    pixel_mm = (spacing[axes[1]], spacing[axes[2]])
    inside = crop.inside.permute(axes)
    diff = (crop.pred - crop.target)[0].permute(axes)
    diff = torch.where(inside, diff, 0)  # `where`, so that an infinity outside stays outside
    response = plane_responses(diff, bank, pixel_mm)
    used = np.flatnonzero(bank.representable(pixel_mm))
    energy = torch.view_as_real(response).square().sum(-1).flatten(1) @ inside.to(diff.dtype).flatten()
    weights = bank.weights()[torch.as_tensor(used, device=diff.device)].to(energy.dtype)
    return (weights * energy).mean() / inside.sum().clamp(min=1)


def plane_responses(slices: Tensor, bank: GaborBank, pixel_mm: tuple[float, float]) -> Tensor:
    """Complex responses of the bank's representable filters to a stack of slices, zeros around.

    Args:
        slices: (S, R, C), float.
        bank: The filters.
        pixel_mm: Size of a pixel along rows' axis and columns' axis.
    Returns: (F, S, R, C), complex.
    Raises: ValueError: If no filter can be sampled at this size.
    """
    used = np.flatnonzero(bank.representable(pixel_mm))
    if len(used) == 0:
        raise ValueError(
            f"pixels of {pixel_mm} mm: every filter is above their Nyquist frequency; give the bank a frequency below "
            "0.5 / spacing"
        )
    row, column = (_toeplitz(bank.factors(i, slices.shape[i + 1] - 1, pixel_mm[i])[used], slices) for i in (0, 1))
    response = torch.einsum("fxc,src->fsrx", column, slices.to(column.dtype))
    return torch.einsum("fyr,fsrx->fsyx", row, response)


def _toeplitz(factors: np.ndarray, like: Tensor) -> Tensor:
    """(F, 2n - 1) factors -> (F, n, n) matrices whose product with n voxels is their convolution, zeros around."""
    n = (factors.shape[1] + 1) // 2
    steps = torch.arange(n, device=like.device)
    values = torch.as_tensor(factors, device=like.device)
    if not (values.is_complex() and like.dtype == torch.float64):
        values = values.to(torch.complex64 if values.is_complex() else like.dtype)
    return values[:, steps[:, None] - steps[None, :] + n - 1]
