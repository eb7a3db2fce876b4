"""What the answers of a reading say: shares with exact intervals, AUROC from the confidence, and agreement.

The positive class is "synthetic". So the sensitivity is the share of synthetic lesions that were recognised, and the
specificity the share of real lesions that were called real.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from evaluation.reading.answers import Answer
from evaluation.reading.study import KeyCase
from evaluation.statistics.agreement import auroc
from evaluation.statistics.resampling import patient_rows

Figure = tuple[float, float, float]  # value and 95 % interval
RESAMPLES = 1000
DIAMETERS = ((0.0, 6.0), (6.0, 10.0), (10.0, 20.0), (20.0, np.inf))  # mm
TEXTURES = (("ground glass", 0.0, 2.0), ("part-solid", 2.0, 4.0), ("solid", 4.0, np.inf))  # ratings, the lower bound in
MEAN_HU = ((-np.inf, -600.0), (-600.0, -200.0), (-200.0, np.inf))


@dataclass(frozen=True)
class Read:
    """An answer beside its truth."""

    answer: Answer
    truth: KeyCase

    @property
    def called_synthetic(self) -> bool:
        """What the reader said."""
        return self.answer.verdict == "synthetic"

    @property
    def wrong(self) -> bool:
        """Whether that is not so."""
        return self.called_synthetic == self.truth.real

    @property
    def score(self) -> int:
        """How sure the reader is that it is synthetic: 1 (certainly real) to 10 (certainly synthetic)."""
        return 5 + self.answer.confidence if self.called_synthetic else 6 - self.answer.confidence


def proportion(found: int, total: int) -> Figure:
    """A share and its exact interval (Clopper & Pearson 1934). Raises ValueError for a share of nothing."""
    if total < 1:
        raise ValueError("a share of 0 cases, expected at least one")
    interval = binomtest(int(found), int(total)).proportion_ci(method="exact")
    return found / total, float(interval.low), float(interval.high)


def reading_figures(called_synthetic: Sequence[bool], real: Sequence[bool]) -> dict[str, Figure]:
    """Value and 95 % interval (Clopper–Pearson) of what a reading says.

    Args:
        called_synthetic: The answers.
        real: The truth, same order.
    Returns: `recognised`, the share of synthetic lesions that were called synthetic; `false_alarms`, the share of real
        ones that were; `accuracy`; and `difference` of the first two (Newcombe 1998, from their intervals by Wilson).
    Raises: ValueError: If the lengths differ or a class is missing.
    """
    called, truth = np.asarray(called_synthetic, bool), np.asarray(real, bool)
    if called.shape != truth.shape or truth.all() or not truth.any():
        raise ValueError(f"{called.size} answers for {truth.size} cases, expected as many, of real and synthetic ones")
    counts = {
        "recognised": (int(called[~truth].sum()), int((~truth).sum())),
        "false_alarms": (int(called[truth].sum()), int(truth.sum())),
        "accuracy": (int((called != truth).sum()), len(truth)),
    }
    figures = {name: proportion(found, total) for name, (found, total) in counts.items()}
    (a, low_a, high_a), (b, low_b, high_b) = (_wilson(*counts[name]) for name in ("recognised", "false_alarms"))
    below, above = np.hypot(a - low_a, high_b - b), np.hypot(high_a - a, b - low_b)
    figures["difference"] = (a - b, float(a - b - below), float(a - b + above))
    return figures


def reader_figures(reads: Sequence[Read], seed: int = 0) -> dict[str, Figure]:
    """`reading_figures` with `specificity` and `auroc`, whose interval is a bootstrap over patients.

    Args:
        reads: First showings, of one reader or of all.
        seed: Of the bootstrap.
    """
    called, real = [read.called_synthetic for read in reads], [read.truth.real for read in reads]
    figures = reading_figures(called, real)
    value, low, high = figures["false_alarms"]
    figures["specificity"] = (1 - value, 1 - high, 1 - low)
    scores, synthetic = np.array([read.score for read in reads]), ~np.array(real)
    value = auroc(scores, synthetic)
    figures["auroc"] = (value, *_over_patients(reads, lambda rows: auroc(scores[rows], synthetic[rows]), seed))
    return figures


def accuracy_over_patients(reads: Sequence[Read], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the accuracy over patients: for several readers of the same cases."""
    right = np.array([not read.wrong for read in reads])
    return _over_patients(reads, lambda rows: float(right[rows].mean()), seed)


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Cohen's kappa (1960); None where both always say the same, because chance agreement is then complete."""
    if len(set(first) | set(second)) < 2:
        return None
    return float(cohen_kappa_score(first, second))


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Agreement of several readers (Fleiss 1971).

    Args:
        counts: (cases, categories), how many readers chose each category; every row has the same sum, at least 2.
    Returns: 1 for full agreement, 0 for chance; None where only one category was ever chosen.
    Raises: ValueError: If the rows have different sums, or fewer than two readers.
    """
    counts = np.asarray(counts, float)
    readers = counts.sum(axis=1)
    if len(counts) == 0 or readers[0] < 2 or not (readers == readers[0]).all():
        raise ValueError("the readers differ in number, or are fewer than 2; give cases that all have read")
    n = readers[0]
    agreement = ((counts**2).sum(axis=1) - n) / (n * (n - 1))
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return None if chance == 1 else float((agreement.mean() - chance) / (1 - chance))


def agreement_between(reads_of: dict[str, list[Read]]) -> dict[str, tuple[float | None, int]]:
    """Kappa of each pair of readers, and of all, with the number of cases that they share."""
    called = {name: {r.truth.case: r.called_synthetic for r in reads} for name, reads in reads_of.items()}
    found: dict[str, tuple[float | None, int]] = {}
    for a, b in combinations(called, 2):
        both = sorted(called[a].keys() & called[b].keys())
        if both:
            kappa = cohen_kappa([called[a][case] for case in both], [called[b][case] for case in both])
            found[f"{a} and {b} (Cohen)"] = (kappa, len(both))
    shared = sorted(set.intersection(*(set(of) for of in called.values()))) if len(called) > 2 else []
    if shared:
        synthetic = np.array([sum(of[case] for of in called.values()) for case in shared])
        found["all (Fleiss)"] = (fleiss_kappa(np.stack([synthetic, len(called) - synthetic], axis=1)), len(shared))
    return found


def agreement_within(first: Sequence[Read], repeats: Sequence[Read]) -> tuple[Figure, float | None, int] | None:
    """A reader against himself or herself: the share of equal answers, Cohen's kappa, cases; None without repeats."""
    before = {read.truth.case: read.called_synthetic for read in first}
    pairs = [(before[r.truth.case], r.called_synthetic) for r in repeats if r.truth.case in before]
    if not pairs:
        return None
    a, b = zip(*pairs, strict=True)
    return proportion(sum(x == y for x, y in pairs), len(pairs)), cohen_kappa(a, b), len(pairs)


