"""The prepared dataset of nodule crops: one `datasets` row per nodule, typed, split by patient, read without SimpleITK.

Everything that trains, encodes or samples reads this and no other file format. `save_nodule_dataset` writes the rows
of any source; `load_nodules` opens one split memory-mapped; `read_nodule` gives one row as arrays of the stored type.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array3D, Dataset, DatasetDict, Features, Sequence, Value

from foundation.atomic import recover
from imaging.dataset.rows import SPLITS, load_split, read_row, write_rows
from imaging.window import AIR_HU

RATINGS = (
    "subtlety",
    "internal_structure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)


def nodule_features(crop_size: int, extra: Mapping[str, Any] | None = None) -> Features:
    """The columns and types of a prepared dataset of crops of S = `crop_size` voxels.

    - `nodule_id`, `patient_id`, `source`, `split`: strings; `split` is one of `SPLITS`.
    - `ct_hu`: int16 (S, S, S) = z, y, x; HU, at least -1024; where `valid_mask` is 0, the nearest valid voxel's.
    - `lesion_mask`: uint8 (S, S, S), 1 inside the nodule.
    - `valid_mask`: uint8 (S, S, S), 0 on padding outside the scan.
    - `spacing_mm`: three float32, z, y, x.
    - `diameter_mm`, `volume_mm3`: float32, of the whole nodule, also where the crop cuts it.
    - each of `RATINGS`: float32, the readers' mean, null where not rated.

    Args:
        crop_size: Edge of the cubic crops, voxels.
        extra: Further columns of a source, name to `datasets` type or feature, for example
            `{"manufacturer": "string", "semantic_map": Array3D((48, 48, 48), "uint8")}`.
    Raises: ValueError: If `crop_size` is not positive or an extra column has the name of a fixed one.
    """
    if crop_size < 1:
        raise ValueError(f"crop_size {crop_size}, expected a positive number of voxels")
    shape = (crop_size, crop_size, crop_size)
    columns: dict[str, Any] = {name: Value("string") for name in ("nodule_id", "patient_id", "source", "split")}
    columns["ct_hu"] = Array3D(shape, "int16")
    columns["lesion_mask"] = Array3D(shape, "uint8")
    columns["valid_mask"] = Array3D(shape, "uint8")
    columns["spacing_mm"] = Sequence(Value("float32"), length=3)
    columns |= {name: Value("float32") for name in ("diameter_mm", "volume_mm3", *RATINGS)}
    clash = set(columns) & set(extra or {})
    if clash:
        raise ValueError(f"extra columns {sorted(clash)} are fixed columns already; rename them in the source")
    return Features(
        columns | {name: Value(kind) if isinstance(kind, str) else kind for name, kind in (extra or {}).items()}
    )


def save_nodule_dataset(
    rows: Iterable[Mapping[str, Any]],
    out: Path,
    crop_size: int,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> DatasetDict:
    """Write rows, as they come, to a prepared dataset; `out` appears only when all of them are written.

    Args:
        rows: One mapping per nodule with the keys of `nodule_features`; ratings and extra columns may be absent or
            None. Arrays are NumPy; `ct_hu` may be floating point and is rounded.
        out: Folder to create.
        crop_size: Edge of the cubic crops, voxels.
        extra: Further columns, see `nodule_features`.
        overwrite: Replace an `out` that is a prepared dataset.
    Returns: The dataset as opened from `out`.
    Raises: ValueError: If `out` cannot be written to, a row breaks the contract, a nodule comes twice, a patient is
        in two splits, or no row comes at all. Nothing is left behind then.
    """
    out = Path(out)
    features = nodule_features(crop_size, extra)
    check_output(out, overwrite)
    write_rows(_checked(rows, crop_size, features), out, features)
    return DatasetDict({split: load_nodules(out, split) for split in SPLITS if (out / split).is_dir()})


def check_output(out: Path, overwrite: bool = False) -> None:
    """Refuse an output folder that `save_nodule_dataset` would not replace; call it before reading any source.

    Raises: ValueError: If `out` holds something that is no prepared dataset, or one and `overwrite` is False.
    """
    recover(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "dataset_dict.json").is_file():
        raise ValueError(f"{out}: exists and is not a prepared dataset; choose another output folder")
    if not overwrite:
        raise ValueError(f"{out}: is a prepared dataset already; choose another folder or pass --overwrite true")


def load_nodules(path: Path, split: str) -> Dataset:
    """Open one split of a prepared dataset, memory-mapped: no voxel is read before it is asked for.

    Args:
        path: Folder written by `save_nodule_dataset` (or by `DatasetDict.save_to_disk` with the same columns).
        split: "train", "validation" or "test".
    Raises: ValueError: If the folder is missing or no nodule dataset, or has no such split; it says what is there.
    """
    remedy = "prepare a dataset first, for example with scripts/prepare_nodules.py"
    return load_split(path, split, nodule_features(1), "a prepared dataset of nodules", remedy)


def crop_size_of(dataset: Dataset) -> int:
    """Edge of the cubic crops in voxels, from the dataset's types; reads no row."""
    return dataset.features["ct_hu"].shape[0]


