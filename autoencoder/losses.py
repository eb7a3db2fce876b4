"""Losses of stage 1; the training script owns their weights."""

import torch
from torch import Tensor


def l1_loss(pred: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference over valid voxels, per sample, then averaged over the batch.

    Args:
        pred, target: ct_norm, (B, 1, D, H, W).
        valid_mask: 1 on voxels of the scan, 0 on padding, same shape; None counts all.
    Returns: Scalar, in units of ct_norm.
    Raises: ValueError: If the shapes differ (broadcasting would hide it).
    """
    _same_shape(pred, target)
    difference = (pred - target).abs()
    if valid_mask is None:
        return difference.mean()
    valid = valid_mask.to(difference.dtype)
    per_sample = (difference * valid).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)
    return per_sample.mean()


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of the posterior N(mean, exp(logvar)) from N(0, 1).

    Kingma & Welling 2013, appendix B. Summed over latent elements, averaged over the batch.

    Args:
        mean: Posterior mean, (B, C, D, H, W), no unit.
        logvar: Posterior log-variance, same shape.
    Returns: Scalar, nats per volume.
    Raises: ValueError: If the shapes differ (broadcasting would hide it).
    """
    _same_shape(mean, logvar)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}; a loss never broadcasts")
    if not torch.is_floating_point(a):
        raise ValueError(f"dtype {a.dtype}: a loss works on floating point; convert with to_norm first")
