"""Tests between methods, on the lesions that both have."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from evaluation.lesions.features import Features
from evaluation.lesions.pair_comparison import PairValues
from evaluation.lesions.set_comparison import SetMetric
from evaluation.statistics.resampling import holm, paired_set_test, paired_value_test

SWAPS_A_TEST = 50  # a p of 1/(n + 1) must survive Holm's adjustment over the family: n is at least 50 times its size
MIN_TEST_PATIENTS = 6  # below, a two-sided signed-rank test cannot reach p < 0.05


@dataclass(frozen=True)
class PairedTest:
    """`first` − `second` (difference of distances, or median of differences), its p, and p adjusted by Holm."""

    metric: str
    first: str
    second: str
    patients: int
    difference: float
    p: float
    p_holm: float


def method_tests(
    real: Features,
    synthetic: dict[str, Features],
    values: dict[str, PairValues],
    metrics: list[SetMetric],
    permutations: int,
    seed: int,
) -> tuple[list[PairedTest], list[str]]:
    """Compare every two methods: distances by permutation, paired figures by Wilcoxon's signed ranks.

    All p-values of a report form one family for Holm's adjustment. HU differences enter by their absolute value.

    Args:
        real: Features of the real set.
        synthetic: Method -> features.
        values: Method -> `pair_values`.
        metrics: From `set_metrics`; those marked `tested` are.
        permutations: Random swaps of each permutation test; more where the family is so large that its smallest p could
            not survive the adjustment.
        seed: Each test starts anew from it.
    Returns: The tests, and a sentence for each that could not be made.
    """
    found: list[tuple[str, str, str, int, float, float]] = []
    notes = []
    methods = list(synthetic)
    pairs = [(a, b) for i, a in enumerate(methods) for b in methods[i + 1 :]]
    permutations = max(permutations, SWAPS_A_TEST * len(pairs) * sum(metric.tested for metric in metrics))
    for first, second in pairs:
        for metric in tqdm([m for m in metrics if m.tested], f"{first} against {second}", leave=False):
            if any(metric.kind not in features for features in (real, synthetic[first], synthetic[second])):
                continue
            a, b = synthetic[first][metric.kind], synthetic[second][metric.kind]
            in_b = {lesion.name for lesion in b.lesions}
            names = [lesion.name for lesion in a.lesions if lesion.name in in_b]
            a, b = a.subset(names), b.subset(names)
            patients = len(set(a.patients))
            if patients < MIN_TEST_PATIENTS or len(real[metric.kind].lesions) < 2:
                notes.append(f"{first} against {second}, {metric.name}: {_too_few(patients)}")
                continue
            rng = np.random.default_rng(seed)
            difference, p = paired_set_test(
                real[metric.kind].values, a.values, b.values, a.patients, metric.value, permutations, rng
            )
            found.append((metric.name, first, second, patients, difference, p))
        patient_of = {lesion.name: lesion.patient_id for lesion in synthetic[first]["HU"].lesions}
        for name in [name for name in values[first] if name in values[second]]:
            of_first, of_second = values[first][name], values[second][name]
            common = [lesion for lesion in of_first if lesion in of_second]
            patient_ids = [patient_of[lesion] for lesion in common]
            if len(set(patient_ids)) < MIN_TEST_PATIENTS:
                notes.append(f"{first} against {second}, {name}: {_too_few(len(set(patient_ids)))}")
                continue
            x, y = (np.array([by_name[lesion] for lesion in common]) for by_name in (of_first, of_second))
            if name.endswith("[HU]"):
                x, y = np.abs(x), np.abs(y)
            found.append((name, first, second, len(set(patient_ids)), *paired_value_test(x, y, patient_ids)))
    adjusted = holm([p for *_, p in found])
    return [PairedTest(*row, p_holm=float(p)) for row, p in zip(found, adjusted, strict=True)], notes


def _too_few(patients: int) -> str:
    return f"not tested, they have {patients} patients in common and {MIN_TEST_PATIENTS} are needed"
