"""Multi-classifier guidance: the gradient that moves the noisy latent towards the requested attributes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from autoencoder.aligned_model import AlignedModel
from diffusion.attributes import SCALES
from diffusion.conditioning import lesion_neighbourhood
from diffusion.option_types import Attributes, Scales
from diffusion.sampling.guide import attribute_scales
from diffusion.sampling.request import check_range
from guidance.classifier import NoduleClassifier3D, log_likelihood
from guidance.lesion_crop import LesionCrops, lesion_crops
from guidance.requested_values import wanted_values

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GuidancePlan:
    """What one call of the pipeline asks of the guide; the same at every step.

    Attributes:
        wanted: Attribute -> (B,), index of the class or the rating; NaN where a volume is not requested it.
        scales: Attribute -> its scale.
        guidance_range: Shares of T that are guided, low <= t / T < high.
        crops: What each of the guide's networks looks at.
        near: Cells near the lesion, 0/1, (B, 1, d, h, w).
    """

    wanted: Mapping[str, Tensor]
    scales: Mapping[str, float]
    guidance_range: tuple[float, float]
    crops: Sequence[LesionCrops]
    near: Tensor

    def covers(self, share: float) -> bool:
        """Whether timestep t = share · T is guided."""
        return self.guidance_range[0] <= share < self.guidance_range[1]


class MultiClassifierGuidance(AlignedModel, ModelMixin, ConfigMixin):
    """Σ s_i ∇ log p(y_i | x_t) near the lesion; the pipeline scales it by σ_t (`diffusion.process.guided_output`).

    Classifier guidance (Dhariwal & Nichol 2021), restricted to the nodule's neighbourhood, with several classifiers in
    the order of LSDM (eq. 3.8). First the gradients of the regressions (minus the squared error to the requested
    rating) are summed at x_t. Then those of attributes with classes, such as malignancy, are taken at x_t moved by σ_t
    times that sum.

    The classifiers are part of this model, so one folder of the pipeline holds the guide. If a classifier does not beat
    its label-shuffled control on held-out nodules, its attribute is not guided, with a warning; see :meth:`allow`. If
    it beats the control by the lesion's size alone, its attribute is guided, with a warning that this may not help.

    Args:
        classifiers: Configs of the `NoduleClassifier3D`s, each with attributes of its own.
        neighbourhood_cells: Latent cells by which the lesion's cells are dilated.
        guidance_range: Shares of the timesteps T that are guided, low <= t / T < high; a call can change it. Above 0.8,
            the default, a classifier knows little more than the mask, while σ_t / √ᾱ_t, by which a change of the
            noise moves x̂0, grows without bound.
        figures: Attribute -> held-out figures, `evaluation.statistics.attribute_figures.AttributeFigures` as a mapping.
        allowed: Attributes that are guided whatever their figures say.
    Raises: ValueError: If there is no classifier, two have the same attribute, or a regression has no scale.
    """

    @register_to_config
    def __init__(
        self,
        classifiers: Sequence[Mapping[str, Any]],
        neighbourhood_cells: int = 1,
        guidance_range: Sequence[float] = (0.0, 0.8),
        figures: Mapping[str, Mapping[str, Any]] | None = None,
        allowed: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not classifiers:
            raise ValueError("classifiers is empty; expected the config of at least one NoduleClassifier3D")
        check_range(guidance_range)
        self.networks = nn.ModuleList(NoduleClassifier3D(**_arguments(config)) for config in classifiers)
        known = self.attributes
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: more than one classifier has it; leave it out of all but one")
        unscaled = [name for name in known if name not in self.classes and name not in SCALES]
        if unscaled:
            raise ValueError(f"regressions {', '.join(unscaled)} have no scale; choose from {', '.join(SCALES)}")
        self._warned: set[str] = set()

    @classmethod
    def of(cls, classifiers: Sequence[NoduleClassifier3D], **settings: Any) -> "MultiClassifierGuidance":
        """A guide around trained classifiers; `settings` are the other arguments of the class."""
        guide = cls(classifiers=[_arguments(classifier.config) for classifier in classifiers], **settings)
        for network, classifier in zip(guide.networks, classifiers, strict=True):
            network.load_state_dict(classifier.state_dict())
        return guide.to(next(classifiers[0].parameters()).device).eval()

    @property
    def attributes(self) -> tuple[str, ...]:
        """What can be requested."""
        return tuple(name for classifier in self._classifiers for name in classifier.attributes)

    @property
    def classes(self) -> dict[str, list[str]]:
        """The attributes that have classes, with these in order."""
        return {name: names for classifier in self._classifiers for name, names in classifier.classes.items()}

    @property
    def _classifiers(self) -> list[NoduleClassifier3D]:
        return list(self.networks)  # type: ignore[arg-type]  # a list of modules, to a type checker

    @property
    def refused(self) -> dict[str, str]:
        """Attributes that are not guided, each with the reason: its figures do not beat those of its control."""
        figures = {name: f for name, f in (self.config["figures"] or {}).items() if name not in self.config["allowed"]}
        return {name: _shortfall(f) for name, f in figures.items() if not beats_control(f)}

    def allow(self, *names: str) -> None:
        """Guide these attributes whatever their figures say; saved with the guide.

        Raises: ValueError: If one is unknown.
        """
        self._check_known(names)
        self.register_to_config(allowed=[*dict.fromkeys((*self.config["allowed"], *names))])

    def plan(
        self,
        attributes: Attributes,
        lesion_mask: Tensor,
        vae: Any,
        guidance_scale: Scales = 1.0,
        guidance_range: Sequence[float] | None = None,
    ) -> GuidancePlan | None:
        """Check the requests of a call, and cut out what the classifiers look at.

        Args:
            attributes: Wanted values, see `guidance.requested_values.wanted_values`.
            lesion_mask: (B, 1, D, H, W), 0 or 1, on the device of the latents.
            vae: The autoencoder of the latents.
            guidance_scale: s of all attributes, or of each by name, 1 where it has none; 0 switches one off.
            guidance_range: Shares of T that are guided; None takes the guide's own.
        Returns: None if nothing is left to be guided.
        Raises: ValueError: If a name, value, scale or range does not fit, or images must be decoded by a service,
            which gives no gradients.
        """
        wanted = wanted_values(attributes, self.attributes, self.classes, len(lesion_mask))
        scales = attribute_scales(guidance_scale, self.attributes)
        bounds = check_range(self.config["guidance_range"] if guidance_range is None else guidance_range)
        requested = {
            name: values.to(lesion_mask.device)
            for name, values in wanted.items()
            if scales[name] != 0 and bool(torch.isfinite(values).any()) and self._trusts(name)
        }
        if not requested:
            return None
        views = [(classifier.config["cells"], classifier.config["space"]) for classifier in self._classifiers]
        if not vae.gives_gradients and any(space == "decoded" for _, space in views):
            raise ValueError(
                "this guide looks at decoded crops, and an autoencoder service gives no gradients; load the pipeline "
                "with its own autoencoder, or take a guide with space latent"
            )
        crops = [lesion_crops(lesion_mask, cells, space, vae) for cells, space in views]
        near = lesion_neighbourhood(lesion_mask, vae.factor, self.config["neighbourhood_cells"])
        return GuidancePlan(requested, scales, bounds, crops, near)

    def gradient(
        self, noisy_latent: Tensor, timestep: Tensor, noise_level: Tensor, plan: GuidancePlan, vae: Any
    ) -> Tensor:
        """Gradient of Σ s_i log p(y_i | x_t, t) with respect to x_t, in LSDM's order.

        Args:
            noisy_latent: x_t, (B, C, d, h, w), standardised.
            timestep: Scalar, the time that the denoiser is given.
            noise_level: σ_t, scalar (`diffusion.process.noise_level`).
            plan: From :meth:`plan`, for these volumes.
            vae: The autoencoder of the latents.
        Returns: (B, C, d, h, w); zero away from the lesion.
        """
        regressions = [name for name in plan.wanted if name not in self.classes]
        classes = [name for name in plan.wanted if name in self.classes]
        summed = torch.zeros_like(noisy_latent)
        if regressions:
            summed = self._pull(regressions, noisy_latent, timestep, plan, vae)
        if classes:
            guided = noisy_latent + noise_level.to(summed) * summed
            summed = summed + self._pull(classes, guided, timestep, plan, vae)
        return summed

    def _pull(
        self, names: Sequence[str], noisy_latent: Tensor, timestep: Tensor, plan: GuidancePlan, vae: Any
    ) -> Tensor:
        """The gradient of these attributes' scaled log-likelihoods, near the lesion."""
        with torch.enable_grad():
            latent = noisy_latent.detach().requires_grad_(True)
            total = torch.zeros((), device=latent.device)
            for classifier, crops in zip(self._classifiers, plan.crops, strict=True):
                own = [name for name in names if name in classifier.attributes]
                if own:
                    said = classifier(crops.of(latent, vae).to(self.dtype), timestep, crops.lesion)
                    terms = [plan.scales[name] * log_likelihood(said[name], plan.wanted[name]) for name in own]
                    total = total + torch.stack(terms).sum()
            (gradient,) = torch.autograd.grad(total, latent)
        return gradient * plan.near.to(gradient)

    def _trusts(self, name: str) -> bool:
        """Whether an attribute is guided; says once why not, or why little is to be expected."""
        figures = (self.config["figures"] or {}).get(name, {})
        reason, beyond_size = self.refused.get(name), figures.get("at_equal_size")
        if reason is not None:
            self._warn_once(
                f"{name}: not guided, its classifier does not beat its label-shuffled control on held-out nodules "
                f'({reason}); pipe.guide.allow("{name}") guides all the same'
            )
        elif name not in self.config["allowed"] and beyond_size is not None and not _above_chance(beyond_size, figures):
            self._warn_once(
                f"{name}: guided, but expect little: beyond what a lesion's size tells, which the mask fixes, its "
                f"classifier tells nothing for certain ({figures['measure']} at equal size {_shown(beyond_size)})"
            )
        return reason is None

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)

    def _check_known(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.attributes]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown to this guide; known: {', '.join(self.attributes)}")


