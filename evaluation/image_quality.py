"""Paired image quality: MSE, PSNR, SSIM and MS-SSIM of 3D volumes, one value per sample.

Volumes are (B, C, D, H, W) tensors or arrays; what comes back is of the same kind, shape (B,), float64. Every function
ignores voxels where `valid_mask` is 0; pass `valid_mask * lesion_mask` to judge the lesion alone.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ArrayT = TypeVar("ArrayT", Tensor, np.ndarray)

SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest scale first
MS_SSIM_SCALES = 3  # of lesion crops, where they fit: 44 voxels an axis


def mse(pred: ArrayT, target: ArrayT, valid_mask: ArrayT | None = None) -> ArrayT:
    """Mean squared error over the valid voxels of each sample.

    Args:
        pred: (B, C, D, H, W), any unit.
        target: Same shape and unit.
        valid_mask: (B, 1 or C, D, H, W), non-zero where a voxel counts; None counts all.
    Returns: (B,), in the unit squared.
    Raises: ValueError: If shapes differ, a value that counts is not finite, or a sample has no valid voxel.
    """
    x, y, valid = _checked(pred, target, valid_mask)
    return _as_given(_masked_mean((x - y) ** 2, valid), pred)


def psnr(pred: ArrayT, target: ArrayT, data_range: float, valid_mask: ArrayT | None = None) -> ArrayT:
    """Peak signal-to-noise ratio, 10 log10(data_range² / MSE), over the valid voxels of each sample.

    Args:
        pred: (B, C, D, H, W), any unit.
        target: Same shape and unit.
        data_range: Width of the value range in the same unit: 2 for `ct_norm`, the window's width for HU.
        valid_mask: (B, 1 or C, D, H, W), non-zero where a voxel counts; None counts all.
    Returns: (B,), dB; infinite where the two are equal.
    Raises: ValueError: As `mse`, or if `data_range` is not positive.
    """
    _check_data_range(data_range)
    x, y, valid = _checked(pred, target, valid_mask)
    return _as_given(10 * torch.log10(data_range**2 / _masked_mean((x - y) ** 2, valid)), pred)


def ssim(
    pred: ArrayT,
    target: ArrayT,
    data_range: float,
    valid_mask: ArrayT | None = None,
    region_mask: ArrayT | None = None,
) -> ArrayT:
    """Structural similarity with a 3D Gaussian window (σ 1.5 voxels, 11 taps, population covariance).

    Wang et al. 2004, eq. 13; equal to `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)` on each sample. The map is averaged where the whole window lies inside the volume and
    on valid voxels, and, if a `region_mask` is given, only where that is non-zero (context outside it is still seen).

    Args:
        pred: (B, C, D, H, W), any unit; each axis at least 11 voxels.
        target: Same shape and unit.
        data_range: Width of the value range in the same unit.
        valid_mask: (B, 1 or C, D, H, W), 0 on padding.
        region_mask: (B, 1 or C, D, H, W), non-zero where the map is averaged, e.g. the lesion.
    Returns: (B,), at most 1.
    Raises: ValueError: As `psnr`, if an axis is shorter than the window, or if no window fits into a sample's region.
    """
    _check_data_range(data_range)
    x, y, valid = _checked(pred, target, valid_mask)
    region = torch.ones_like(x) if region_mask is None else _mask_like(region_mask, x, "region_mask")
    ssim_map, _, inside = _ssim_maps(x, y, valid, data_range)
    return _as_given(_masked_mean(ssim_map, inside * _crop_to(region, inside)), pred)


def ms_ssim(
    pred: ArrayT,
    target: ArrayT,
    data_range: float,
    valid_mask: ArrayT | None = None,
    region_mask: ArrayT | None = None,
    scales: int = MS_SSIM_SCALES,
) -> ArrayT:
    """Multi-scale structural similarity: contrast-structure terms of the finer scales times SSIM of the coarsest.

    Wang, Simoncelli & Bovik 2003, eq. 7, in 3D, halving by 2×2×2 means. Their five scales need 176 voxels an axis;
    lesion crops allow fewer, so the first `scales` of their weights are taken and normalised to sum to 1. Negative
    terms are clipped to 0 before the power, as is usual.

    Args:
        pred, target, data_range, valid_mask, region_mask: As in `ssim`. A coarse voxel is valid if all its 8 fine
            voxels are, and in the region if any is.
        scales: 1 to 5; each axis needs at least 11 · 2^(scales − 1) voxels.
    Returns: (B,), in [0, 1].
    Raises: ValueError: As `ssim`, naming the largest number of scales that fits.
    """
    _check_data_range(data_range)
    x, y, valid = _checked(pred, target, valid_mask)
    region = torch.ones_like(x) if region_mask is None else _mask_like(region_mask, x, "region_mask")
    fitting = fitting_scales(x.shape[2:])
    if not 1 <= scales <= fitting:
        raise ValueError(f"scales = {scales}, expected 1 to {fitting} for volumes of {tuple(x.shape[2:])}")
    weights = torch.tensor(MS_SSIM_WEIGHTS[:scales], dtype=x.dtype) / sum(MS_SSIM_WEIGHTS[:scales])
    result = torch.ones(x.shape[0], dtype=x.dtype, device=x.device)
    for scale in range(scales):
        ssim_map, contrast_map, inside = _ssim_maps(x, y, valid, data_range)
        last = scale == scales - 1
        term = _masked_mean(ssim_map if last else contrast_map, inside * _crop_to(region, inside))
        result = result * term.clamp(min=0) ** weights[scale]
        x, y = F.avg_pool3d(x, 2), F.avg_pool3d(y, 2)
        valid, region = -F.max_pool3d(-valid, 2), F.max_pool3d(region, 2)
    return _as_given(result, pred)


def fitting_scales(shape: Sequence[int]) -> int:
    """The most scales that `ms_ssim` can take of volumes (D, H, W): 0 (too small for SSIM) to 5."""
    taps = 2 * _radius() + 1
    return min(int(np.log2(min(shape) / taps)) + 1, len(MS_SSIM_WEIGHTS)) if min(shape) >= taps else 0


def _checked(pred: ArrayT, target: ArrayT, valid_mask: ArrayT | None) -> tuple[Tensor, Tensor, Tensor]:
    x, y = _tensor(pred), _tensor(target)
    if x.ndim != 5:
        raise ValueError(f"pred has shape {tuple(x.shape)}, expected (B, C, D, H, W)")
    if x.shape != y.shape:
        raise ValueError(f"pred has shape {tuple(x.shape)} but target {tuple(y.shape)}, expected the same")
    valid = torch.ones_like(x) if valid_mask is None else _mask_like(valid_mask, x, "valid_mask")
    counts = valid > 0
    for name, volume in (("pred", x), ("target", y)):
        bad = (~torch.isfinite(volume) & counts).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"{name}: samples {bad} have NaN or infinite values; mark them in valid_mask or leave out")
    return x.where(counts, 0.0), y.where(counts, 0.0), valid


def _tensor(array: ArrayT) -> Tensor:
    return torch.as_tensor(array).to(torch.float64)


def _as_given(values: Tensor, like: ArrayT) -> ArrayT:
    return values.numpy() if isinstance(like, np.ndarray) else values


def _mask_like(mask: ArrayT, volume: Tensor, name: str) -> Tensor:
    binary = (torch.as_tensor(mask) != 0).to(volume)
    fits = binary.ndim == 5 and binary.shape[1] in (1, volume.shape[1])
    if not fits or binary.shape[:1] + binary.shape[2:] != volume.shape[:1] + volume.shape[2:]:
        raise ValueError(f"{name} has shape {tuple(binary.shape)}, expected (B, 1, D, H, W) of {tuple(volume.shape)}")
    return binary.expand_as(volume)


def _check_data_range(data_range: float) -> None:
    if not (np.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range = {data_range}, expected a positive number such as 2 for ct_norm")


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    counted = mask.flatten(1).sum(1)
    empty = (counted == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"samples {empty} have no voxel to measure (mask empty, or no window fits); leave them out")
    return (values * mask).flatten(1).sum(1) / counted


def _radius() -> int:
    return int(3.5 * SSIM_SIGMA + 0.5)  # scikit-image's truncation


def _gaussian(volume: Tensor) -> Tensor:
    """Separable Gaussian mean over fully contained windows, (B, C, D, H, W) -> each axis shorter by 2·radius."""
    offsets = torch.arange(-_radius(), _radius() + 1, dtype=volume.dtype, device=volume.device)
    kernel = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    flat = volume.reshape(-1, 1, *volume.shape[2:])
    for axis in (2, 3, 4):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = kernel.numel()
        flat = F.conv3d(flat, kernel.view(shape))
    return flat.reshape(*volume.shape[:2], *flat.shape[2:])


def _crop_to(volume: Tensor, inner: Tensor) -> Tensor:
    r = _radius()
    return volume[..., r : r + inner.shape[2], r : r + inner.shape[3], r : r + inner.shape[4]]


def _ssim_maps(x: Tensor, y: Tensor, valid: Tensor, data_range: float) -> tuple[Tensor, Tensor, Tensor]:
    """(SSIM map, contrast-structure map, 1 where the whole window is valid), on the fully contained windows."""
    if min(x.shape[2:]) < 2 * _radius() + 1:
        raise ValueError(f"volumes of {tuple(x.shape[2:])} voxels, expected at least {2 * _radius() + 1} on each axis")
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    mean_x, mean_y = _gaussian(x), _gaussian(y)
    var_x = _gaussian(x * x) - mean_x**2
    var_y = _gaussian(y * y) - mean_y**2
    covariance = _gaussian(x * y) - mean_x * mean_y
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    inside = -F.max_pool3d(-valid, 2 * _radius() + 1, stride=1)
    return luminance * contrast, contrast, inside
