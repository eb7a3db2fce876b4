"""Unpaired translation as in SynDiff: a cycle of generators makes the pairs from which diffusive generators learn.

For a real x^B the non-diffusive G_φ estimates how it would look in kind A, ỹ^A (eq. 16). The diffusive G_θ learns to
draw x^B given ỹ^A (eq. 19-20), and at inference it is given a real scan of kind A. Beyond SynDiff, every generator
adds to a linear filter that is fitted to the spectra, and G_φ has noise of its own: it could otherwise make a low dose
only from the noise of the full one, which G_θ would learn to take back. Losses are eq. 11-12 and 17-24; the
symbols are SynDiff's. Volumes are in units of `Translator.to_units`.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from autoencoder.losses.adversarial import (
    gradient_penalty,
    logits_for_generator,
    logits_of_both,
    relativistic_loss,
)
from diffusion.option_types import TranslationWeights
from diffusion.spectral_filters import Filters, filtered
from diffusion.syndiff_scheduler import posterior
from diffusion.translation_networks import UNIT_HU, TextureDiscriminator, TranslationGenerator
from diffusion.translator import Translator, cosine_signal

DIRECTIONS = ("a_to_b", "b_to_a")
CYCLE_UNIT = 0.05  # SynDiff's ℓ1 is of images from -1 to 1, whose range is about 40 units
PENALISED = 4  # one batch in so many has the gradient penalty, as many times as strong (Karras et al. 2020)


class UnpairedTranslation(nn.Module):
    """All generators and discriminators; forward gives the loss of a batch.

    Args:
        translator: What is trained: the diffusive generators, or for "cyclegan" the non-diffusive ones themselves. Its
            filters are replaced.
        start: The filters of each direction.
        weights: Of the losses.
        widths: Of a discriminator at half and at a quarter of the resolution.
    """

    def __init__(
        self,
        translator: Translator,
        start: Mapping[str, Filters],
        weights: TranslationWeights,
        widths: tuple[int, int] = (16, 32),
    ) -> None:
        super().__init__()
        self.translator, self.weights = translator, weights
        config = translator.config
        self.diffusive = config["process"] != "cyclegan"
        if self.diffusive:
            size = (config["channels"], config["blocks"])
            self.estimators = nn.ModuleDict({name: TranslationGenerator(*size) for name in DIRECTIONS})
        for name in DIRECTIONS:
            expected, texture, noise = start[name]
            getattr(translator, f"filter_{name}").copy_(expected if self.diffusive else texture)
            self.register_buffer(f"texture_{name}", texture)
            self.register_buffer(f"noise_{name}", noise / UNIT_HU)
        networks = {f"{name}_estimate": TextureDiscriminator(1, widths) for name in DIRECTIONS}
        if config["process"] == "syndiff":
            networks |= {f"{name}_step": TextureDiscriminator(3, widths, timed=True) for name in DIRECTIONS}
        self.discriminators = nn.ModuleDict(networks)
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of generators and discriminators; each has a gradient for its own networks alone.

        Args:
            a, b: Real patches of the two kinds, of different patients, (B, 1, D, H, W).
        Returns: Scalar to minimise, and its parts.
        """
        if self.training:
            self.batches += 1
        taught = float(self.batches > self.weights.head_start)
        total = a.new_zeros(())
        parts: dict[str, Tensor] = {}
        real = {"a_to_b": (a, b), "b_to_a": (b, a)}  # source and target of each direction
        estimates = {name: self.estimate(source, name) for name, (source, _) in real.items()}
        back = {"a_to_b": "b_to_a", "b_to_a": "a_to_b"}
        for name, (source, target) in real.items():
            cycle = (self.estimate(estimates[name], back[name]) - source).abs().mean()  # eq. 21-22
            of_generator, of_discriminator = self.estimate_losses(name, target, estimates[name])
            total = total + self.weights.cycle * CYCLE_UNIT * cycle
            total = total + taught * self.weights.adversarial * of_generator + of_discriminator
            parts |= {f"{name}_cycle": cycle, f"{name}_estimate": of_discriminator}
            if self.diffusive:
                pair = estimates[back[name]].detach()  # of the target; the estimators learn from their own losses alone
                losses = self.step_losses(name, pair, target, taught)
                total = total + sum(losses.values())
                parts |= {f"{name}_{key}": value for key, value in losses.items()}
        return total, {key: value.detach() for key, value in parts.items()}

    def estimate(self, source: Tensor, direction: str) -> Tensor:
        """G_φ: how a volume would look in the other kind, eq. 16; another noise texture at each call."""
        scale = self.translator.scale
        if not self.diffusive:
            return self.translator.base(source, direction) + scale * getattr(self.translator, direction)(source)
        noise = torch.randn_like(source)
        textured = filtered(source, getattr(self, f"texture_{direction}"))
        return (
            textured + filtered(noise, getattr(self, f"noise_{direction}")) + self.estimators[direction](source, noise)
        )

    def estimate_losses(self, direction: str, real: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
        """Non-saturating losses of G_φ and D_φ, eq. 17-18, the latter with its gradient penalty."""
        network = self.discriminators[f"{direction}_estimate"]
        true, false = logits_of_both(network, [real], [estimate])
        zeros, ones = [torch.zeros_like(one) for one in true], [torch.ones_like(one) for one in true]
        of_discriminator = relativistic_loss(true, zeros, ones) + relativistic_loss(zeros, false, ones)
        of_generator = relativistic_loss(logits_for_generator(network, estimate), zeros, ones)
        return of_generator, of_discriminator + self.penalty(real, network)

    def step_losses(self, direction: str, source: Tensor, target: Tensor, taught: float) -> dict[str, Tensor]:
        """Losses of G_θ and D_θ at a random noise level, weighted.

        Args:
            direction: Of G_θ.
            source: ỹ, without gradient.
            target: x_0.
            taught: 1 if the discriminator teaches already, else 0.
        """
        base = self.translator.base(source, direction)
        clean = (target - base) / self.translator.scale
        noise = torch.randn_like(clean)
        signal, before = self.levels(len(clean), clean.device)
        now = _column(signal)
        noisy = now.sqrt() * clean + (1 - now).sqrt() * noise
        predicted = getattr(self.translator, direction)(source, noisy, signal)
        if self.translator.config["process"] == "ddpm":
            return {"mse": (predicted - clean).square().mean()}
        factors = torch.tensor([posterior(float(n), float(b)) for n, b in zip(signal, before, strict=True)]).to(clean)
        of_clean, of_noisy, deviation = (_column(factors[:, i]) for i in range(3))
        drawn = [of_clean * x + of_noisy * noisy + deviation * torch.randn_like(clean) for x in (clean, predicted)]
        network = self.discriminators[f"{direction}_step"]

        def judged(step: Tensor) -> tuple[Tensor, ...]:
            return base + self.translator.scale * step, step, noisy

        true, false = logits_of_both(network, judged(drawn[0]), judged(drawn[1]), signal=signal.repeat(2))
        ones = [torch.ones_like(one) for one in true]
        of_discriminator = relativistic_loss(true, false, ones)
        seen = logits_for_generator(network, *judged(drawn[1]), signal=signal)
        of_generator = relativistic_loss(seen, [logit.detach() for logit in true], ones)
        return {
            "l1": self.weights.cycle * (predicted - clean).abs().mean(),
            "adversarial": taught * self.weights.adversarial * of_generator,
            "step": of_discriminator + self.penalty(drawn[0], lambda step: network(*judged(step), signal=signal)),
        }

    def penalty(self, real: Tensor, network: Callable[[Tensor], list[Tensor]]) -> Tensor:
        """The weighted gradient penalty on real samples, eq. 12; in one batch of `PENALISED`, 0 in the others."""
        if not self.weights.penalty or self.batches % PENALISED:
            return real.new_zeros(())
        inputs = real.detach().requires_grad_(True)
        with torch.autocast(real.device.type, enabled=False):  # second derivatives
            logits = network(inputs)
        ones = [torch.ones_like(logit) for logit in logits]
        return PENALISED * self.weights.penalty * gradient_penalty(logits, ones, inputs)

    def levels(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Random ᾱ_t and ᾱ_{t-k}, (count,) each."""
        if self.translator.config["process"] == "ddpm":
            signal = cosine_signal(torch.rand(count)).float().to(device)
            return signal, signal
        pairs = torch.tensor(list(pairwise([*self.translator.signal(), 1.0])), dtype=torch.float64)
        now, before = pairs[torch.randint(len(pairs), (count,))].to(device).unbind(1)
        return now, before


def _column(values: Tensor) -> Tensor:
    return values.float().view(-1, 1, 1, 1, 1)