def spacing_mm_of(dataset: Dataset) -> tuple[float, float, float] | None:
    """The spacing (z, y, x) in mm that all rows share, or None where they differ; reads that column alone."""
    spacings = np.unique(np.asarray(dataset.with_format("numpy")["spacing_mm"][:], np.float32), axis=0)
    return tuple(spacings[0].tolist()) if len(spacings) == 1 else None


def read_nodule(dataset: Dataset, index: int) -> dict[str, Any]:
    """One row in the stored types: arrays as in `nodule_features`, strings, floats; a missing rating is NaN.

    Args:
        dataset: Result of `load_nodules`, filtered or shuffled as you like.
        index: Row; negative counts from the end.
    """
    return read_row(dataset, index)


def _checked(rows: Iterable[Mapping[str, Any]], crop_size: int, features: Features) -> Iterator[Mapping[str, Any]]:
    """The rows with whole HU; raises ValueError at the first that breaks the contract or does not fit the others."""
    split_of_patient: dict[str, str] = {}
    seen: set[str] = set()
    for row in rows:
        check_row(row, crop_size, features)
        nodule, patient, split = row["nodule_id"], row["patient_id"], row["split"]
        if nodule in seen:
            raise ValueError(f"{nodule}: comes twice; a nodule_id must be unique")
        if split_of_patient.setdefault(patient, split) != split:
            raise ValueError(
                f"{nodule}: patient {patient} is in {split!r} and in {split_of_patient[patient]!r}; "
                "keep all nodules of a patient in one split"
            )
        seen.add(nodule)
        yield {**row, "ct_hu": np.rint(row["ct_hu"])}


def check_row(row: Mapping[str, Any], crop_size: int, features: Features) -> None:
    """Raise ValueError where a row breaks the contract of `nodule_features`; the message names its nodule."""
    name = row.get("nodule_id")
    absent = [key for key in nodule_features(1) if key not in RATINGS and row.get(key) is None]
    if absent:
        raise ValueError(f"nodule {name}: lacks {', '.join(absent)}")
    unknown = [key for key in row if key not in features]
    if unknown:
        raise ValueError(f"{name}: unknown columns {', '.join(unknown)}; declare them as extra columns")
    if row["split"] not in SPLITS:
        raise ValueError(f"{name}: split {row['split']!r}, expected one of {', '.join(map(repr, SPLITS))}")
    for key in ("ct_hu", "lesion_mask", "valid_mask"):
        if np.shape(row[key]) != (crop_size,) * 3:
            raise ValueError(f"{name}: {key} has shape {np.shape(row[key])}, expected {(crop_size,) * 3}")
    for key in ("lesion_mask", "valid_mask"):
        if not np.isin(row[key], (0, 1)).all():
            raise ValueError(f"{name}: {key} has values other than 0 and 1; binarise it")
        if not np.any(row[key]):
            raise ValueError(f"{name}: {key} is empty")
    if np.any(np.asarray(row["lesion_mask"]) > np.asarray(row["valid_mask"])):
        raise ValueError(f"{name}: lesion_mask covers voxels where valid_mask is 0; cut it to the scan")
    for key in RATINGS:
        if row.get(key) is not None and not 1 <= row[key] <= 6:
            raise ValueError(f"{name}: {key} {row[key]}, expected a rating from 1 to 6, or None where not rated")
    ct_hu = np.asarray(row["ct_hu"])
    if not (np.isfinite(ct_hu).all() and ct_hu.min() >= AIR_HU and ct_hu.max() <= np.iinfo(np.int16).max):
        raise ValueError(
            f"{name}: ct_hu spans {ct_hu.min()} ... {ct_hu.max()} HU, expected finite values from {AIR_HU} "
            f"to {np.iinfo(np.int16).max}; clip the CT before cropping"
        )
    if np.shape(row["spacing_mm"]) != (3,) or not np.all(np.asarray(row["spacing_mm"]) > 0):
        raise ValueError(f"{name}: spacing_mm {row['spacing_mm']}, expected three positive numbers (z, y, x)")
