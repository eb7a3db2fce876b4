"""Lesions that were requested something, judged and measured; and sets of them put together.

A sweep has far more lesions than fit in memory, so what is kept of them is their character; their volumes stay on disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.guided.requested_values import RequestedValue
from evaluation.lesions.features import Features, FeatureSet
from evaluation.lesions.lesion_sets import Lesion
from evaluation.networks.lesion_judge import Judgement, LesionJudge, judge_lesions
from imaging.lesions.mask import grown_mask
from imaging.lesions.measured_attributes import MEASURED, measured_attributes


@dataclass(frozen=True)
class Character:
    """What N lesions are like.

    Attributes:
        lesions: Their names.
        masks: The masks that they were made in, (N,) names.
        patients: Of each.
        judgement: What the judge says of them.
        hu: (N, 4), the figures `imaging.lesions.measured_attributes.MEASURED` inside their masks.
    """

    lesions: Sequence[str]
    masks: Sequence[str]
    patients: Sequence[str]
    judgement: Judgement
    hu: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """What `value` knows."""
        return (*self.judgement.attributes, *MEASURED)

    def value(self, name: str) -> np.ndarray:
        """Achieved HU, or what the judge says of the image at its mask's size, (N,)."""
        return self.hu[:, MEASURED.index(name)] if name in MEASURED else self.judgement.added(name)

    def rows(self, lesions: Sequence[str]) -> np.ndarray:
        """The rows of the lesions with these names."""
        row = {lesion: index for index, lesion in enumerate(self.lesions)}
        return np.array([row[lesion] for lesion in lesions], int)


@dataclass(frozen=True)
class RequestedSet:
    """Lesions that were requested one value of one attribute at one scale."""

    attribute: str
    value: RequestedValue
    scale: float
    character: Character


def character_of(judge: LesionJudge, lesions: list[Lesion]) -> Character:
    """Judge and measure lesions, real or made."""
    measured = [measured_attributes(lesion.ct_hu, lesion.lesion_mask) for lesion in lesions]
    return Character(
        [lesion.name for lesion in lesions],
        [lesion.mask_name for lesion in lesions],
        [lesion.patient_id for lesion in lesions],
        judge_lesions(judge, lesions),
        np.array([[one[name] for name in MEASURED] for one in measured]),
    )


def pooled(sets: Sequence[Sequence[Lesion]]) -> list[Lesion]:
    """The lesions of several sets as samples of their masks, `<mask>_seed<k>`, sorted by name."""
    counted: dict[str, int] = {}
    lesions = []
    for lesion in [lesion for one in sets for lesion in one]:
        number = counted.get(lesion.mask_name, 0)
        counted[lesion.mask_name] = number + 1
        lesions.append(replace(lesion, name=f"{lesion.mask_name}_seed{number}"))
    return sorted(lesions, key=lambda lesion: lesion.name)


def without_volumes(features: Features) -> Features:
    """Features whose lesions are names and patients alone."""
    nothing = np.empty((0, 0, 0))

    def light(lesion: Lesion) -> Lesion:
        return replace(lesion, ct_hu=nothing, lesion_mask=nothing > 0, valid_mask=nothing > 0)

    return {
        kind: FeatureSet(f.values, [light(lesion) for lesion in f.lesions], f.names) for kind, f in features.items()
    }


def changed_outside(scans: Mapping[str, Lesion], made: Sequence[Lesion], paint_margin_mm: float) -> tuple[int, int]:
    """Voxels that differ from the scan where nothing was to be painted.

    Args:
        scans: Mask name -> the scan's own lesion.
        made: Made in their masks.
        paint_margin_mm: Of what is painted around the mask.
    Returns: Voxels that differ, of how many.
    Raises: ValueError: If a made lesion has no scan.
    """
    changed = outside = 0
    for lesion in made:
        if lesion.mask_name not in scans:
            raise ValueError(f"{lesion.name}: no real lesion {lesion.mask_name} to compare with; give the same data")
        scan = scans[lesion.mask_name]
        painted = grown_mask(scan.lesion_mask.astype(np.uint8), paint_margin_mm, scan.spacing_mm) * scan.valid_mask > 0
        changed += int(((scan.ct_hu != lesion.ct_hu) & ~painted).sum())
        outside += int((~painted).sum())
    return changed, outside
