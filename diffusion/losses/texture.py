"""The texture losses of stage 2 by name: the one table that a new loss joins."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from autoencoder.losses.wavelet import wavelet_texture_loss
from diffusion.losses.border import border_loss
from diffusion.losses.cooccurrence import cooccurrence_loss
from diffusion.losses.core_energy import core_energy_loss
from diffusion.losses.dog import dog_loss
from diffusion.losses.foreground_discriminator import ForegroundDiscriminator
from diffusion.losses.gabor import GaborBank, gabor_loss
from diffusion.losses.response_distribution import gabor_distribution_loss
from diffusion.option_types import TextureConfig

TextureLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (pred, target, mask, spacing_mm) -> (B,)


def texture_losses(config: TextureConfig) -> tuple[dict[str, TextureLoss], list[nn.Module]]:
    """The losses that a config names, and the modules inside them that are trained along.

    Args:
        config: Names and weighs the losses.
    Returns: Loss by name, in the table's order; their modules with parameters.
    Raises: ValueError: If a name is not in the table.
    """
    bank, discriminator = GaborBank(), ForegroundDiscriminator()
    each: Any = {"reduction": "none"}
    table: dict[str, tuple[TextureLoss, nn.Module | None]] = {
        "gabor": (lambda x, y, m, mm: gabor_loss(x, y, m, bank, config.plane_reduction, spacing_mm=mm, **each), bank),
        "cooccurrence": (lambda x, y, m, mm: cooccurrence_loss(x, y, m, **each), None),
        "wavelet": (lambda x, y, m, mm: wavelet_texture_loss(x, y, m, **each), None),
        "dog": (lambda x, y, m, mm: dog_loss(x, y, m, spacing_mm=mm, **each), None),
        "gabor_distribution": (lambda x, y, m, mm: gabor_distribution_loss(x, y, m, bank, spacing_mm=mm, **each), None),
        "adversarial": (lambda x, y, m, mm: discriminator(x, y, m), discriminator),
        "core_energy": (lambda x, y, m, mm: core_energy_loss(x, y, m, **each), None),
        "border": (lambda x, y, m, mm: border_loss(x, y, m, **each), None),
    }
    unknown = [name for name in config.losses if name not in table]
    if unknown:
        raise ValueError(f"texture.losses: {unknown[0]!r} is unknown; choose from {', '.join(table)}")
    chosen = {name: row for name, row in table.items() if name in config.losses}
    losses = {name: loss for name, (loss, _) in chosen.items()}
    return losses, [module for _, module in chosen.values() if module is not None]
