"""Losses of stage 2 on the latent: the weighted squared error of the U-Net's output."""

import torch
from torch import Tensor


def diffusion_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error, normalised per sample, averaged over the batch.

    Args:
        output, target: (B, C, d, h, w).
        weight: Non-negative, (B, 1, d, h, w): 1 where the lesion is, less on the background, 0 on padding.
    Returns: (B,), so that a policy over t can weigh the samples.
    Raises: ValueError: If the shapes differ.
    """
    if output.shape != target.shape or weight.shape != (output.shape[0], 1, *output.shape[2:]):
        raise ValueError(f"shapes: output {tuple(output.shape)}, target {tuple(target.shape)}, {tuple(weight.shape)}")
    weighted = (output.float() - target.float()).square().mean(dim=1, keepdim=True) * weight
    return weighted.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(torch.finfo(torch.float32).tiny)


def density_loss(output: Tensor, target: Tensor, weight: Tensor, density: Tensor) -> Tensor:
    """:func:`diffusion_loss` of the error along one direction of the latent, (v · (output - target))².

    An error of a tenth of a standard deviation changes nothing that is seen in most directions; in that of density it
    is as many HU as a solid nodule varies by. The minimum is where that of the diffusion loss is.

    Args:
        output, target, weight: As there.
        density: v, (C,), for example from `autoencoder.latents.density_direction`.
    Returns: (B,).
    """
    along = ((output.float() - target.float()) * density.view(1, -1, 1, 1, 1)).sum(1, keepdim=True)
    return diffusion_loss(along, torch.zeros_like(along), weight)


def mask_consistency_loss(
    output: Tensor, other: Tensor, target: Tensor, cells: Tensor, alpha_bar: Tensor, margin: float = 0.1
) -> Tensor:
    """How little the prediction reacts to a changed mask: hinge on the gap between the errors under the two masks.

    Under a mask that is not the lesion's, the target must be explained worse, by `margin`, where the masks differ:
    (1 - ᾱ_t) max(0, margin + e(own) - e(other)). The less noise, the more x_t itself says where the lesion is, and the
    less the mask has to. The gradient goes through `other` alone.

    Args:
        output: Prediction under the lesion's mask, (B, C, d, h, w).
        other: Prediction of the same noisy latent under the changed mask, same shape.
        target: Same shape.
        cells: How much the masks differ in each cell, (B, 1, d, h, w).
        alpha_bar: ᾱ_t, (B,).
        margin: Smallest gap of the mean squared errors.
    Returns: (B,).
    """

    def error(prediction: Tensor) -> Tensor:
        squared = (prediction - target).square().mean(1, keepdim=True)
        return (squared * cells).flatten(1).sum(1) / cells.flatten(1).sum(1).clamp_min(1e-6)

    return (1 - alpha_bar) * (margin + error(output.detach()) - error(other)).clamp_min(0)
