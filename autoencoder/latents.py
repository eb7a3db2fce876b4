"""Latent statistics: the diffusion model works on latents of zero mean and unit variance per channel."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from imaging.window import to_norm

NODULE_HU, CROP_VOXELS = 40.0, 32  # a solid nodule, and the edge of a crop of nothing else


def standardise(latent: Tensor, config: Mapping[str, Any]) -> Tensor:
    """(latent - latents_mean) / latents_std per channel; (B, C, d, h, w), the autoencoder's config."""
    mean, std = _statistics(latent, config)
    return (latent - mean) / std


def unstandardise(latent: Tensor, config: Mapping[str, Any]) -> Tensor:
    """The inverse of :func:`standardise`: what the autoencoder decodes."""
    mean, std = _statistics(latent, config)
    return latent * std + mean


@torch.enable_grad()
def density_direction(vae: Any) -> Tensor:
    """The direction in which a latent changes the density that it decodes to, in solid tissue.

    Gradient of the decoded mean with respect to a shift of all cells alike, at the latent of uniform tissue.

    Args:
        vae: Any autoencoder whose latent statistics are measured.
    Returns: Unit vector (C,) of the standardised latent, on the autoencoder's device.
    """
    solid = to_norm(torch.tensor(NODULE_HU), vae.config["window_width"], vae.config["window_level"])
    crop = solid.expand(1, 1, *3 * (CROP_VOXELS,)).to(vae.device)
    latent = standardise(vae.encode(crop).latent_dist.mode().detach(), vae.config).requires_grad_(True)
    decoded = vae.decode(unstandardise(latent, vae.config)).sample
    slope = torch.autograd.grad(decoded.mean(), latent)[0].sum((0, 2, 3, 4))
    return slope / slope.norm()


@torch.no_grad()
def decoded_gains(vae: Any, latent: Tensor, weight: Tensor, step: float = 0.25, seed: int = 0) -> Tensor:
    """How strongly each direction of the latent changes the decoded image: a matrix A with |A e|² ~ its squared change.

    The Gram matrix of the decoder's responses to the same white noise in each channel, G = AᵀA, with trace C.

    Args:
        vae: Any autoencoder whose latent statistics are measured.
        latent: Standardised latents around which the decoder is probed, (B, C, d, h, w).
        weight: Cells that are changed, (B, 1, d, h, w), for example those that a lesion touches.
        step: Size of the change, in standard deviations of the latent.
        seed: Of the noise.
    Returns: A, (C, C), on the latent's device.
    """
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)).to(latent) * weight
    before = vae.decode(unstandardise(latent, vae.config)).sample
    responses = []
    for channel in range(latent.shape[1]):
        changed = latent.clone()
        changed[:, channel : channel + 1] += step * noise
        responses.append((vae.decode(unstandardise(changed, vae.config)).sample - before).flatten())
    gram = torch.stack(responses) @ torch.stack(responses).T
    sizes, directions = torch.linalg.eigh(gram * len(gram) / gram.trace())
    return sizes.clamp(min=0).sqrt()[:, None] * directions.T


def _statistics(latent: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        raise ValueError(
            "the autoencoder's config has no latents_mean and latents_std; run scripts/encode_latents.py, which "
            "measures them on the training set and stores them with the model"
        )
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(config["latents_mean"], dtype=latent.dtype, device=latent.device).view(shape)
    std = torch.tensor(config["latents_std"], dtype=latent.dtype, device=latent.device).view(shape)
    return mean, std


@torch.no_grad()
def measured_statistics(vae: Any, crops: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """:func:`latent_statistics` of an autoencoder's posteriors of some volumes.

    Args:
        vae: Any autoencoder, on any device.
        crops: ct_norm, each (B, 1, D, H, W), D, H, W divisible by the factor.
    """

    def posteriors() -> Iterator[tuple[Tensor, Tensor]]:
        for ct_norm in crops:
            posterior = vae.encode(ct_norm.to(vae.device)).latent_dist
            yield posterior.mean, posterior.std

    return latent_statistics(posteriors())


def latent_statistics(posteriors: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of latents drawn from the posteriors N(mean, std^2).

    The variance is that of the mixture: Var[posterior mean] + E[posterior variance]; accumulated in float64.

    Args:
        posteriors: Pairs (mean, std), each (B, C, d, h, w).
    Returns: (latents_mean, latents_std), C floats each, in the latent's own unit.
    Raises: ValueError: If there is no posterior at all.
    """
    count, total, square = 0, torch.zeros(1), torch.zeros(1)
    for mean, std in posteriors:
        mean, std = mean.double(), std.double()
        count += mean.numel() // mean.shape[1]
        total = total + mean.sum(dim=(0, 2, 3, 4)).cpu()
        square = square + (mean.square() + std.square()).sum(dim=(0, 2, 3, 4)).cpu()
    if not count:
        raise ValueError("latent statistics of no latents; the training split is empty")
    average = total / count
    return average.tolist(), (square / count - average.square()).clamp_min(1e-12).sqrt().tolist()
