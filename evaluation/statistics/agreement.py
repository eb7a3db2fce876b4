"""Agreement of scores with labels or ratings: at equal size, within groups, and with intervals over patients.

The plain figures are those of scikit-learn and SciPy, but quick enough for thousands of resamples of few lesions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student_t

from evaluation.statistics.resampling import patient_rows


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, from the ranks (Mann & Whitney 1947); NaN where a class is missing.

    Args:
        scores: (N,), higher for positive; ties count half.
        positive: (N,) bool.
    """
    positive = np.asarray(positive, bool)
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def matched_auroc(scores: np.ndarray, positive: np.ndarray, matched_by: np.ndarray, bandwidth: float) -> float:
    """The share of pairs (positive, negative) in which the positive one scores higher, among pairs that are alike.

    A pair's weight is exp(-(difference of `matched_by`)² / 2 bandwidth²); ties count half. With a large bandwidth this
    is the AUROC.

    Args:
        scores: (N,).
        positive: (N,) bool.
        matched_by: (N,), for example log volume.
        bandwidth: In its unit.
    Returns: 0.5 for scores that only know `matched_by`, up to the width of the kernel; NaN without a pair.
    """
    ones, zeros = np.flatnonzero(positive), np.flatnonzero(~np.asarray(positive, bool))
    difference = (matched_by[ones][:, None] - matched_by[zeros][None]) / bandwidth
    weight = np.exp(-0.5 * difference**2)
    higher = _higher(scores[ones], scores[zeros])
    total = weight.sum()
    return float((weight * higher).sum() / total) if total > 0 else float("nan")


def group_aurocs(scores: np.ndarray, positive: np.ndarray, groups: Sequence[str]) -> dict[str, float]:
    """The AUROC of each group; groups without a pair are missing.

    Args:
        scores: (N,).
        positive: (N,) bool.
        groups: (N,), for example masks: what a mask fixes plays no part within it.
    """
    ids, found = np.asarray(groups), {}
    for group in np.unique(ids):
        rows = ids == group
        higher = _higher(scores[rows & positive], scores[rows & ~positive])
        if higher.size:
            found[str(group)] = float(higher.mean())
    return found


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; NaN where one is constant."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm > 0 else float("nan")


def group_spearmans(x: np.ndarray, y: np.ndarray, groups: Sequence[str]) -> dict[str, float]:
    """The rank correlation of each group; groups in which x or y is constant are missing. Arguments (N,) each."""
    ids = np.asarray(groups)
    found = {str(group): spearman(x[ids == group], y[ids == group]) for group in np.unique(ids)}
    return {group: value for group, value in found.items() if not np.isnan(value)}


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Rank correlation of x and y when a third is held: correlation of ranks after both are regressed on its ranks.

    Args:
        x, y, given: (N,).
    Returns: NaN where nothing is left of one.
    """
    ranks = rankdata(given)
    design = np.stack([np.ones_like(ranks), ranks], axis=1)

    def rest(values: np.ndarray) -> np.ndarray:
        own = rankdata(values)
        return own - design @ np.linalg.lstsq(design, own, rcond=None)[0]

    a, b = rest(x), rest(y)
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm > 1e-9 else float("nan")


def patient_interval(
    statistic: Callable[[np.ndarray], float],
    patients: Sequence[str],
    repeats: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of any statistic, patients drawn with all their rows.

    Args:
        statistic: Row numbers, each as often as it was drawn -> the figure; NaN where it cannot be told.
        patients: The patient of each row.
        repeats: Resamples.
        rng: Source of them.
        level: Coverage aimed at.
    Returns: Lower and upper end; None if fewer than half of the resamples have the figure.
    """
    groups = list(patient_rows(patients).values())
    drawn = np.array(
        [statistic(np.concatenate([groups[g] for g in rng.choice(len(groups), len(groups))])) for _ in range(repeats)]
    )
    known = drawn[~np.isnan(drawn)]
    if 2 * len(known) < repeats:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def jackknife_interval(
    statistic: Callable[[np.ndarray], float], patients: Sequence[str], level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of a statistic from leaving out one patient at a time (Efron & Stein 1981), with Student's t.

    For rows that come in pairs, such as two lesions of one mask. A bootstrap draws some masks several times and so
    compares their lesions with each other more often than the data do, which shifts it.

    Args:
        statistic: Row numbers -> the figure; NaN where it cannot be told.
        patients: The patient of each row.
        level: Coverage aimed at.
    Returns: Lower and upper end around the figure of all rows; None with one patient, or where a figure is missing.
    """
    groups = list(patient_rows(patients).values())
    everyone = np.arange(len(patients))
    values = np.array([statistic(np.delete(everyone, rows)) for rows in groups]) if len(groups) > 1 else np.empty(0)
    value = statistic(everyone)
    if not len(values) or np.isnan(values).any() or np.isnan(value):
        return None
    reach = student_t.ppf((1 + level) / 2, len(groups) - 1) * np.sqrt((len(groups) - 1) * np.var(values))
    return float(value - reach), float(value + reach)


def _higher(ones: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """(positives, negatives): 1 where the positive scores higher, 0.5 where equal."""
    return (ones[:, None] > zeros[None]) + 0.5 * (ones[:, None] == zeros[None])