def beats_control(figures: Mapping[str, Any]) -> bool:
    """Whether a classifier is better than chance and than its control: both intervals lie above.

    Args:
        figures: `low`, lower end of its held-out figure's interval, None where it cannot be told; `chance`, what
            guessing gives; `ahead_low`, lower end of the interval of its lead over the control, None without control.
    """
    leads = figures.get("control") is None or (figures.get("ahead_low") or 0.0) > 0
    return leads and _above_chance(figures, figures)


def _above_chance(figure: Mapping[str, Any], figures: Mapping[str, Any]) -> bool:
    """Whether a figure's interval is known and lies above what guessing gives."""
    return figure["low"] is not None and figure["low"] > figures["chance"]


def _shortfall(figures: Mapping[str, Any]) -> str:
    ahead = {"value": figures.get("ahead"), "low": figures.get("ahead_low"), "high": figures.get("ahead_high")}
    control = "unknown" if figures.get("control") is None else f"{figures['control']:.2f}"
    return f"{figures['measure']} {_shown(figures)}, control {control}, lead {_shown(ahead)}"


def _shown(figure: Mapping[str, Any]) -> str:
    """A figure with its interval."""
    value, low, high = ("unknown" if figure.get(n) is None else f"{figure[n]:.2f}" for n in ("value", "low", "high"))
    return f"{value}, interval {low} to {high}"


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's entries without Diffusers' own."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
