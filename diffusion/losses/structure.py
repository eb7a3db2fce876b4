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


def directional_loss(output: Tensor, target: Tensor, weight: Tensor, directions: Tensor) -> Tensor:
    """:func:`diffusion_loss` of the error along some directions of the latent, Σ_k (v_k · (output - target))².

    The directions of a latent differ in what they change in the image. In that of density, an error of a tenth of a
    standard deviation is as many HU as a solid nodule varies by. The minimum is that of the diffusion loss.

    Args:
        output, target, weight: As there.
        directions: v, (K, C), for example `autoencoder.latents.density_direction` or the rows of `decoded_gains`; the
            weight of each is |v_k|².
    Returns: (B,).
    """
    error = torch.einsum("kc, bcdhw -> bkdhw", directions, output.float() - target.float())
    return len(directions) * diffusion_loss(error, torch.zeros_like(error), weight)


def structure_loss(output: Tensor, target: Tensor, weight: Tensor, directions: Tensor | None = None) -> Tensor:
    """The sum of :func:`diffusion_loss` and, where there are directions, :func:`directional_loss`; (B,)."""
    loss = diffusion_loss(output, target, weight)
    return loss if directions is None else loss + directional_loss(output, target, weight, directions)
