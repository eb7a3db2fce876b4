"""Outlines of nodules without their CT: a table of ratings beside bit-packed voxels.

A folder has `shapes.npz`, in which each array holds one outline's voxels (z, y, x; 1 mm), eight in a byte, and
`shapes.csv` with the columns `SHAPE_COLUMNS`. A nodule rated by nobody has empty ratings.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from foundation.text_files import reason_of
from imaging.dataset.rows import SPLITS
from imaging.dataset.splits import set_validation_aside
from imaging.files.csv_table import read_frame, text_columns

RATED = ("lobulation", "spiculation", "sphericity", "texture")
NUMBERS = ("depth", "height", "width", "slice_mm", *RATED)
SHAPE_COLUMNS = ("shape", "patient_id", *NUMBERS)
LARGEST, MOST_BYTES = 100, 2**26  # voxels along an axis; bytes of all outlines, unpacked
FEWEST = 8  # voxels of an outline that has a shape


@dataclass(frozen=True)
class NoduleShape:
    """An outline and what is known of it.

    Attributes:
        name: Unique in its folder.
        patient_id: Whose it is.
        outline: Bool (D, H, W), z y x, 1 mm, the largest face-connected part, not empty.
        slice_mm: Distance of the slices that it was drawn on.
        ratings: Means of the readers', 1 to 5, of `RATED`.
    """

    name: str
    patient_id: str
    outline: np.ndarray
    slice_mm: float
    ratings: dict[str, float]


def read_nodule_shapes(folder: Path) -> list[NoduleShape]:
    """Read a folder; shapes that are not rated and those of less than `FEWEST` voxels are left out.

    Raises: ValueError: Naming the file, if a table or an array cannot be read, is too large, or does not fit its row.
    """
    table = read_frame(folder / "shapes.csv", ("shape", "patient_id"), SHAPE_COLUMNS)
    texts = text_columns(table, NUMBERS)
    if texts:
        raise ValueError(f"{folder / 'shapes.csv'}: column {texts[0]} holds text, expected numbers; correct the table")
    rated = table.dropna(subset=list(SHAPE_COLUMNS))
    archive = folder / "shapes.npz"
    try:
        with zipfile.ZipFile(archive) as opened:
            size = sum(entry.file_size for entry in opened.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"unpacks to {size} bytes, expected at most {MOST_BYTES}")
        with np.load(archive, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in rated["shape"]}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive}: cannot be read as packed outlines ({reason_of(error)})") from error
    found = [_shape(archive, row, arrays[str(row["shape"])]) for _, row in rated.iterrows()]
    kept = [shape for shape in found if shape.outline.sum() >= FEWEST]
    if not kept:
        raise ValueError(
            f"{folder / 'shapes.csv'}: no rated shape of {FEWEST} voxels or more, expected at least one row without "
            "empty cells"
        )
    return kept


def shapes_by_split(
    shapes: Sequence[NoduleShape], known: Mapping[str, str], validation_share: float = 0.15, seed: int = 0
) -> dict[str, list[NoduleShape]]:
    """Shapes in the splits of a dataset, patient by patient.

    Args:
        shapes: Any order.
        known: Patient -> split of the dataset.
        validation_share, seed: As for `set_validation_aside`, for patients that are not in the dataset.
    Returns: Split -> its shapes, for each of `SPLITS`.
    """
    new = {shape.patient_id: "train" for shape in shapes if shape.patient_id not in known}
    splits = {**set_validation_aside(new, validation_share, seed), **known}
    return {split: [shape for shape in shapes if splits[shape.patient_id] == split] for split in SPLITS}


def _shape(archive: Path, row: "pd.Series", packed: np.ndarray) -> NoduleShape:
    extent = tuple(int(row[name]) for name in ("depth", "height", "width"))
    count = int(np.prod(extent))
    fits = (
        min(extent) >= 1 and max(extent) <= LARGEST and packed.dtype == np.uint8 and packed.shape == (-(-count // 8),)
    )
    if not fits:
        raise ValueError(
            f"{archive}: {row['shape']} is {packed.dtype} {packed.shape}, expected the {count} bits of {extent} "
            f"voxels, each axis at most {LARGEST}; write the archive and its table together"
        )
    labels, _ = ndimage.label(np.unpackbits(packed, count=count).reshape(extent))
    if not labels.any():
        raise ValueError(f"{archive}: {row['shape']} has no voxel; leave it out")
    largest = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    ratings = {name: float(row[name]) for name in RATED}
    if not all(1 <= value <= 5 for value in ratings.values()):
        raise ValueError(f"{archive}: {row['shape']} is rated {ratings}, expected 1 to 5; correct the table")
    return NoduleShape(str(row["shape"]), str(row["patient_id"]), largest, float(row["slice_mm"]), ratings)
