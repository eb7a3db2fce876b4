"""Translates CT of one kind into another: a pair of generators, and how their samples are drawn (SynDiff, IV).

A sample of the residual r = x - F y of the wanted image x, where F is a linear filter of its source y
(`diffusion.spectral_filters`), is drawn from noise, in units of `residual_hu`. SynDiff diffuses the image itself, of
values from -1 to 1; at the last of its four noise levels, ᾱ = 0.52, the noise would be 18 times as strong as a texture
of 40 HU. Given y, residual and image are one to one, so eq. 8-15 hold for r as they stand.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from autoencoder.aligned_model import AlignedModel
from diffusion.option_types import TranslationProcess
from diffusion.spectral_filters import TAPS, filtered
from diffusion.syndiff_scheduler import posterior, syndiff_signal
from diffusion.translation_networks import UNIT_HU, TranslationGenerator

Direction = Literal["a_to_b", "b_to_a"]
Network = Callable[[TranslationGenerator, Tensor, Tensor | None, Tensor | None], Tensor]


class Translator(AlignedModel, ModelMixin, ConfigMixin):
    """Generators of both directions.

    Args:
        process: "syndiff", a few large steps; "ddpm", many of a cosine schedule; "cyclegan", one call without noise.
        calls: Network calls of sampling.
        channels: Width of a generator.
        blocks: Residual blocks of a generator.
        residual_hu: Unit of the residual, HU: about the standard deviation of what the filter leaves.
        level_hu: HU of the value 0.
        spacing_mm: Of the isotropic grid that it was trained on.
        kind_a, kind_b: What the two kinds are, for the record.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        process: TranslationProcess = "syndiff",
        calls: int = 4,
        channels: int = 32,
        blocks: int = 2,
        residual_hu: float = 40.0,
        level_hu: float = -400.0,
        spacing_mm: float = 1.0,
        kind_a: str = "a",
        kind_b: str = "b",
    ) -> None:
        super().__init__()
        noisy = process != "cyclegan"
        self.a_to_b = TranslationGenerator(channels, blocks, field=noisy, timed=noisy)
        self.b_to_a = TranslationGenerator(channels, blocks, field=noisy, timed=noisy)
        same = torch.zeros(3 * (TAPS,))
        same[3 * (TAPS // 2,)] = 1
        self.register_buffer("filter_a_to_b", same.clone())
        self.register_buffer("filter_b_to_a", same.clone())

    def signal(self) -> list[float]:
        """ᾱ of each call, noisiest first; empty without noise."""
        process, calls = self.config["process"], self.config["calls"]
        if process == "cyclegan":
            return []
        if process == "syndiff":
            return syndiff_signal(calls).tolist()
        return cosine_signal(torch.arange(calls, 0, -1) / calls).tolist()

    def to_units(self, ct_hu: Tensor) -> Tensor:
        """HU -> units of `UNIT_HU` above the level."""
        return (ct_hu - self.config["level_hu"]) / UNIT_HU

    def to_hu(self, units: Tensor) -> Tensor:
        """The inverse of `to_units`."""
        return units * UNIT_HU + self.config["level_hu"]

    @property
    def scale(self) -> float:
        """Units of a residual of 1."""
        return self.config["residual_hu"] / UNIT_HU

    def base(self, source: Tensor, direction: str) -> Tensor:
        """The source after the linear filter of a direction, to which the residual is added; same shape."""
        return filtered(source, getattr(self, f"filter_{direction}"))

    @torch.no_grad()
    def residual(
        self, source: Tensor, direction: Direction, random: torch.Generator, network: Network | None = None
    ) -> Tensor:
        """A sample of the residual to `base`, eq. 19-20.

        Args:
            source: From `to_units`, (B, 1, D, H, W), even D, H, W.
            direction: "a_to_b" or "b_to_a".
            random: Draws the noise, on the CPU; one field of the source's shape for each call.
            network: Calls the generator with source, noisy residual and ᾱ, (B,), in tiles for example; None calls it.
        Returns: In units of `to_units`, of the source's shape.
        """
        generator = cast(TranslationGenerator, getattr(self, direction))
        call = network or (lambda generator, *inputs: generator(*inputs))
        signal = self.signal()
        if not signal:
            return self.scale * call(generator, source, None, None)
        noisy = predicted = torch.randn(source.shape, generator=random).to(source)
        for now, before in pairwise([*signal, 1.0]):
            predicted = call(generator, source, noisy, source.new_full((len(source),), now))
            if before < 1:
                of_clean, of_noisy, deviation = posterior(now, before)
                fresh = torch.randn(source.shape, generator=random).to(source)
                noisy = of_clean * predicted + of_noisy * noisy + deviation * fresh
        return self.scale * predicted


def cosine_signal(share: Tensor) -> Tensor:
    """ᾱ of the cosine schedule (Nichol & Dhariwal 2021, eq. 17) at the share t/T of the process, same shape."""
    offset = 0.008
    angle = (share.double() + offset) / (1 + offset) * (torch.pi / 2)
    start = torch.cos(torch.tensor(offset / (1 + offset) * (torch.pi / 2), dtype=torch.float64))
    return (angle.cos() / start).square().clamp(1e-5, 1 - 1e-5)
