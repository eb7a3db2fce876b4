"""Whether a finished synthetic lesion passes: what it has, and how plausible it is, against what was requested."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from evaluation.lesions.label_agreement import LEAST_DICE, LabelAgreement, label_agreement, label_fault
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.real_lesions import RealLesions
from imaging.dataset.crop import crop_nodule
from imaging.lesions.measured_attributes import measured_attributes

AGREEMENT = ("label_dice", "empty_share", "contrast_hu")  # in the manifest, of `LabelAgreement`


def least_dice_of(pipeline: Any, given: float | None) -> float:
    """The given limit, or the usual one for a pipeline whose masks end where the lesion does: none for others."""
    if given is not None:
        return given
    return LEAST_DICE if pipeline.config["detailed_map"] else 0.0


def agreement_in_scan(ct: sitk.Image, mask: sitk.Image, crop_size: int, spacing_mm: float) -> LabelAgreement:
    """Whether a lesion of a scan is where its label says, measured on the model's grid.

    Args:
        ct: HU.
        mask: The lesion's label, above 0 inside.
        crop_size, spacing_mm: Of the model's grid, voxels and mm.
    """
    crop, _, _ = crop_nodule(ct, mask, crop_size, spacing_mm)
    return label_agreement(crop["ct_hu"], crop["lesion_mask"], 3 * (spacing_mm,), crop["valid_mask"])


@dataclass(frozen=True)
class Acceptance:
    """Measures finished lesions as the real ones were measured, and says what is wrong with one.

    Attributes:
        real: The reference.
        crop_size, spacing_mm: Of the crops that the reference was measured in: the model's grid, voxels and mm.
        hu_tolerance: How far a lesion's mean may be from the one that was requested; None lets all pass.
        least_plausibility: Share of real lesions that are as unlike the others; 0 lets all pass.
        least_dice: Of a solid lesion's own outline with its label; 0 lets all pass, also those that leave it empty.
    """

    real: RealLesions
    crop_size: int
    spacing_mm: float
    hu_tolerance: float | None
    least_plausibility: float
    least_dice: float = 0.0

    def measure(self, ct: sitk.Image, mask: sitk.Image) -> dict[str, float]:
        """`mean_hu` and the other measured attributes, `distance` to real lesions, `plausibility`, and `label_dice`,
        `empty_share` and `contrast_hu` of `LabelAgreement`.

        Args:
            ct: The part of the scan around the finished lesion, HU.
            mask: The lesion's, above 0 inside, on the same grid.
        """
        crop, _, _ = crop_nodule(ct, mask, self.crop_size, self.spacing_mm)
        measured = measured_attributes(crop["ct_hu"], crop["lesion_mask"])
        masks = (crop["lesion_mask"] > 0, crop["valid_mask"] > 0)
        lesion = Lesion("synthetic", "", crop["ct_hu"].astype(np.float32), *masks, (self.spacing_mm,) * 3)
        distance = self.real.distances([lesion])
        plausibility = float(self.real.plausibility(distance)[0])
        agreement = label_agreement(crop["ct_hu"], *masks[:1], lesion.spacing_mm, masks[1])
        found = dict(zip(AGREEMENT, agreement, strict=False))
        return {**measured, "distance": float(distance[0]), "plausibility": plausibility, **found}

    def fault(self, measured: Mapping[str, float], requested: Mapping[str, float]) -> tuple[str, str] | None:
        """Why a lesion does not pass, in a word or two and in figures; None where it passes.

        Args:
            measured: From `measure`.
            requested: Attribute -> value; a mean HU is compared.
        """
        request = requested.get("mean_hu")
        if request is not None and self.hu_tolerance is not None:
            mean_hu = measured["mean_hu"]
            if abs(mean_hu - request) > self.hu_tolerance:
                return "HU not as requested", f"mean {mean_hu:.0f} HU for {request:.0f} HU"
        if self.least_dice:
            agreement = LabelAgreement(*(measured[name] for name in (*AGREEMENT, "p50_hu")))
            fault = label_fault(agreement, self.least_dice)
            if fault is not None:
                return fault
        if measured["plausibility"] < self.least_plausibility:
            return "implausible", f"{measured['plausibility']:.3f}, least {self.least_plausibility:g}"
        return None
