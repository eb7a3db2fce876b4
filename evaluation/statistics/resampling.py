"""Patient-wise splits of real lesions, intervals of means, and paired tests between methods.

Patients, not lesions, are split and resampled, because lesions of one patient resemble each other. All randomness
comes from the generator that is passed in.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import wilcoxon

from evaluation.statistics.distances import SetDistance, VectorDistance

MIN_PATIENTS = 4  # fewer cannot be split into two halves of two


def patient_split(
    patients: Sequence[str], sizes: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random sets of lesions without a common patient.

    Patients are drawn in random order into the first set until it is full, then into the second; surplus lesions of
    the patient that fills a set are dropped.

    Args:
        patients: The patient of each lesion, (N,).
        sizes: Wanted numbers of lesions; the second set gets fewer if whole patients do not leave enough.
        rng: Source of the order.
    Returns: Two arrays of row numbers.
    Raises: ValueError: If there are fewer than 4 patients.
    """
    unique, ids, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    if len(unique) < MIN_PATIENTS:
        raise ValueError(f"{len(unique)} patients, expected at least {MIN_PATIENTS} to split real lesions in two")
    order = rng.permutation(len(unique))
    rows = np.argsort(np.argsort(order)[ids], kind="stable")  # the lesions, patient after patient in that order
    sizes_so_far = np.cumsum(counts[order])
    last = min(int(np.searchsorted(sizes_so_far, sizes[0])), len(unique) - 2)  # patient of the first set
    first, second = rows[: sizes_so_far[last]], rows[sizes_so_far[last] :]
    return first[: sizes[0]], second[: sizes[1]]


def real_floor(
    features: np.ndarray,
    patients: Sequence[str],
    distance: VectorDistance,
    sizes: tuple[int, int],
    repeats: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Real vs real: distances between two groups of real lesions without a common patient.

    Args:
        features: (N, rows, F), a lesion's feature vectors (several for slices).
        patients: The patient of each lesion.
        distance: On (N·rows, F) sets.
        sizes: Lesions in the two sets.
        repeats: Number of random splits.
        rng: Source of the splits.
    Returns: (repeats, values of the distance).
    Raises: ValueError: As `patient_split`.
    """
    values = []
    for _ in range(repeats):
        first, second = patient_split(patients, sizes, rng)
        values.append(distance(flat(features[first]), flat(features[second])))
    return np.array(values)


def mean_interval(
    values: np.ndarray, patients: Sequence[str], repeats: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Patient-wise percentile bootstrap interval of a mean of per-lesion values.

    Args:
        values: (N,), any unit.
        patients: The patient of each value; patients are drawn, with all their values.
        repeats: Number of resamples.
        rng: Source of the resamples.
        level: Coverage aimed at.
    Returns: Lower and upper end, in the values' unit.
    """
    by_patient = list(patient_rows(patients).values())
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

    Args:
        first, second: (N,), the same lesion at the same place.
        patients: The patient of each lesion.
    Returns: The median over patients of first − second, and p (1 if all differences are 0).
    """
    ids = np.unique(np.asarray(patients), return_inverse=True)[1]
    differences = np.bincount(ids, first - second) / np.bincount(ids)
    p = 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)
    return float(np.median(differences)), p


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment of a family of p-values (Holm 1979).

    Args:
        p_values: Of all tests of the family.
    Returns: Adjusted p-values in the given order, at most 1.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def flat(features: np.ndarray) -> np.ndarray:
    """All feature vectors of a set below each other: (..., rows, F) -> (N·rows, F)."""
    return features.reshape(-1, features.shape[-1])


def patient_rows(patients: Sequence[str]) -> dict[str, np.ndarray]:
    """Patient -> the row numbers of its lesions."""
    names, ids, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(ids, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(names, rows, strict=True))
