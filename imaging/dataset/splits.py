"""Training, validation and test patients: seeded, stored with the dataset, never two splits for one patient."""

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from foundation.atomic import write_atomically
from foundation.text_files import read_csv
from imaging.dataset.rows import SPLITS


def split_patients(
    strata: Mapping[str, str], test_share: float = 0.1, seed: int = 0, fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Assign each patient to "train" or "test".

    Patients are ordered by stratum and, inside it, by a hash of seed and name, and every 1/share-th goes to the test
    split; so the share holds in the whole and nearly in each stratum, and the order of the input does not matter.
    Patients whose split is known already keep it.

    Args:
        strata: Patient -> stratum, such as its most malignant label.
        test_share: Share of patients in the test split, from 0 to 1.
        seed: Another seed, other test patients.
        fixed: Patient -> split from an earlier run or from another source; may name patients outside `strata`.
    Returns: Patient -> split for each patient of `strata`.
    Raises: ValueError: If the share is out of range or a fixed split has an unknown name.
    """
    if not 0.0 <= test_share <= 1.0:
        raise ValueError(f"test_share {test_share}, expected a share from 0 to 1")
    fixed = fixed or {}
    for patient, split in fixed.items():
        if split not in SPLITS:
            raise ValueError(f"patient {patient}: split {split!r}, expected one of {', '.join(map(repr, SPLITS))}")
    new = [patient for patient in strata if patient not in fixed]
    new.sort(key=lambda patient: (strata[patient], hashlib.sha256(f"{seed}/{patient}".encode()).digest()))
    splits = {patient: fixed[patient] for patient in strata if patient in fixed}
    for number, patient in enumerate(new):
        # The rounded count of test patients rises by one here.
        is_test = int((number + 1) * test_share + 0.5) > int(number * test_share + 0.5)
        splits[patient] = "test" if is_test else "train"
    return splits


def set_validation_aside(splits: Mapping[str, str], share: float = 0.15, seed: int = 0) -> dict[str, str]:
    """Move a share of the training patients to "validation", the split that trainings watch.

    Whether a patient is moved depends on seed and name alone, so that datasets prepared apart agree, and the share
    holds on average. Where nobody would be moved and there are two training patients or more, one is.

    Args:
        splits: Patient -> split. Where it has validation patients already, nothing changes.
        share: Of the training patients, from 0 to 1; 0 moves nobody.
        seed: Another seed, other patients.
    Returns: Patient -> split.
    Raises: ValueError: If the share is out of range.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"validation_share {share}, expected a share from 0 to 1")
    train = [patient for patient, split in splits.items() if split == "train"]
    if share == 0 or len(train) < 2 or "validation" in splits.values():
        return dict(splits)
    place = {p: int.from_bytes(hashlib.sha256(f"validation/{seed}/{p}".encode()).digest()) / 2**256 for p in train}
    chosen = {patient for patient in train if place[patient] < share} or {min(train, key=place.__getitem__)}
    return {patient: "validation" if patient in chosen else split for patient, split in splits.items()}


def merge_splits(*sources: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join (patient, split) pairs of several sources.

    Raises: ValueError: Naming the patients that are in two splits, within one source or across sources.
    """
    merged: dict[str, str] = {}
    torn = set()
    for source in sources:
        for patient, split in source:
            if merged.setdefault(patient, split) != split:
                torn.add(patient)
    if torn:
        raise ValueError(
            f"{len(torn)} patients are in two splits: {', '.join(sorted(torn)[:10])}; "
            "prepare the sources with the same splits, or leave these patients out of one of them"
        )
    return merged


def join_splits(rows: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], set[str]]:
    """The split of each patient over several sources: that which keeps most from training, test before validation.

    Args:
        rows: With `patient_id` and `split`.
    Returns: (patient -> split, the patients whose sources differ, whose other rows are to be left out).
    """
    splits: dict[str, str] = {}
    torn = set()
    for row in rows:
        patient, split = row["patient_id"], row["split"]
        if splits.setdefault(patient, split) != split:
            torn.add(patient)
            splits[patient] = max(split, splits[patient], key=SPLITS.index)
    return splits, torn


def read_splits(path: Path) -> dict[str, str]:
    """Patient -> split as `write_splits` stored it; empty where there is no such file.

    Raises: ValueError: If the file is no table of `patient_id` and `split`, or a patient is in two splits.
    """
    if not path.exists():
        return {}
    columns, rows = read_csv(path)
    if not {"patient_id", "split"} <= set(columns):
        shown = " ".join(", ".join(columns).split())
        raise ValueError(f"{path}: columns {shown[:200] or 'none'}, expected patient_id and split")
    try:
        return merge_splits([(row.get("patient_id", ""), row.get("split", "")) for _, row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_splits(path: Path, splits: Mapping[str, str]) -> None:
    """Store patient -> split as CSV; the file appears complete or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            csv.writer(file).writerows([("patient_id", "split"), *sorted(splits.items())])

    write_atomically(path, write)
