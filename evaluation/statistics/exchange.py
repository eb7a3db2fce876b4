"""Whether synthetic lesions can be told from real ones: distances over patient-wise splits, and exchange tests.

A synthetic lesion painted into a real patient's mask shares much with that patient's real lesion. So the distance
between the two whole sets can be smaller than between two groups of real patients, even for a poor generator. Here the
synthetic lesions of some patients are compared with the real lesions of *other* patients. Real against real is measured
in the same splits. A perfect generator has a ratio of 1. Splits overlap and are not independent. So neither the
interval nor the p-values count splits: both work on patients.

All randomness comes from the generator that is passed in.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from evaluation.statistics.distances import VectorDistance
from evaluation.statistics.resampling import flat, patient_split

MIN_PATIENTS = 6  # fewer have at most 2⁵ exchanges of two sets, and p < 0.05 is out of reach
MIN_LEFT = 2  # lesions in a half when its largest patient is left out, so that a variance remains
STACK_BYTES = 2**28  # of the splits whose distances are taken in one call
MOST_TESTED = 1000  # masks of each set in a test; a thousand exchanges of more take hours and find no larger difference
JACKKNIFE_GROUPS = 200  # of patients that are left out together, where there are more patients
TEST_SPLITS = 20  # of tests and intervals; 60 took three times as long and raised the power of "farther" by a sixth


@dataclass(frozen=True)
class LesionSets:
    """Features of a real and a synthetic set, one entry per mask.

    Attributes:
        real: (U, rows, F); rows is 3 for slice features, else 1.
        synthetic: (V, K, rows, F), K samples of each mask.
        real_patients, synthetic_patients: The patient of each mask, (U,) and (V,).
        shared: Whether both are of the same masks or patients, entry by entry (U = V); else no patient is in both.
    """

    real: np.ndarray
    synthetic: np.ndarray
    real_patients: Sequence[str]
    synthetic_patients: Sequence[str]
    shared: bool


@dataclass(frozen=True)
class Splits:
    """Patient-wise splits; `half` lesions on every side.

    Attributes:
        real: (splits, 2, half), rows of the real lesions A and B, which share no patient.
        synthetic: The same of the synthetic masks; of shared patients, equal to `real`.
        samples: (splits, 2, half), which of a mask's K samples takes part, drawn anew in each split.
    """

    real: np.ndarray
    synthetic: np.ndarray
    samples: np.ndarray

    @property
    def half(self) -> int:
        """Lesions on each side."""
        return self.real.shape[2]

    def first(self, count: int) -> "Splits":
        """Only the first `count` splits."""
        return Splits(self.real[:count], self.synthetic[:count], self.samples[:count])


def draw_splits(sets: LesionSets, count: int, rng: np.random.Generator) -> Splits:
    """Random halves of the patients, all of one size.

    Args:
        sets: To be split.
        count: Number of splits.
        rng: Source of the splits and of the samples in them.
    Returns: The splits, with the largest halves that every split of whole patients can fill.
    Raises: ValueError: If a set has fewer than 6 patients, or one patient has so many lesions that a half without them
        would be left with fewer than 2.
    """
    half = min(_half(sets.real_patients), _half(sets.synthetic_patients))
    real, synthetic = [], []
    for _ in range(count):
        real.append(np.stack(patient_split(sets.real_patients, (half, half), rng)))
        drawn = real[-1] if sets.shared else np.stack(patient_split(sets.synthetic_patients, (half, half), rng))
        synthetic.append(drawn)
    return Splits(np.stack(real), np.stack(synthetic), rng.integers(sets.synthetic.shape[1], size=(count, 2, half)))


def split_distances(sets: LesionSets, splits: Splits, distance: VectorDistance) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic against real lesions of other patients, and real against real, in the same splits.

    Args:
        sets, splits: From `draw_splits`.
        distance: On (splits, half·rows, F) stacks of sets.
    Returns: (d(S_A, R_B) + d(S_B, R_A)) / 2 and d(R_A, R_B), each (splits, values of the distance).
    """
    bytes_a_split = 4 * splits.half * sets.real[0].size * sets.real.itemsize
    together = max(1, STACK_BYTES // bytes_a_split)
    values, floors = [], []
    for start in range(0, len(splits.real), together):
        some = Splits(*(part[start : start + together] for part in (splits.real, splits.synthetic, splits.samples)))
        A, B = (_stack(sets.real[some.real[:, side]]) for side in (0, 1))
        made_A, made_B = (_stack(sets.synthetic[some.synthetic[:, side], some.samples[:, side]]) for side in (0, 1))
        values.append((distance(made_A, B) + distance(made_B, A)) / 2)
        floors.append(distance(A, B))
    return np.concatenate(values), np.concatenate(floors)


def ratio_interval(
    sets: LesionSets, splits: Splits, distance: VectorDistance, level: float = 0.95
) -> tuple[float, float, float] | None:
    """Mean synthetic-vs-real over mean real-vs-real distance of the splits, with an interval by jackknife.

    The logarithm's standard error comes from leaving out one patient at a time in all splits (Efron & Stein 1981), or
    one of `JACKKNIFE_GROUPS` groups of patients, with Student's t; of two sets of different patients the two variances
    add up.

    Args:
        sets, splits: From `draw_splits`.
        distance: At least 0; its values are averaged.
        level: Coverage aimed at.
    Returns: Ratio, lower and upper end; None if one of the mean distances is not positive.
    """
    values, floors = (found.mean(axis=-1) for found in split_distances(sets, splits, distance))
    if min(values.mean(), floors.mean()) <= 0:
        return None
    log_ratio = np.log(values.mean() / floors.mean())
    real_ids = _groups(sets.real_patients)
    made_ids = real_ids if sets.shared else _groups(sets.synthetic_patients) + JACKKNIFE_GROUPS
    groups = [np.unique(real_ids)] if sets.shared else [np.unique(real_ids), np.unique(made_ids)]
    variance = 0.0
    for patients in groups:
        left_out = []
        for patient in patients:
            sums = np.array([values, floors])
            present = (real_ids[splits.real] == patient) | (made_ids[splits.synthetic] == patient)
            for index in np.flatnonzero(present.any(axis=(1, 2))):
                A, B = (flat(sets.real[rows[real_ids[rows] != patient]]) for rows in splits.real[index])
                made_A, made_B = (
                    flat(sets.synthetic[rows, samples][made_ids[rows] != patient])
                    for rows, samples in zip(splits.synthetic[index], splits.samples[index], strict=True)
                )
                sums[0, index] = (distance(made_A, B).mean() + distance(made_B, A).mean()) / 2
                sums[1, index] = distance(A, B).mean()
            left_out.append(np.log(np.maximum(sums.sum(axis=1), np.finfo(float).tiny)) @ [1, -1])
        variance += (len(patients) - 1) * np.var(left_out)
    reach = student_t.ppf((1 + level) / 2, min(map(len, groups)) - 1) * np.sqrt(variance)
    low, ratio, high = np.exp(log_ratio + reach * np.array([-1, 0, 1]))
    return float(ratio), float(low), float(high)


def exchange_tests(
    sets: LesionSets, splits: Splits, distance: VectorDistance, permutations: int, rng: np.random.Generator
) -> tuple[float | None, float]:
    """Exact tests of the hypothesis that synthetic lesions are exchangeable with real ones.

    Of shared patients: with the real lesion of the same mask. For each patient at random, the real lesion and the
    samples change roles, all masks of a patient alike, and both statistics are computed anew. Of different patients:
    patients change sets, and only the second statistic is computed. Of more than `MOST_TESTED` masks, those of patients
    drawn at random take part, in splits of their own.

    - *farther*: d(S_A, R_B) − d(R_A, R_B), averaged over the splits. It answers what the ratio shows, and is blind to
      lesions that are too much alike: a smaller spread brings them nearer to all others.
    - *differs*: the distance between the two whole sets. It sees any difference that the distance sees; that shared
      masks make this distance small does no harm, since they make it small in every exchange.

    Args:
        sets, splits: From `draw_splits`; samples of a mask take part in "differs" all together, or, of different
            patients, the first alone.
        distance: On stacks of sets; its values are averaged.
        permutations: Random exchanges; the smallest p is 1 / (permutations + 1).
        rng: Source of the exchanges.
    Returns: One-sided p of farther (None without shared patients) and of differs.
    """
    if max(len(sets.real_patients), len(sets.synthetic_patients)) > MOST_TESTED:
        fewer = _thinned(sets, rng)
        with contextlib.suppress(ValueError):  # where one patient has most of them, all take part
            sets, splits = fewer, draw_splits(fewer, len(splits.real), rng)
    if not sets.shared:
        return None, _two_sample_test(sets, distance, permutations, rng)
    _, ids = np.unique(np.asarray(sets.real_patients), return_inverse=True)
    lesions = np.concatenate([sets.real[:, None], sets.synthetic], axis=1)  # (U, 1 + K, rows, F)

    def statistics(lesions: np.ndarray) -> np.ndarray:
        exchanged = LesionSets(lesions[:, 0], lesions[:, 1:], sets.real_patients, sets.synthetic_patients, True)
        values, floors = split_distances(exchanged, splits, distance)
        return np.array([values.mean() - floors.mean(), distance(flat(lesions[:, 0]), flat(lesions[:, 1:])).mean()])

    def exchange() -> np.ndarray:
        roles = rng.random((ids.max() + 1, lesions.shape[1])).argsort(axis=1)[ids]
        return np.take_along_axis(lesions, roles[:, :, None, None], axis=1)

    observed = statistics(lesions)
    p_farther, p_differs = _share_at_least(observed, [statistics(exchange()) for _ in range(permutations)])
    return float(p_farther), float(p_differs)


def _two_sample_test(sets: LesionSets, distance: VectorDistance, permutations: int, rng: np.random.Generator) -> float:
    """p of the distance between the sets, patients changing sets at random."""
    lesions = np.concatenate([sets.real, sets.synthetic[:, 0]])
    _, real_ids = np.unique(np.asarray(sets.real_patients), return_inverse=True)
    _, made_ids = np.unique(np.asarray(sets.synthetic_patients), return_inverse=True)
    ids = np.concatenate([real_ids, real_ids.max() + 1 + made_ids])

    def statistic(in_real: np.ndarray) -> np.ndarray:
        return distance(flat(lesions[in_real[ids]]), flat(lesions[~in_real[ids]])).mean(keepdims=True)

    is_real = np.arange(ids.max() + 1) <= real_ids.max()
    return float(
        _share_at_least(statistic(is_real), [statistic(rng.permutation(is_real)) for _ in range(permutations)])[0]
    )


def _share_at_least(observed: np.ndarray, exchanged: list[np.ndarray]) -> np.ndarray:
    """(1 + exchanges at least as large) / (1 + exchanges); equal up to rounding counts as equal."""
    extreme = np.array(exchanged) >= observed - 1e-9 * np.abs(observed)
    return (1 + extreme.sum(axis=0)) / (1 + len(exchanged))


def _groups(patients: Sequence[str]) -> np.ndarray:
    """Number of each lesion's patient, or of its group of patients, below `JACKKNIFE_GROUPS`."""
    return np.unique(np.asarray(patients), return_inverse=True)[1] % JACKKNIFE_GROUPS


def _thinned(sets: LesionSets, rng: np.random.Generator) -> LesionSets:
    """At most about `MOST_TESTED` masks of each set, of whole patients drawn at random."""

    def rows(patients: Sequence[str]) -> np.ndarray:
        ids = np.unique(np.asarray(patients), return_inverse=True)[1]
        order = rng.permutation(ids.max() + 1)
        counts = np.cumsum(np.bincount(ids)[order])
        return np.flatnonzero(np.isin(ids, order[: max(MIN_PATIENTS, int(np.searchsorted(counts, MOST_TESTED)) + 1)]))

    real = rows(sets.real_patients)
    made = real if sets.shared else rows(sets.synthetic_patients)
    names = ([sets.real_patients[row] for row in real], [sets.synthetic_patients[row] for row in made])
    return LesionSets(sets.real[real], sets.synthetic[made], *names, sets.shared)


def _half(patients: Sequence[str]) -> int:
    """Lesions in each half that every order of the patients can fill, surplus lesions of one patient being dropped."""
    counts = np.unique(np.asarray(patients), return_counts=True)[1]
    largest = counts.max(initial=0)
    half = (counts.sum() + 1 - largest) // 2
    if len(counts) < MIN_PATIENTS or half < largest + MIN_LEFT:
        raise ValueError(
            f"{counts.sum()} lesions of {len(counts)} patients, at most {largest} of one, expected at least "
            f"{MIN_PATIENTS} patients and none with most of the lesions; give more lesions"
        )
    return int(half)


def _stack(features: np.ndarray) -> np.ndarray:
    """(splits, half, rows, F) -> (splits, half·rows, F)."""
    return features.reshape(len(features), -1, features.shape[-1])
