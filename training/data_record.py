"""What a dataset is: name, content hash, size and licence, without anything that leads to a patient or a machine."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset

from foundation.atomic import write_atomically
from imaging.dataset.licence import is_lidc, licence_of

FILE = "data.json"
BLOCK = 2**22


@dataclass(frozen=True)
class DataRecord:
    """A dataset of this project, prepared or encoded.

    Attributes:
        name: Of its folder, without the path to it.
        sha256: Over the Arrow files that its splits name, split by split.
        rows: Split -> rows.
        patients: Split -> patients.
        sources: What its rows come from.
        is_lidc: Whether all of it is LIDC-IDRI, which asks for attribution.
        licence: As the Hub writes it, for example "cc-by-3.0"; None if neither a card nor the rows say it.
    """

    name: str
    sha256: str
    rows: dict[str, int]
    patients: dict[str, int]
    sources: list[str]
    is_lidc: bool
    licence: str | None


def record_data(path: Path, run: Path | None = None) -> DataRecord | None:
    """The record of a dataset; computed once, then kept in the run's folder.

    Args:
        path: The dataset's folder.
        run: Folder of a training, which keeps the record as data.json; None keeps it nowhere.
    Returns: None if neither the dataset nor a record of it is there.
    """
    kept = run / FILE if run is not None else None
    if kept is not None and kept.is_file():
        return DataRecord(**json.loads(kept.read_text()))
    if not (path / "dataset_dict.json").is_file():
        return None
    record = _measured(path)
    if kept is not None:
        text = json.dumps(asdict(record), indent=2) + "\n"
        write_atomically(kept, lambda temporary: temporary.write_text(text))
    return record


def _measured(path: Path) -> DataRecord:
    digest = hashlib.sha256()
    rows, patients_of = {}, {}
    patients: set[str] = set()
    sources: set[str] = set()
    for split in json.loads((path / "dataset_dict.json").read_text())["splits"]:
        if split == "test":  # evaluation alone opens it
            continue
        for entry in json.loads((path / split / "state.json").read_text())["_data_files"]:
            with (path / split / entry["filename"]).open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        dataset = Dataset.load_from_disk(path / split)
        found = set(_column(dataset, "patient_id"))
        rows[split], patients_of[split] = len(dataset), len(found)
        patients |= found
        sources |= set(_column(dataset, "source"))
    lidc = is_lidc(sources, patients)
    return DataRecord(
        path.resolve().name, digest.hexdigest(), rows, patients_of, sorted(sources), lidc, licence_of(path, lidc)
    )


def _column(dataset: Dataset, name: str) -> list[str]:
    return [str(value) for value in dataset.unique(name)] if name in dataset.column_names else []
