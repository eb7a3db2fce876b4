"""Real lesions, one of which gives a lesion the appearance that is not requested.

Without any attribute, a denoiser predicts an average of solid and ground-glass lesions where it is uncertain. Such a
lesion is neither. So one real lesion of about the same volume, and of about the requested character, is drawn, and its
texture and HU are requested where the call does not. The drawn values belong together, because they were measured in
one lesion. The shape is not drawn, because the mask gives it.
"""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from autoencoder.aligned_model import AlignedModel
from imaging.dataset.augmentation import AUGMENTATION
from imaging.lesions.measured_attributes import MEASURED

APPEARANCE = ("texture", *MEASURED)  # attributes that a mask does not already decide
CHARACTER = ("malignancy", "lobulation", "spiculation")  # ratings that a lesion is chosen by
UNITS = dict.fromkeys(MEASURED, 100.0)  # HU that count as much as 1 of a rating
DIAMETER_UNIT = 0.25  # as much of a natural logarithm
NEAREST = 40  # lesions of which one is drawn: a twentieth of some hundreds
NEAREST_REQUESTED = 15  # where a character is requested, which few have
AROUND = 3  # voxels: what the eye compares a lesion with


class LesionPopulation(AlignedModel, ModelMixin, ConfigMixin):
    """Size and appearance of the lesions that a pipeline was trained on; made by :meth:`of`.

    Args:
        attributes: Names of the A columns, from `APPEARANCE` and `CHARACTER`.
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

    def draw(
        self, diameter_mm: Tensor, surroundings_hu: Tensor, uniform: Tensor, requests: Tensor | None = None
    ) -> Tensor:
        """One of the `NEAREST` lesions (with requests `NEAREST_REQUESTED`) that are denser than the surroundings.

        Near is near in log diameter (`DIAMETER_UNIT` is one step) and in each requested attribute (a rating of 1, or
        100 HU, is one step). Each of them is equally likely. If none is denser, it is the densest, because a less
        dense lesion looks like a hole.

        Args:
            diameter_mm: Of the sphere that has the mask's volume, (B,), above 0.
            surroundings_hu: Mean HU around the lesion, (B,).
            uniform: Which one, in [0, 1), (B,).
            requests: (B, A), NaN where nothing is requested; None requests nothing.
        Returns: (B, A), NaN where it is not known.
        """
        own, names = self.diameter_mm.to(diameter_mm), list(self.config["attributes"])
        appearance = self.appearance.to(diameter_mm)
        apart = ((own.log() - diameter_mm.log()[:, None]) / DIAMETER_UNIT) ** 2  # (B, N)
        if requests is not None:
            units = torch.tensor([UNITS.get(name, 1.0) for name in names]).to(diameter_mm)
            steps = (appearance - requests[:, None]) / units
            unknown = torch.where(requests.isnan()[:, None], 0.0, torch.inf)  # unrated: not of the requested rating
            apart = apart + torch.where(steps.isnan(), unknown, steps**2).sum(2)
        near = apart.argsort(dim=1, stable=True)[:, :NEAREST]
        candidates = appearance[near]  # (B, lesions, A)
        suits = torch.ones_like(near, dtype=torch.bool)
        if requests is not None:
            suits[:, NEAREST_REQUESTED:] = requests.isnan().all(1, keepdim=True)
        if "mean_hu" in names:
            density = candidates[..., names.index("mean_hu")].nan_to_num(-torch.inf)
            density = torch.where(suits, density, -torch.inf)
            suits &= (density > surroundings_hu[:, None]) | (density == density.amax(1, keepdim=True))
        count = suits.sum(1)
        number = (uniform * count).long().clamp(max=count - 1)
        chosen = (suits.cumsum(1) > number[:, None]).int().argmax(1)
        return candidates[torch.arange(len(candidates), device=candidates.device), chosen]

    def completed(
        self, requests: Tensor, names: Sequence[str], diameter_mm: Tensor, surroundings_hu: Tensor, uniform: Tensor
    ) -> Tensor:
        """Requests, with the appearance of a drawn lesion where nothing is requested of it.

        A requested HU that differs from the drawn lesion's moves its other HU by as much. A volume whose request names
        what the population does not know stays as it is: no lesion could be chosen by it.

        Args:
            requests: (B, number of `names`), NaN where nothing is requested.
            names: The U-Net's attributes.
            diameter_mm, surroundings_hu, uniform: As for :meth:`draw`.
        Returns: As `requests`, the attributes that the U-Net receives.
        """
        own = list(self.config["attributes"])
        columns = [names.index(name) for name in own]
        requested, told = requests[:, columns], requests.clone()
        drawn = self.draw(diameter_mm, surroundings_hu, uniform, requested.to(diameter_mm)).to(requests)
        hu = [index for index, name in enumerate(own) if name in MEASURED]
        if hu:
            drawn[:, hu] += (requested - drawn)[:, hu].nanmean(1, keepdim=True).nan_to_num(0.0)
        foreign = [index for index, name in enumerate(names) if name not in (*own, "diameter_mm", *AUGMENTATION)]
        known = requests[:, foreign].isnan().all(1)
        for place, (column, name) in enumerate(zip(columns, own, strict=True)):
            if name in APPEARANCE:
                told[:, column] = torch.where(requested[:, place].isnan() & known, drawn[:, place], requested[:, place])
        return told


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