def groups(reads: Sequence[Read]) -> dict[str, dict[str, list[Read]]]:
    """The answers by diameter, texture and mean HU of their lesions; groups without an answer are missing."""

    def where(keep: Callable[[KeyCase], bool]) -> list[Read]:
        return [read for read in reads if keep(read.truth)]

    def within(name: str, low: float, high: float) -> list[Read]:
        return where(lambda case: (value := getattr(case, name)) is not None and low <= value < high)

    found = {
        "diameter": {_range(low, high, "mm"): within("diameter_mm", low, high) for low, high in DIAMETERS},
        "texture": {name: within("texture", low, high) for name, low, high in TEXTURES},
        "mean HU": {_range(low, high, "HU"): within("mean_hu", low, high) for low, high in MEAN_HU},
    }
    for kind, name in (("diameter", "diameter_mm"), ("texture", "texture"), ("mean HU", "mean_hu")):
        found[kind]["unknown"] = where(lambda case, name=name: getattr(case, name) is None)  # type: ignore[misc]
    return {kind: {name: members for name, members in of.items() if members} for kind, of in found.items()}


def most_missed(reads: Sequence[Read], real: bool, count: int) -> list[tuple[KeyCase, int, int, float]]:
    """Cases of one class that most readers got wrong, the surest first.

    Args:
        reads: First showings of all readers.
        real: The class.
        count: How many.
    Returns: The case, how many readers were wrong, how many read it, and the mean confidence of the wrong ones.
    """
    by_case: dict[int, list[Read]] = {}
    for read in reads:
        if read.truth.real == real:
            by_case.setdefault(read.truth.case, []).append(read)
    rows = []
    for of_case in by_case.values():
        wrong = [read.answer.confidence for read in of_case if read.wrong]
        if wrong:
            rows.append((of_case[0].truth, len(wrong), len(of_case), float(np.mean(wrong))))
    return sorted(rows, key=lambda row: (-row[1] / row[2], -row[3], row[0].case))[:count]


def _over_patients(reads: Sequence[Read], figure: Callable[[np.ndarray], float], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval over patients; resamples in which a class is missing do not count."""
    rows = list(patient_rows([read.truth.patient or read.truth.lesion for read in reads]).values())
    rng, values = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        values.append(figure(chosen))
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def _range(low: float, high: float, unit: str) -> str:
    if low in (0, -np.inf):
        return f"below {high:g} {unit}"
    return f"{low:g} {unit} and more" if high == np.inf else f"{low:g} to {high:g} {unit}"


def _wilson(found: int, total: int) -> Figure:
    interval = binomtest(found, total).proportion_ci(method="wilson")
    return found / total, float(interval.low), float(interval.high)
