"""Classifier guidance: which way the noisy latent must move to look like a nodule of the wanted character."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from autoencoder.aligned_model import AlignedModel
from diffusion.conditioning import lesion_neighbourhood, mask_coverage
from guidance.classifier import NoduleClassifier3D


class ClassifierGuidance(AlignedModel, ModelMixin, ConfigMixin):
    """∇ log p(y | x_t) near the lesion; the pipeline scales it by s·σ_t (`diffusion.objective.guided_output`).

    Dhariwal & Nichol 2021; restricted to the nodule's neighbourhood as in LSDM, eq. 3.8. The classifier is part of
    this model, so that one folder of the pipeline holds the guide.

    Args:
        classifier: Config of `NoduleClassifier3D`.
        neighbourhood_cells: Latent cells by which the lesion's cells are dilated.
        max_noise: Timesteps t ≥ max_noise · T are not guided: the classifier knows nothing there, while σ_t/√ᾱ_t,
            by which a change of the noise moves x̂0, grows without bound.
        num_train_timesteps: T.
    """

    @register_to_config
    def __init__(
        self,
        classifier: Mapping[str, Any],
        neighbourhood_cells: int = 1,
        max_noise: float = 0.8,
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        settings = {name: value for name, value in classifier.items() if not name.startswith("_")}
        self.network = NoduleClassifier3D(**settings)

    @classmethod
    def of(cls, classifier: NoduleClassifier3D, **settings: Any) -> "ClassifierGuidance":
        """A guide around a trained classifier; `settings` are the other arguments of the class."""
        guide = cls(classifier={k: v for k, v in classifier.config.items() if not k.startswith("_")}, **settings)
        guide.network.load_state_dict(classifier.state_dict())
        return guide.to(next(classifier.parameters()).device).eval()

    @property
    def attributes(self) -> tuple[str, ...]:
        """What can be asked for."""
        return tuple(self.config["classifier"]["classes"])

    def check(self, attributes: Mapping[str, str | Sequence[str]], batch: int) -> None:
        """Raises ValueError naming an unknown attribute or value and the known ones, or a wrong number of values."""
        classes = self.config["classifier"]["classes"]
        for name, values in attributes.items():
            if name not in classes:
                raise ValueError(f'attribute "{name}" is unknown to this guide; known: {", ".join(classes)}')
            values = [values] if isinstance(values, str) else list(values)
            if len(values) not in (1, batch):
                raise ValueError(f"{name}: {len(values)} values for {batch} volumes; give one, or one per volume")
            for value in values:
                if value not in classes[name]:
                    raise ValueError(f'{name}: "{value}" is unknown; choose one of {", ".join(classes[name])}')

    def gradient(
        self,
        noisy_latent: Tensor,
        timestep: Tensor,
        attributes: Mapping[str, str | Sequence[str]],
        lesion_mask: Tensor,
        factor: int,
    ) -> Tensor:
        """Gradient of Σ log p(attribute = value | x_t, t) with respect to x_t.

        Args:
            noisy_latent: x_t, (B, C, d, h, w), standardised.
            timestep: Scalar.
            attributes: Wanted value of each attribute, one for all volumes or one per volume.
            lesion_mask: (B, 1, D, H, W).
            factor: Voxels per latent cell.
        Returns: (B, C, d, h, w); zero away from the lesion.
        """
        if float(timestep) >= self.config["max_noise"] * self.config["num_train_timesteps"]:
            return torch.zeros_like(noisy_latent)
        with torch.enable_grad():
            latent = noisy_latent.detach().requires_grad_(True)
            logits = self.network(latent, timestep, mask_coverage(lesion_mask, factor))
            log_probability = latent.new_zeros(())
            for name, values in attributes.items():
                wanted = self._indices(name, values, len(latent)).to(latent.device)
                log_probability = log_probability - F.cross_entropy(logits[name].float(), wanted, reduction="sum")
            (gradient,) = torch.autograd.grad(log_probability, latent)
        return gradient * lesion_neighbourhood(lesion_mask, factor, self.config["neighbourhood_cells"]).to(gradient)

    def _indices(self, name: str, values: str | Sequence[str], batch: int) -> Tensor:
        names = list(self.config["classifier"]["classes"][name])
        values = [values] if isinstance(values, str) else list(values)
        return torch.tensor([names.index(value) for value in values]).expand(batch)
