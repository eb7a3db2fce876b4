"""Losses of stage 1; the training script owns their weights."""

import torch
from torch import Tensor
from torch.nn import functional as F


def l1_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference over valid voxels, per sample, then averaged over the batch.

    Args:
        pred, target: ct_norm, (B, 1, D, H, W).
        valid_mask: 1 on voxels of the scan, 0 on padding, same shape; None counts all.
    Returns: Scalar, in units of ct_norm.
    Raises: ValueError: If the shapes differ (broadcasting would hide it).
    """
    _same_shape(pred, target)
    return _masked_mean((pred - target).abs(), valid_mask)


def lesion_error(pred: Tensor, target: Tensor, lesion_mask: Tensor) -> Tensor:
    """Mean squared difference in each sample's lesion, averaged over the samples that have one.

    Args:
        pred, target: ct_norm, (B, 1, D, H, W).
        lesion_mask: 1 inside, same shape.
    Returns: Scalar, in units of ct_norm squared; 0 where no sample has a lesion.
    Raises: ValueError: If the shapes differ (broadcasting would hide it).
    """
    _same_shape(pred, target)
    _same_shape(pred, lesion_mask)
    inside = lesion_mask.float().flatten(1)
    count = inside.sum(1)
    error = ((pred - target).square().flatten(1) * inside).sum(1) / count.clamp_min(1)
    return error.sum() / (count > 0).sum().clamp_min(1)


def kl_loss(mean: Tensor, logvar: Tensor, valid_cells: Tensor | None = None) -> Tensor:
    """KL divergence of the posterior N(mean, exp(logvar)) from N(0, 1).

    Kingma & Welling 2013, appendix B. Summed over latent elements, averaged over the batch.

    Args:
        mean: Posterior mean, (B, C, D, H, W), no unit.
        logvar: Posterior log-variance, same shape.
        valid_cells: (B, 1, D, H, W), 0 where a cell has only padding and does not count; None counts all.
    Returns: Scalar, nats per volume.
    Raises: ValueError: If the shapes differ (broadcasting would hide it).
    """
    _same_shape(mean, logvar)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    if valid_cells is not None:
        divergence = divergence * valid_cells
    return divergence.flatten(1).sum(1).mean()


def commitment_loss(latents: Tensor, codes: Tensor, valid_cells: Tensor | None = None) -> Tensor:
    """Mean squared distance of the latents from their codes, which get no gradient.

    van den Oord et al. 2017, eq. 3, third term; the second term is replaced by the codebook's moving average.

    Args:
        latents: (B, C, d, h, w), before quantisation.
        codes: Same shape.
        valid_cells: (B, 1, d, h, w), 0 where a cell does not count; None counts all.
    Returns: Scalar, in the latent's unit squared.
    Raises: ValueError: If the shapes differ.
    """
    _same_shape(latents, codes)
    return _masked_mean((latents - codes.detach()).square(), valid_cells)


def valid_cells(valid_mask: Tensor, factor: int) -> Tensor:
    """1 where a latent cell has any valid voxel; (B, 1, D, H, W) -> (B, 1, D/f, H/f, W/f)."""
    return F.max_pool3d(valid_mask.float(), factor)


def _masked_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over what is valid in each sample, then over the batch; a mask of one channel holds for all."""
    if valid is None:
        return values.mean()
    weight = valid.to(values.dtype).expand_as(values)
    return ((values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)).mean()


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}; a loss never broadcasts")
    if not torch.is_floating_point(a):
        raise ValueError(f"dtype {a.dtype}: a loss works on floating point; convert with to_norm first")
