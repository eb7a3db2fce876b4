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
from imaging.geometry import paste_difference
from imaging.lesions.mask import grown_mask
from imaging.lesions.measured_attributes import measured_attributes
from imaging.window import AIR_HU

AGREEMENT = ("label_dice", "empty_share", "contrast_hu")  # in the manifest, of `LabelAgreement`
GRID_MARGIN_MM = 4.0  # around a lesion, wide enough for the blur of a coarse grid
RING_MM = (3.0, 8.0)  # around a lesion: the lung that a coarse grid blurs into it


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
        """`mean_hu` and the other measured attributes, `distance` to real lesions, `plausibility`, `label_dice`,
        `empty_share` and `contrast_hu` of `LabelAgreement`, and `grid_share` and `around_hu` of :meth:`fault`.

        Args:
            ct: The part of the scan around the finished lesion, HU.
            mask: The lesion's, above 0 inside, on the same grid.
        """
        crop, grid, _ = crop_nodule(ct, mask, self.crop_size, self.spacing_mm)
        measured = measured_attributes(crop["ct_hu"], crop["lesion_mask"])
        masks = (crop["lesion_mask"] > 0, crop["valid_mask"] > 0)
        lesion = Lesion("synthetic", "", crop["ct_hu"].astype(np.float32), *masks, (self.spacing_mm,) * 3)
        distance = self.real.distances([lesion])
        plausibility = float(self.real.plausibility(distance)[0])
        agreement = label_agreement(crop["ct_hu"], *masks[:1], lesion.spacing_mm, masks[1])
        found = dict(zip(AGREEMENT, agreement, strict=False))
        found |= {"grid_share": _grid_share(ct, mask, grid, masks[0])}
        found["around_hu"] = _around_hu(crop["ct_hu"], masks[0], self.spacing_mm)
        return {**measured, "distance": float(distance[0]), "plausibility": plausibility, **found}

    def fault(self, measured: Mapping[str, float], requested: Mapping[str, float]) -> tuple[str, str] | None:
        """Why a lesion does not pass, in a word or two and in figures; None where it passes.

        A request holds on the model's grid. A scan of thick slices blurs a small lesion with the lung around: of its
        contrast, `grid_share` is left. So the mean may also be that much lower.

        Args:
            measured: From `measure`.
            requested: Attribute -> value; a mean HU is compared.
        """
        request = requested.get("mean_hu")
        if request is not None and self.hu_tolerance is not None:
            mean_hu, share = measured["mean_hu"], measured["grid_share"]
            blurred = share * request + (1 - share) * measured["around_hu"]
            if not min(blurred, request) - self.hu_tolerance <= mean_hu <= max(blurred, request) + self.hu_tolerance:
                return "HU not as requested", f"mean {mean_hu:.0f} HU for {request:.0f} HU"
        if self.least_dice:
            agreement = LabelAgreement(*(measured[name] for name in (*AGREEMENT, "p50_hu")))
            fault = label_fault(agreement, self.least_dice)
            if fault is not None:
                return fault
        if measured["plausibility"] < self.least_plausibility:
            return "implausible", f"{measured['plausibility']:.3f}, least {self.least_plausibility:g}"
        return None


def _grid_share(ct: sitk.Image, mask: sitk.Image, grid: sitk.Image, lesion_mask: np.ndarray) -> float:
    """Mean in the mask of a uniform lesion of contrast 1 that is painted into the scan's grid and sampled again."""
    near = grown_mask(sitk.GetArrayViewFromImage(mask) > 0, GRID_MARGIN_MM, ct.GetSpacing()[::-1])
    everywhere = sitk.Image(grid.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(grid)
    reached = sitk.Resample(everywhere, ct, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    near = near * sitk.GetArrayViewFromImage(reached)  # the margin of the largest lesions ends beyond the grid
    weight, nothing = (sitk.GetImageFromArray(array.astype(np.float32)) for array in (near, np.zeros(near.shape)))
    weight.CopyInformation(ct)
    nothing.CopyInformation(ct)
    painted = paste_difference(nothing, grid, 1000.0 * lesion_mask, weight)
    sampled = sitk.GetArrayFromImage(sitk.Resample(painted, grid))
    return float(sampled[lesion_mask].mean()) / 1000


def _around_hu(ct_hu: np.ndarray, lesion_mask: np.ndarray, spacing_mm: float) -> float:
    """Median of what lies around a lesion, HU."""
    near, far = (grown_mask(lesion_mask, margin, 3 * (spacing_mm,)) > 0 for margin in RING_MM)
    ring = far & ~near
    return float(np.median(ct_hu[ring])) if ring.any() else AIR_HU
