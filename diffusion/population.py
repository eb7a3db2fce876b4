"""What lesions are like of which not all is asked: as real ones of their size that have what is asked.

A denoiser that is told nothing of HU goes, where it is unsure, between what it has seen: solid and ground glass mix to
lesions that are neither. So one real lesion is drawn that resembles the one wanted, and its appearance is asked for.
What is drawn belongs together, as it was measured in one lesion. Shape is not drawn, the mask has it.
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
UNKNOWN = 1e3  # standard deviations: what is asked for and not known of a lesion puts it last


class LesionPopulation(AlignedModel, ModelMixin, ConfigMixin):
    """Size and character of the lesions that a pipeline was trained on; made by :meth:`of`.

    Args:
        attributes: Names of the A columns, in the order of the U-Net's attributes.
        lesions: Number N of lesions.
    """

    @register_to_config
    def __init__(self, attributes: Sequence[str], lesions: int) -> None:
        super().__init__()
        self.diameter_mm: Tensor
        self.character: Tensor
        self.register_buffer("diameter_mm", torch.ones(lesions))
        self.register_buffer("character", torch.full((lesions, len(attributes)), torch.nan))

    @classmethod
    def of(cls, attributes: Sequence[str], diameter_mm: Tensor, character: Tensor) -> "LesionPopulation":
        """Keep what was measured and rated.

        Args:
            attributes: Names of the columns.
            diameter_mm: Of the sphere that has the lesion's volume, (N,), above 0.
            character: In each attribute's unit, (N, A); NaN where it is not known.
        """
        population = cls(attributes=list(attributes), lesions=len(diameter_mm))
        population.diameter_mm.copy_(diameter_mm)
        population.character.copy_(character)
        return population

    def draw(self, diameter_mm: Tensor, wishes: Tensor, uniform: Tensor) -> Tensor:
        """The character of one of the `NEAREST` lesions, each as likely.

        Near is what is near in log diameter and in all that is asked for, d² = Σ (difference / standard deviation)².

        Args:
            diameter_mm: Of the sphere that has the mask's volume, (B,), above 0.
            wishes: (B, A), NaN where nothing is asked.
            uniform: Which one, in [0, 1), (B,).
        Returns: (B, A), NaN where it is not known.
        """
        size, character = self.diameter_mm.to(wishes).log(), self.character.to(wishes)
        apart = ((size - diameter_mm.to(wishes).log()[:, None]) / _deviation(size[:, None])).square()
        differences = (character - wishes[:, None]) / _deviation(character)  # (B, N, A)
        asked = wishes.isfinite()[:, None]
        apart = apart + torch.where(asked, differences.nan_to_num(UNKNOWN).square(), 0.0).sum(2)
        near = apart.argsort(dim=1, stable=True)[:, :NEAREST]
        chosen = (uniform.to(wishes) * near.shape[1]).long().clamp(max=near.shape[1] - 1)
        return character[near.gather(1, chosen[:, None])[:, 0]]

    def completed(self, wishes: Tensor, diameter_mm: Tensor, uniform: Tensor) -> Tensor:
        """Wishes, and where no HU are among them the appearance of a drawn lesion for what is left open.

        Args:
            wishes, diameter_mm, uniform: As for :meth:`draw`.
        Returns: (B, A), NaN where the U-Net is told nothing.
        """
        names = self.config["attributes"]
        measured = torch.tensor([name in MEASURED for name in names], device=wishes.device)
        drawable = torch.tensor([name in APPEARANCE for name in names], device=wishes.device)
        open_to_draw = ~(wishes.isfinite() & measured).any(1, keepdim=True) & drawable & wishes.isnan()
        return torch.where(open_to_draw, self.draw(diameter_mm, wishes, uniform), wishes)


def equivalent_diameter_mm(lesion_mask: Tensor, spacing_mm: float) -> Tensor:
    """Diameter of the sphere that has the mask's volume, (B,), of masks (B, 1, D, H, W) on an isotropic grid."""
    return (6 / torch.pi * lesion_mask.flatten(1).float().sum(1)).pow(1 / 3) * spacing_mm


def _deviation(values: Tensor) -> Tensor:
    """Standard deviation of each column over its known values; 1 where it has none or all are equal."""
    known = values.isfinite()
    count = known.sum(0).clamp(min=1)
    mean = values.nan_to_num(0.0).sum(0) / count
    deviation = (torch.where(known, values - mean, 0.0).square().sum(0) / count).sqrt()
    return torch.where(deviation > 0, deviation, 1.0)
