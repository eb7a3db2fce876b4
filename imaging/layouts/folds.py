"""Cross-validation by patient: all that was made from a patient's scan is in the fold of that scan."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from imaging.layouts.cases import Case
from imaging.option_types import Validate

USUAL_FOLDS = 5


class Split(NamedTuple):
    """Names of the cases to train and to validate with."""

    train: list[str]
    val: list[str]


def check_folds(patients: Iterable[str], folds: int | None) -> int:
    """How many folds there are to be: those asked for, or five, or one for each patient where there are fewer.

    Raises: ValueError: If there are fewer patients than folds, or a single patient.
    """
    count = len(set(patients))
    if count < 2:
        raise ValueError(
            f"{count} patient, expected at least 2: what is made from a patient's scan is never validated by another "
            "copy of it; add scans of other patients"
        )
    if folds is not None and not 2 <= folds <= count:
        raise ValueError(f"folds {folds}, expected 2 to {count}, the number of patients")
    return folds or min(USUAL_FOLDS, count)


def folds_of(patients: Iterable[str], folds: int, seed: int = 0) -> dict[str, int]:
    """The fold of each patient; folds have about as many cases each.

    Patients with the most cases come first, and each goes where the fewest cases are. Patients with as many cases come
    in an order that depends on the seed and their names alone.

    Args:
        patients: Of each case.
        folds: From :func:`check_folds`.
        seed: Another seed, other folds.
    """
    cases = Counter(patients)

    def order(patient: str) -> tuple[int, bytes]:
        return -cases[patient], hashlib.sha256(f"fold/{seed}/{patient}".encode()).digest()

    sizes, fold_of = [0] * folds, {}
    for patient in sorted(cases, key=order):
        fold_of[patient] = sizes.index(min(sizes))
        sizes[fold_of[patient]] += cases[patient]
    return fold_of


def splits_of(cases: Sequence[Case], fold_of: dict[str, int], validate: Validate) -> list[Split]:
    """What each fold trains and validates with.

    Args:
        cases: All.
        fold_of: Patient -> fold.
        validate: "all" cases of a fold, or its "real" ones; the synthetic ones of its patients are then left out.
    Raises: ValueError: If a fold has nothing to validate with.
    """
    splits = []
    for fold in range(max(fold_of.values()) + 1):
        val = [case for case in cases if fold_of[case.patient] == fold and not (validate == "real" and case.synthetic)]
        if not val:
            raise ValueError(
                f"fold {fold} has no real case to validate with; take fewer --folds, --validate all, or name the "
                "nodules of more scans"
            )
        train = [case.name for case in cases if fold_of[case.patient] != fold]
        splits.append(Split(train, [case.name for case in val]))
    return splits
