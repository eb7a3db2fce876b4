"""Types of the options of stage 2, as configs name them; imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

AttributeValue = str | float | Sequence[str | float]  # of one attribute: a value for all volumes, or one for each
Attributes = Mapping[str, AttributeValue]
Scales = float | Mapping[str, float]  # guidance scale of all attributes, or by name
Target = Literal["epsilon", "v", "x0", "flow"]  # what the U-Net predicts, see `diffusion.process`
# how the losses' weights change over t, see `diffusion.losses.time_weights`
TimePolicy = Literal["constant", "snr", "min_snr", "film", "uncertainty", "step_aware"]
Balance = Literal["none", "norm", "project", "norm_project"]  # see `diffusion.losses.gradient_balance`
# which Diffusers scheduler takes the steps, see `diffusion.sampling.samplers`
SamplerName = Literal["default", "ddpm", "ddim", "dpm-solver++", "dpm-solver++-lu", "syndiff", "unipc", "flow-euler"]
ShapeKind = Literal["real", "procedural", "learned"]  # of a lesion without a mask, see `diffusion.shapes`
MaskKind = Literal["distance", "coverage"]  # a mask on the latent grid, see `diffusion.mask_latents`
PairedParts = Literal["both", "mask", "image"]  # which networks are trained, see `diffusion.paired`
TranslationProcess = Literal["syndiff", "ddpm", "cyclegan"]  # see `diffusion.translator`
Difference = Literal["kernel", "dose", "unknown"]  # of two kinds of CT, see `diffusion.spectral_filters`
PlaneReduction = Literal["mean", "max", "softmax"]  # how a loss joins its three planes, see `diffusion.losses.gabor`


@dataclass(frozen=True)
class TextureConfig:
    """Texture losses on the decoded lesion in the late steps.

    Attributes:
        losses: Weight of each loss by its name in `diffusion.losses.texture`, for example `{gabor: 0.1, border: 0.2}`.
        gate: They are computed for t < gate * T; 1 computes them at every t.
        time_policy: How the losses' weights change over t; see `diffusion.losses.time_weights`.
        balance: "none", "norm", "project" or "norm_project"; see `diffusion.losses.gradient_balance`.
        plane_reduction: How the Gabor loss joins its three planes: "mean", "max" or "softmax".
    Raises: ValueError: If a weight is not above 0.
    """

    losses: dict[str, float] = field(default_factory=dict)
    gate: float = 0.3
    time_policy: TimePolicy = "constant"
    balance: Balance = "none"
    plane_reduction: PlaneReduction = "mean"

    def __post_init__(self) -> None:
        for name, weight in self.losses.items():
            if not weight > 0:
                raise ValueError(
                    f"texture.losses.{name} {weight}: expected a weight above 0; leave the loss out instead"
                )


@dataclass(frozen=True)
class AdversarialConfig:
    """Adversarial diffusion, see `diffusion.adversarial`.

    Attributes:
        calls: Large steps, and so network calls, of sampling.
        image: Weight of the generator's loss against the discriminator of the decoded lesion; 0 leaves it out.
        latent: The same of the discriminator of the noisy latents.
        anchor: Weight of the diffusion loss.
        penalty: Weight of the discriminators' gradient penalty on real samples.
        discriminator_rate: Peak learning rate of the discriminators.
        head_start: Batches that the discriminators learn before they teach the U-Net.
        simulated: Share of the samples, the first call apart, whose noisy state comes from earlier calls of the U-Net
            itself, as in sampling; without the diffusion loss, as its target is another lesion.
        reconstruction: Weight of the error of the reconstructed lesions. Above 0 the decoder learns along, and the
            discriminator compares with the CT itself.
    Raises: ValueError: If a number is out of range.
    """

    calls: int = 4
    image: float = 1.0
    latent: float = 0.0
    anchor: float = 1.0
    penalty: float = 0.0005
    discriminator_rate: float = 5e-4
    head_start: int = 250
    simulated: float = 0.0
    reconstruction: float = 0.0

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise ValueError(f"adversarial.calls {self.calls}: expected at least 1")
        for name in ("image", "latent", "anchor", "penalty", "head_start", "reconstruction"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"adversarial.{name} {getattr(self, name)}: expected a number of at least 0")
        if not 0 <= self.simulated <= 1:
            raise ValueError(f"adversarial.simulated {self.simulated}: expected a share from 0 to 1")


@dataclass(frozen=True)
class TranslationWeights:
    """Losses of unpaired translation, see `diffusion.translation`.

    Attributes:
        cycle: λ_1, of the ℓ1 losses: of `ct_norm` for the cycle of G_φ, in units of the residual for G_θ.
        adversarial: λ_2.
        penalty: Weight of the discriminators' gradient penalty on real samples.
        discriminator_rate: Peak learning rate of the discriminators.
        estimator_rate: Peak learning rate of G_φ, which begins near its goal and is taught by a discriminator alone.
        head_start: Batches that the discriminators learn before they teach the generators.
    Raises: ValueError: If a number is out of range.
    """

    cycle: float = 0.5
    adversarial: float = 1.0
    penalty: float = 0.1
    discriminator_rate: float = 5e-4
    estimator_rate: float = 1e-4
    head_start: int = 40

    def __post_init__(self) -> None:
        for name in ("cycle", "adversarial", "penalty", "head_start"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"losses.{name} {getattr(self, name)}: expected a number of at least 0")
        for name in ("discriminator_rate", "estimator_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"losses.{name} {getattr(self, name)}: expected a rate above 0")
