"""Nodules of every source in one form: their scalar columns now, their voxels when they are written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array3D, Dataset
from tqdm import tqdm

from imaging.dataset.lab_files import read_lab_table
from imaging.dataset.nodules import RATINGS, load_nodules, read_nodule
from imaging.dataset.rows import SPLITS
from imaging.lidc.scan_nodules import ScanResult, load_row
from imaging.lidc.scans import LeftOut


@dataclass(frozen=True)
class Candidate:
    """A nodule that could be in the dataset.

    Attributes:
        columns: Scalar columns of the prepared dataset; `split` only where the source fixes it.
        load: Gives the remaining columns.
    """

    columns: dict[str, Any]
    load: Callable[[], dict[str, Any]]

    @property
    def malignancy(self) -> float | None:
        """Mean malignancy rating; None where not rated."""
        return self.columns.get("malignancy")


def lidc_candidates(results: Mapping[Path, ScanResult], source: str) -> Iterator[Candidate]:
    """Nodules of prepared LIDC scans, by the files that hold them."""
    for path, result in results.items():
        for index, columns in enumerate(result.rows):
            yield Candidate(columns | {"source": source}, partial(load_row, path, index))


def lab_candidates(
    table: Path, read: Callable[[dict[str, Any]], dict[str, Any]], left_out: list[LeftOut]
) -> Iterator[Candidate]:
    """Nodules of a laboratory's files; those that cannot be used go to `left_out`.

    Args:
        table: See `read_lab_table`; its name is the source's.
        read: `read_lab_nodule` with all but the row given. It is called twice, rather than keeping all volumes.
        left_out: Extended.
    """
    for row in tqdm(read_lab_table(table), desc="laboratory's nodules"):
        try:
            measured = read(row)
        except ValueError as error:
            left_out.append(LeftOut("nodule", row["patient_id"], "", row["nodule_id"], str(error)))
            continue
        columns = {name: row[name] for name in ("nodule_id", "patient_id", "split", *RATINGS)}
        columns |= {"source": table.stem, "slice_mm": row["spacing_mm"][0]}
        columns |= {name: value for name, value in measured.items() if np.ndim(value) == 0}
        yield Candidate(columns, partial(read, row))


def merged_candidates(folder: Path) -> Iterator[Candidate]:
    """Nodules of a dataset that was prepared before, with the split they have there."""
    for split in available_splits(folder):
        dataset = load_nodules(folder, split)
        arrays = [name for name, kind in dataset.features.items() if isinstance(kind, Array3D)]
        for index, columns in enumerate(dataset.remove_columns(arrays)):
            yield Candidate(columns, partial(_load_merged, dataset, index))


def available_splits(folder: Path) -> list[str]:
    """Splits of a prepared dataset. Raises ValueError if the folder is none."""
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    if not splits:
        raise ValueError(f"{folder}: not a prepared dataset, expected a folder with {' or '.join(SPLITS)}")
    return splits


def _load_merged(dataset: Dataset, index: int) -> dict[str, Any]:
    row = read_nodule(dataset, index)
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
