"""What lesions are like of which nothing is asked: as real ones of their size.

A denoiser that is told nothing goes, where it is unsure, between what it has seen: solid and ground glass mix to
lesions that are neither. So one real lesion of about the same volume is drawn, and its appearance is asked for. What is
drawn belongs together, as it was measured in one lesion. Shape is not drawn, the mask has it.
"""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from autoencoder.aligned_model import AlignedModel
from imaging.lesions.attributes import MEASURED

APPEARANCE = ("texture", *MEASURED)  # attributes that a mask does not already decide
NEAREST = 40  # lesions of which one is drawn: a twentieth of some hundreds


class LesionPopulation(AlignedModel, ModelMixin, ConfigMixin):
    """Size and appearance of the lesions that a pipeline was trained on; made by :meth:`of`.

    Args:
        attributes: Names of the A columns, from `APPEARANCE`.
        lesions: Number N of lesions.
    """

    @register_to_config
    def __init__(self, attributes: Sequence[str], lesions: int) -> None:
        super().__init__()
        self.diameter_mm: Tensor
        self.appearance: Tensor
        self.register_buffer("diameter_mm", torch.ones(lesions))
        self.register_buffer("appearance", torch.full((lesions, len(attributes)), torch.nan))

    @classmethod
    def of(cls, attributes: Sequence[str], diameter_mm: Tensor, appearance: Tensor) -> "LesionPopulation":
        """Keep what was measured and rated.

        Args:
            attributes: Names of the columns.
            diameter_mm: Of the sphere that has the lesion's volume, (N,), above 0.
            appearance: In each attribute's unit, (N, A); NaN where it is not known.
        """
        population = cls(attributes=list(attributes), lesions=len(diameter_mm))
        population.diameter_mm.copy_(diameter_mm)
        population.appearance.copy_(appearance)
        return population

    def draw(self, diameter_mm: Tensor, uniform: Tensor) -> Tensor:
        """The appearance of one of the `NEAREST` lesions in log diameter, each as likely.

        Args:
            diameter_mm: Of the sphere that has the mask's volume, (B,), above 0.
            uniform: Which one, in [0, 1), (B,).
        Returns: (B, A), NaN where it is not known.
        """
        own = self.diameter_mm.to(diameter_mm)
        near = (own.log() - diameter_mm.log()[:, None]).abs().argsort(dim=1, stable=True)[:, :NEAREST]
        chosen = (uniform * near.shape[1]).long().clamp(max=near.shape[1] - 1)
        return self.appearance.to(diameter_mm)[near.gather(1, chosen[:, None])[:, 0]]

    def completed(self, wishes: Tensor, names: Sequence[str], diameter_mm: Tensor, uniform: Tensor) -> Tensor:
        """Wishes, and in place of none a drawn appearance.

        Args:
            wishes: (B, number of `names`), NaN where nothing is asked.
            names: The U-Net's attributes, those of the population among them.
            diameter_mm, uniform: As for :meth:`draw`.
        Returns: As `wishes`, what the U-Net is told.
        """
        told = torch.full_like(wishes, torch.nan)
        told[:, [names.index(name) for name in self.config["attributes"]]] = self.draw(diameter_mm, uniform).to(told)
        return torch.where(wishes.isnan().all(1, keepdim=True), told, wishes)


def equivalent_diameter_mm(lesion_mask: Tensor, spacing_mm: float) -> Tensor:
    """Diameter of the sphere that has the mask's volume, (B,), of masks (B, 1, D, H, W) on an isotropic grid."""
    return (6 / torch.pi * lesion_mask.flatten(1).float().sum(1)).pow(1 / 3) * spacing_mm
