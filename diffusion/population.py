"""Real lesions, one of which gives a lesion its appearance if nothing is requested.

Without any attribute, a denoiser predicts an average of solid and ground-glass lesions where it is uncertain. Such a
lesion is neither. So one real lesion of about the same volume is drawn, and its appearance is requested. The drawn
values belong together, because they were measured in one lesion. The shape is not drawn, because the mask gives it.
"""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from autoencoder.aligned_model import AlignedModel
from imaging.lesions.measured_attributes import MEASURED

APPEARANCE = ("texture", *MEASURED)  # attributes that a mask does not already decide
NEAREST = 40  # lesions of which one is drawn: a twentieth of some hundreds
AROUND = 3  # voxels: what the eye compares a lesion with


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

    def draw(self, diameter_mm: Tensor, surroundings_hu: Tensor, uniform: Tensor) -> Tensor:
        """The appearance of one of the `NEAREST` lesions in log diameter that are denser than the surroundings.

        Each of them is equally likely. If none is denser, it is the densest, because a less dense lesion looks like a
        hole.

        Args:
            diameter_mm: Of the sphere that has the mask's volume, (B,), above 0.
            surroundings_hu: Mean HU around the lesion, (B,).
            uniform: Which one, in [0, 1), (B,).
        Returns: (B, A), NaN where it is not known.
        """
        own = self.diameter_mm.to(diameter_mm)
        near = (own.log() - diameter_mm.log()[:, None]).abs().argsort(dim=1, stable=True)[:, :NEAREST]
        candidates = self.appearance.to(diameter_mm)[near]  # (B, lesions, A)
        suits = torch.ones_like(near, dtype=torch.bool)
        if "mean_hu" in self.config["attributes"]:
            density = candidates[..., list(self.config["attributes"]).index("mean_hu")].nan_to_num(-torch.inf)
            suits = (density > surroundings_hu[:, None]) | (density == density.amax(1, keepdim=True))
        count = suits.sum(1)
        number = (uniform * count).long().clamp(max=count - 1)
        chosen = (suits.cumsum(1) > number[:, None]).int().argmax(1)
        return candidates[torch.arange(len(candidates), device=candidates.device), chosen]

    def completed(
        self, requests: Tensor, names: Sequence[str], diameter_mm: Tensor, surroundings_hu: Tensor, uniform: Tensor
    ) -> Tensor:
        """Requests; a volume without any request gets a drawn appearance.

        Args:
            requests: (B, number of `names`), NaN where nothing is requested.
            names: The U-Net's attributes, those of the population among them.
            diameter_mm, surroundings_hu, uniform: As for :meth:`draw`.
        Returns: As `requests`, the attributes that the U-Net receives.
        """
        drawn = self.draw(diameter_mm, surroundings_hu, uniform)
        told = torch.full_like(requests, torch.nan)
        told[:, [names.index(name) for name in self.config["attributes"]]] = drawn.to(told)
        return torch.where(requests.isnan().all(1, keepdim=True), told, requests)


def equivalent_diameter_mm(lesion_mask: Tensor, spacing_mm: float) -> Tensor:
    """Diameter of the sphere that has the mask's volume, (B,), of masks (B, 1, D, H, W) on an isotropic grid."""
    return (6 / torch.pi * lesion_mask.flatten(1).float().sum(1)).pow(1 / 3) * spacing_mm


def surroundings_hu(ct_hu: Tensor, paint_mask: Tensor, valid_mask: Tensor) -> Tensor:
    """Mean HU of the valid voxels within `AROUND` voxels of what is painted, (B,); -inf where there is none.

    Args:
        ct_hu, paint_mask, valid_mask: (B, 1, D, H, W); masks 0 or 1.
    """
    grown = F.max_pool3d(paint_mask.float(), 2 * AROUND + 1, stride=1, padding=AROUND)
    ring = ((grown > 0) & (paint_mask == 0) & (valid_mask > 0)).flatten(1)
    count = ring.sum(1)
    mean = (ct_hu.flatten(1).float() * ring).sum(1) / count.clamp_min(1)
    return torch.where(count > 0, mean, -torch.inf)
