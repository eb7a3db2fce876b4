"""How well a judge tells real lesions that it was not trained on, beside what the mask's size alone tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.lesions.appearance import volume_mm3
from evaluation.lesions.lesion_sets import Lesion
from evaluation.networks.lesion_judge import CLASSES, Judgement
from evaluation.statistics.agreement import auroc, matched_auroc, partial_spearman, patient_interval, spearman
from imaging.dataset.label_policy import LabelPolicy, malignancy_label
from imaging.dataset.nodules import load_nodules

EQUAL_SIZE = 0.25  # of log volume: a pair of lesions whose diameters differ by 9 % counts 0.6 of an equal one


@dataclass(frozen=True)
class JudgeRow:
    """One attribute on one set of real lesions; intervals are 95 % over patients.

    Attributes:
        attribute, lesions_of: What is judged, and of which lesions.
        measure: "AUROC", or "Spearman" of ratings.
        lesions: With a label.
        value, low, high: Of the judge.
        size_only: The same measure of the mask's volume alone.
        equal_size, equal_low, equal_high: Of what the judge adds to volume, among lesions of equal volume: the AUROC
            over pairs matched in volume, or the partial rank correlation.
        size_at_equal_size: The former of volume alone: what the matching leaves of it; None for ratings, 0 by
            construction.
    """

    attribute: str
    lesions_of: str
    measure: str
    lesions: int
    value: float
    low: float | None
    high: float | None
    size_only: float
    equal_size: float | None
    equal_low: float | None
    equal_high: float | None
    size_at_equal_size: float | None


def ratings_of(data: Path, split: str, lesions: Sequence[Lesion], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Readers' ratings of lesions of a prepared dataset: name -> (N,), NaN where not rated."""
    rows = load_nodules(data, split).select_columns(["nodule_id", *names])
    by_name = {row["nodule_id"]: row for row in rows}
    return {name: np.array([by_name[lesion.name][name] for lesion in lesions], float) for name in names}


def malignant_or_not(ratings: np.ndarray, policy: LabelPolicy) -> np.ndarray:
    """Mean malignancy (N,) -> 1 malignant, 0 benign, NaN where the policy calls it neither or nobody rated it."""
    label = {"benign": 0.0, "malignant": 1.0, "": np.nan}
    return np.array([label[malignancy_label(None if np.isnan(r) else float(r), policy)] for r in ratings])


def judge_rows(
    judgement: Judgement,
    lesions: Sequence[Lesion],
    ratings: Mapping[str, np.ndarray],
    policy: LabelPolicy,
    lesions_of: str,
    repeats: int,
    seed: int,
) -> tuple[list[JudgeRow], list[str]]:
    """The judge's figures.

    Args:
        judgement: Of these lesions.
        lesions: Real, of patients that the judge has not seen.
        ratings: From `ratings_of`, of the judge's attributes.
        policy: Which mean malignancy is benign and malignant.
        lesions_of: Name of the set.
        repeats: Resamples of the intervals.
        seed: Of them.
    Returns: Rows, and a sentence for each attribute without a figure.
    """
    log_volume = np.log([volume_mm3(lesion) for lesion in lesions])
    patients = np.array([lesion.patient_id for lesion in lesions])
    rows, notes = [], []
    for name in judgement.attributes:
        classes = name == CLASSES
        truth = malignant_or_not(ratings[name], policy) if classes else ratings[name]
        known = ~np.isnan(truth)
        y, whole, added, volume = (v[known] for v in (truth, judgement.whole(name), judgement.added(name), log_volume))
        if len(set(y.tolist())) < 2:
            notes.append(f"{lesions_of}: no figure of the judge for {name}, all {len(y)} rated lesions are alike")
            continue

        def plain(i: np.ndarray, y=y, score=whole, classes=classes) -> float:
            return auroc(score[i], y[i] > 0) if classes else spearman(score[i], y[i])

        def equal(i: np.ndarray, y=y, score=added, volume=volume, classes=classes) -> float:
            if classes:
                return matched_auroc(score[i], y[i] > 0, volume[i], EQUAL_SIZE)
            return partial_spearman(score[i], y[i], volume[i])

        everyone = np.arange(len(y))
        value, equal_value = plain(everyone), equal(everyone)
        if np.isnan(value):
            notes.append(f"{lesions_of}: no figure of the judge for {name}, it says the same of all")
            continue
        interval = patient_interval(plain, patients[known], repeats, np.random.default_rng(seed))
        equal_interval = patient_interval(equal, patients[known], repeats, np.random.default_rng(seed))
        low, high = interval or (None, None)
        equal_low, equal_high = equal_interval or (None, None)
        rows.append(
            JudgeRow(
                attribute=name,
                lesions_of=lesions_of,
                measure="AUROC" if classes else "Spearman",
                lesions=len(y),
                value=value,
                low=low,
                high=high,
                size_only=auroc(volume, y > 0) if classes else spearman(volume, y),
                equal_size=None if np.isnan(equal_value) else equal_value,
                equal_low=equal_low,
                equal_high=equal_high,
                size_at_equal_size=matched_auroc(volume, y > 0, volume, EQUAL_SIZE) if classes else None,
            )
        )
    return rows, notes
