"""Folds: no copy of a patient is trained on and validated with, and folds are about as large."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from imaging.layouts.cases import Case
from imaging.layouts.folds import check_folds, folds_of, splits_of


def cases_of(patients, synthetic=None) -> list[Case]:
    kinds = synthetic or [True] * len(patients)
    return [
        Case(f"case{i}", kind, p, p, Path(), Path()) for i, (p, kind) in enumerate(zip(patients, kinds, strict=True))
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_all_cases_of_a_patient_validate_together_once_and_never_beside_their_own_training(seed):
    patients = [f"p{number}" for number in np.random.default_rng(seed).integers(0, 17, 200)]
    cases = cases_of(patients)
    fold_of = folds_of(patients, check_folds(patients, None), seed)
    splits = splits_of(cases, fold_of, "all")
    patient_of = {case.name: case.patient for case in cases}
    assert len(splits) == 5
    assert sorted(name for split in splits for name in split.val) == sorted(patient_of)
    for split in splits:
        assert not {patient_of[name] for name in split.train} & {patient_of[name] for name in split.val}
        assert sorted([*split.train, *split.val]) == sorted(patient_of)
    sizes = [len(split.val) for split in splits]
    assert max(sizes) - min(sizes) <= max(Counter(patients).values())


def test_another_seed_gives_other_folds_and_the_order_of_cases_does_not_count():
    patients = [f"p{number}" for number in range(20)]
    assert folds_of(patients, 5, 0) == folds_of(patients[::-1], 5, 0) != folds_of(patients, 5, 1)


def test_real_cases_alone_can_validate_and_then_synthetic_ones_of_their_patients_are_left_out():
    cases = cases_of(["a", "a", "b", "b"], [True, False, True, False])
    splits = splits_of(cases, {"a": 0, "b": 1}, "real")
    assert splits == [(["case2", "case3"], ["case1"]), (["case0", "case1"], ["case3"])]
    with pytest.raises(ValueError, match="fold 1 has no real case to validate with"):
        splits_of(cases_of(["a", "b"], [False, True]), {"a": 0, "b": 1}, "real")


def test_too_few_patients_and_more_folds_than_patients_are_refused():
    with pytest.raises(ValueError, match="1 patient, expected at least 2"):
        check_folds(["a", "a"], None)
    for folds in (1, 3):
        with pytest.raises(ValueError, match=f"folds {folds}, expected 2 to 2, the number of patients"):
            check_folds(["a", "b"], folds)
    assert check_folds("ab", None) == 2 and check_folds("abcdefg", None) == 5
