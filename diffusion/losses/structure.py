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

    In most directions, an error of a tenth of a standard deviation changes nothing visible. In the direction of density
    it is as many HU as a solid nodule varies by. The minimum is that of the diffusion loss.

    Args:
        output, target, weight: As there.
        density: v, (C,), for example from `autoencoder.latents.density_direction`.
    Returns: (B,).
    """
    along = ((output.float() - target.float()) * density.view(1, -1, 1, 1, 1)).sum(1, keepdim=True)
    return diffusion_loss(along, torch.zeros_like(along), weight)


def decoded_loss(output: Tensor, target: Tensor, weight: Tensor, gains: Tensor) -> Tensor:
    """:func:`diffusion_loss` of the error as the decoder shows it, mean of (A (output - target))².

    The channels of a latent differ in what they change in the image, and no error of the image is invisible for being
    small in the latent. The minimum is that of the diffusion loss.

    Args:
        output, target, weight: As there.
        gains: A, (K, C), for example from `autoencoder.latents.decoded_gains`.
    Returns: (B,).
    """
    error = torch.einsum("kc, bcdhw -> bkdhw", gains, output.float() - target.float())
    return diffusion_loss(error, torch.zeros_like(error), weight)
