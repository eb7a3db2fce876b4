"""Requested against judged and achieved: two classes, graded requests, and what changes that was not requested."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.guided.requested_sets import Character, RequestedSet
from evaluation.guided.requested_values import CLASS_ATTRIBUTE
from evaluation.statistics.agreement import auroc, group_aurocs, group_spearmans, jackknife_interval, spearman
from evaluation.statistics.resampling import mean_interval
from imaging.lesions.measured_attributes import MEASURED


@dataclass(frozen=True)
class ClassRow:
    """Lesions requested as benign and as malignant in the same masks, at one scale; intervals are 95 % over patients.

    Attributes:
        scale: Of the guidance.
        lesions: Of each class.
        auroc, low, high: Of the judge's whole verdict, in which the volume of the mask, shared by both, is noise.
        equal_size, equal_low, equal_high: AUROC of what the image adds to volume.
        within_mask, within_low, within_high: Share of masks whose malignant lesion is judged the more malignant.
        share_benign, share_malignant: Share of each class whose image speaks for the requested class at its volume.
    """

    scale: float
    lesions: int
    auroc: float
    low: float | None
    high: float | None
    equal_size: float
    equal_low: float | None
    equal_high: float | None
    within_mask: float
    within_low: float
    within_high: float
    share_benign: float
    share_malignant: float


@dataclass(frozen=True)
class RankRow:
    """A graded request at one scale: what was requested against what was judged (a rating) or achieved (HU).

    Attributes:
        attribute, scale, lesions: What, how strongly, and of how many lesions in all.
        rho, low, high: Rank correlation over all lesions, 95 % over patients; None where all are alike.
        within_mask: Mean over the masks of the rank correlation within each.
        slope: Of a line through achieved over requested; 1 for exact requested_vs_achieved.
        error_hu: Mean absolute difference in HU; None of ratings.
        means: Requested number -> mean of what was found.
    """

    attribute: str
    scale: float
    lesions: int
    rho: float | None
    low: float | None
    high: float | None
    within_mask: float | None
    slope: float
    error_hu: float | None
    means: dict[float, float]


@dataclass(frozen=True)
class LeakRow:
    """What changes when a value is requested, against the same noise unconditional.

    Attributes:
        attribute, value, scale: What was requested, its label, how strongly.
        changes: Judged attribute or HU figure -> mean change, in standard deviations of real lesions.
    """

    attribute: str
    value: str
    scale: float
    changes: dict[str, float]


def class_row(benign: RequestedSet, malignant: RequestedSet, repeats: int, seed: int) -> ClassRow:
    """Figures of malignancy at one scale.

    Args:
        benign, malignant: Requested in the same masks; unconditional lesions may stand for both, then the AUROC is 0.5.
        repeats: Resamples of the interval within masks.
        seed: Of them.
    """
    sides = (benign.character, malignant.character)
    whole = np.concatenate([side.judgement.whole(CLASS_ATTRIBUTE) for side in sides])
    added = np.concatenate([side.judgement.added(CLASS_ATTRIBUTE) for side in sides])
    positive = np.repeat([False, True], [len(side.lesions) for side in sides])
    masks = [mask for side in sides for mask in side.masks]
    patients = [patient for side in sides for patient in side.patients]
    patient_of = dict(zip(masks, patients, strict=True))
    within = group_aurocs(added, positive, masks)
    values = np.array(list(within.values()))
    rng = np.random.default_rng(seed)
    within_low, within_high = mean_interval(values, [patient_of[mask] for mask in within], repeats, rng)

    def interval(scores: np.ndarray) -> tuple[float | None, float | None]:
        return within_range(jackknife_interval(lambda i: auroc(scores[i], positive[i]), patients), 0.0)

    low, high = interval(whole)
    equal_low, equal_high = interval(added)
    return ClassRow(
        scale=malignant.scale,
        lesions=int(positive.sum()),
        auroc=auroc(whole, positive),
        low=low,
        high=high,
        equal_size=auroc(added, positive),
        equal_low=equal_low,
        equal_high=equal_high,
        within_mask=float(values.mean()),
        within_low=within_low,
        within_high=within_high,
        share_benign=float((added[~positive] < 0).mean()),
        share_malignant=float((added[positive] > 0).mean()),
    )


def rank_row(sets: Sequence[RequestedSet]) -> RankRow:
    """Figures of a graded request at one scale.

    Args:
        sets: One for each requested value of the attribute.
    """
    attribute = sets[0].attribute
    requested = np.concatenate([np.full(len(one.character.lesions), one.value.number) for one in sets])
    found = np.concatenate([one.character.value(attribute) for one in sets])
    patients = [patient for one in sets for patient in one.character.patients]
    masks = [mask for one in sets for mask in one.character.masks]
    low, high = within_range(jackknife_interval(lambda i: spearman(requested[i], found[i]), patients), -1.0)
    within = group_spearmans(requested, found, masks)
    rho = spearman(requested, found)
    return RankRow(
        attribute=attribute,
        scale=sets[0].scale,
        lesions=len(masks),
        rho=None if np.isnan(rho) else rho,
        low=low,
        high=high,
        within_mask=float(np.mean(list(within.values()))) if within else None,
        slope=float(np.polyfit(requested, found, 1)[0]),
        error_hu=float(np.abs(found - requested).mean()) if attribute in MEASURED else None,
        means={one.value.number: float(one.character.value(attribute).mean()) for one in sets},
    )


def leak_row(requested: RequestedSet, unconditional: Character, spread: dict[str, float]) -> LeakRow:
    """Mean changes against the same noise unconditional.

    Args:
        requested: Lesions requested a value.
        unconditional: The lesions of the same masks and seeds, requested nothing; those without a partner do not count.
        spread: Standard deviation of each judged attribute and HU figure over real lesions.
    """
    names = sorted(set(unconditional.lesions) & set(requested.character.lesions))
    rows, before = requested.character.rows(names), unconditional.rows(names)
    changes = {
        name: float((requested.character.value(name)[rows] - unconditional.value(name)[before]).mean() / spread[name])
        for name in requested.character.names
    }
    return LeakRow(requested.attribute, requested.value.label, requested.scale, changes)


def real_spread_of(real: Character) -> dict[str, float]:
    """Standard deviation of each judged attribute and HU figure over real lesions; 1 where they are all alike."""
    return {name: float(real.value(name).std()) or 1.0 for name in real.names}


def within_range(interval: tuple[float, float] | None, lowest: float) -> tuple[float | None, float | None]:
    """An interval cut to what the figure can be, from `lowest` to 1; (None, None) for none."""
    return (None, None) if interval is None else (max(interval[0], lowest), min(interval[1], 1.0))
