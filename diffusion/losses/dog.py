"""Difference-of-Gaussians loss: the high-frequency loss of the pixel-space baselines (L_high in eq. 2, 4 and 5)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autoencoder.losses.lesion_box import Reduction, lesion_crops, reduce_samples, spacing_rows


def dog_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor,
    sigmas_mm: tuple[float, float] = (0.5, 1.0),
    *,
    spacing_mm: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean squared error inside the lesion after a 3D band-pass, the difference of two Gaussian blurs.

    Both images are zero outside the mask before filtering, so nothing there has any influence. The filter is linear:
    only their difference is filtered, on the lesion's box. Each blur equals `scipy.ndimage.gaussian_filter` with
    zeros around and its default truncation at 4 sigma.

    Args:
        pred: Decoded prediction, (B, 1, D, H, W), ct_norm. Computed in float32 (float64 if given) also in autocast.
        target: Real image, same shape; gets no gradient.
        mask: Lesion mask, same shape, 1 inside. An empty one gives 0 with zero gradient.
        sigmas_mm: Narrow and wide Gaussian; detail between the two scales passes.
        spacing_mm: (z, y, x) of all samples, or (B, 3).
        reduction: "mean" over samples, or "none" for one value each, (B,), which time weights need.
    Returns: Scalar or (B,), squared ct_norm.
    Raises: ValueError: If a shape or an option does not fit.
    """
    if not 0 < sigmas_mm[0] < sigmas_mm[1]:
        raise ValueError(f"sigmas_mm {tuple(sigmas_mm)}: expected two positive, increasing values in mm")
    spacings = spacing_rows(spacing_mm, len(pred))
    with torch.autocast(pred.device.type, enabled=False):
        losses = []
        for crop, spacing in zip(lesion_crops(pred, target, mask, channels=1), spacings, strict=True):
            diff = torch.where(crop.inside, (crop.pred - crop.target)[0], 0)
            narrow, wide = (blur(diff, sigma, spacing) for sigma in sigmas_mm)
            losses.append(torch.where(crop.inside, (narrow - wide).square(), 0).sum() / crop.inside.sum().clamp(min=1))
        return reduce_samples(losses, reduction)


def blur(volume: Tensor, sigma_mm: float, spacing_mm: tuple[float, ...]) -> Tensor:
    """Gaussian blur of (D, H, W), zeros around, one matrix product per axis."""
    for axis, voxel_mm in enumerate(spacing_mm):
        sigma = sigma_mm / voxel_mm
        radius = int(4 * sigma + 0.5)
        total = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
        steps = np.arange(volume.shape[axis])
        distance = np.abs(steps[:, None] - steps[None, :])
        matrix = np.where(distance <= radius, np.exp(-0.5 * (distance / sigma) ** 2) / total, 0)
        volume = torch.tensordot(volume, volume.new_tensor(matrix), dims=([axis], [1])).movedim(-1, axis)
    return volume
