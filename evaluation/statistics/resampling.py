"""What a distance is worth: real vs real of the same size, confidence intervals, and paired tests between methods.

Patients, not lesions, are split and resampled, because lesions of one patient resemble each other. All randomness
comes from the generator that is passed in.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import wilcoxon

from evaluation.statistics.distances import SetDistance, VectorDistance

MIN_PATIENTS = 4  # fewer cannot be split into two halves of two


def floor_sizes(pool: int, n: int, m: int) -> tuple[int, int]:
    """Sizes of the two real sets whose distance is the floor of a comparison of n real with m synthetic lesions.

    (n, m) if the pool of real lesions holds both; otherwise both at most half of the pool, and the comparison itself
    has to be repeated at that size.
    """
    return (n, m) if n + m <= pool else (min(n, pool // 2), min(m, pool // 2))


def patient_split(
    patients: Sequence[str], sizes: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random sets of lesions without a common patient.

    Patients are drawn in random order into the first set until it is full, then into the second; surplus lesions of
    the patient that fills a set are dropped.

    Args:
        patients: The patient of each lesion, (N,).
        sizes: Wanted numbers of lesions; the second set gets fewer if whole patients do not leave enough.
    Returns: Two arrays of row numbers.
    Raises: ValueError: If there are fewer than 4 patients.
    """
    ids = np.asarray(patients)
    unique = np.unique(ids)
    if len(unique) < MIN_PATIENTS:
        raise ValueError(f"{len(unique)} patients, expected at least {MIN_PATIENTS} to split real lesions in two")
    rows_of = [np.flatnonzero(ids == patient) for patient in rng.permutation(unique)]
    sizes_so_far = np.cumsum([len(rows) for rows in rows_of])
    first = min(int(np.searchsorted(sizes_so_far, sizes[0])) + 1, len(unique) - 1)
    return np.concatenate(rows_of[:first])[: sizes[0]], np.concatenate(rows_of[first:])[: sizes[1]]


def real_floor(
    features: np.ndarray,
    patients: Sequence[str],
    distance: VectorDistance,
    sizes: tuple[int, int],
    repeats: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Distances of `repeats` patient-wise splits of real lesions, (repeats, values of the distance).

    Args:
        features: (N, rows, F), a lesion's feature vectors (several for slices).
        patients: The patient of each lesion.
        distance: On (N·rows, F) sets.
        sizes: Lesions in the two sets, see `floor_sizes`.
        repeats: Number of random splits.
        rng: Source of the splits.
    Raises: ValueError: As `patient_split`.
    """
    values = []
    for _ in range(repeats):
        first, second = patient_split(patients, sizes, rng)
        values.append(distance(flat(features[first]), flat(features[second])))
    return np.array(values)


def same_size_value(
    real: np.ndarray,
    synthetic: np.ndarray,
    distance: SetDistance,
    sizes: tuple[int, int],
    repeats: int,
    rng: np.random.Generator,
) -> float:
    """Mean distance of random subsets of the floor's sizes: the figure that may be compared with the floor."""
    if (len(real), len(synthetic)) == sizes:
        return distance(flat(real), flat(synthetic))
    values = [
        distance(
            flat(real[rng.choice(len(real), sizes[0], replace=False)]),
            flat(synthetic[rng.choice(len(synthetic), sizes[1], replace=False)]),
        )
        for _ in range(repeats)
    ]
    return float(np.mean(values))


def bootstrap_interval(
    real: tuple[np.ndarray, Sequence[str]],
    synthetic: tuple[np.ndarray, Sequence[str]],
    distance: SetDistance,
    repeats: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float]:
    """Patient-wise bootstrap interval of a distance.

    A patient that occurs in both sets (a synthetic lesion in a real scan) is drawn or left out of both together.
    Repeated lesions raise every distance between sets, so the bootstrap's mean lies above the estimate; the interval
    is therefore centred: estimate + quantile − bootstrap mean, cut at 0 unless the distance itself may be negative.

    Args:
        real: Features (N, rows, F) and the patient of each lesion.
        synthetic: The same of the other set.
        distance: On (N·rows, F) sets.
        repeats: Number of resamples.
        rng: Source of the resamples.
        level: Coverage aimed at.
    Returns: Lower and upper end.
    """
    estimate = distance(flat(real[0]), flat(synthetic[0]))
    rows = [_rows_by_patient(patients) for _, patients in (real, synthetic)]
    everyone = sorted(set(rows[0]) | set(rows[1]))
    values: list[float] = []
    while len(values) < repeats:
        drawn = rng.choice(len(everyone), len(everyone))
        chosen = [[index for p in drawn for index in by_patient.get(everyone[p], ())] for by_patient in rows]
        if min(map(len, chosen)) >= 2:
            values.append(distance(flat(real[0][chosen[0]]), flat(synthetic[0][chosen[1]])))
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) + estimate - np.mean(values)
    return (max(low, 0.0) if estimate >= 0 else low), high


def mean_interval(
    values: np.ndarray, patients: Sequence[str], repeats: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Patient-wise percentile bootstrap interval of a mean of per-lesion values."""
    by_patient = list(_rows_by_patient(patients).values())
    means = []
    for _ in range(repeats):
        drawn = rng.choice(len(by_patient), len(by_patient))
        means.append(values[np.concatenate([by_patient[p] for p in drawn])].mean())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_set_test(
    real: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str],
    distance: SetDistance,
    repeats: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Permutation test of the difference in distance to the real set between two methods with the same lesions.

    Under the null hypothesis the two methods' lesions are exchangeable within a patient; so for each patient the two
    are swapped or not at random, and the difference is computed anew (two-sided).

    Args:
        real: Features (N, rows, F).
        first, second: Features (M, rows, F) of the two methods, the same lesion in the same row.
        patients: The patient of each of these M lesions.
        distance: On (N·rows, F) sets.
        repeats: Random swaps; the smallest p that can be found is 1 / (repeats + 1).
        rng: Source of the swaps.
    Returns: distance(first) − distance(second), and p.
    """

    def difference(swapped: np.ndarray) -> float:
        a, b = np.where(swapped[:, None, None], second, first), np.where(swapped[:, None, None], first, second)
        return distance(flat(real), flat(a)) - distance(flat(real), flat(b))

    ids = np.unique(np.asarray(patients), return_inverse=True)[1]
    observed = difference(np.zeros(len(ids), bool))
    extreme = sum(abs(difference((rng.random(ids.max() + 1) < 0.5)[ids])) >= abs(observed) for _ in range(repeats))
    return observed, (1 + extreme) / (1 + repeats)


def paired_value_test(first: np.ndarray, second: np.ndarray, patients: Sequence[str]) -> tuple[float, float]:
    """Wilcoxon signed-rank test on per-patient means of two methods' values for the same lesions (two-sided).

    Returns: The median over patients of first − second, and p (1 if all differences are 0).
    """
    ids = np.unique(np.asarray(patients), return_inverse=True)[1]
    differences = np.bincount(ids, first - second) / np.bincount(ids)
    p = 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)
    return float(np.median(differences)), p


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment of a family of p-values, in the given order."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def flat(features: np.ndarray) -> np.ndarray:
    """(N, rows, F) -> (N·rows, F)."""
    return features.reshape(-1, features.shape[-1])


def _rows_by_patient(patients: Sequence[str]) -> dict[str, np.ndarray]:
    ids = np.asarray(patients)
    return {patient: np.flatnonzero(ids == patient) for patient in np.unique(ids)}
