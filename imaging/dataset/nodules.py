"""The prepared dataset of nodule crops: one `datasets` row per nodule, typed, split by patient, read without SimpleITK.

Everything that trains, encodes or samples reads this and no other file format. `save_nodule_dataset` writes the rows
of any source; `load_nodules` opens one split memory-mapped; `read_nodule` gives one row as arrays of the stored type.
"""

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array3D, Dataset, DatasetDict, Features, Sequence, Value
from datasets.arrow_writer import ArrowWriter

from imaging.window import AIR_HU

SPLITS = ("train", "test")
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
WRITE_BATCH = 16  # rows held in memory by each split's writer


def nodule_features(crop_size: int, extra: Mapping[str, Any] | None = None) -> Features:
    """The columns and types of a prepared dataset of crops of S = `crop_size` voxels.

    - `nodule_id`, `patient_id`, `source`, `split`: strings; `split` is one of `SPLITS`.
    - `ct_hu`: int16 (S, S, S) = z, y, x; HU, at least -1024, and -1024 where `valid_mask` is 0.
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

    The folder is built beside `out` under the name `.<out>.partial` and renamed at the end.

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
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        splits = _write_splits(rows, partial / "arrow", features, crop_size)
        DatasetDict(splits).save_to_disk(partial / "dataset")
        replaced = partial / "replaced"
        if out.exists():
            out.rename(replaced)
        (partial / "dataset").rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return DatasetDict({split: load_nodules(out, split) for split in splits})


def check_output(out: Path, overwrite: bool = False) -> None:
    """Refuse an output folder that `save_nodule_dataset` would not replace; call it before reading any source.

    Raises: ValueError: If `out` holds something that is no prepared dataset, or one and `overwrite` is False.
    """
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
        split: "train" or "test".
    Raises: ValueError: If the folder is missing or no nodule dataset, or has no such split; it says what is there.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(
            f"{path}: no such folder; prepare a dataset first, for example with scripts/prepare_nodules.py"
        )
    try:
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a prepared dataset (no readable dataset_dict.json with `splits`)") from error
    if split not in splits:
        raise ValueError(f"{path}: no split {split!r}; it has {', '.join(map(repr, splits))}")
    dataset = Dataset.load_from_disk(path / split)
    missing = [name for name in nodule_features(1) if name not in dataset.column_names]
    if missing:
        raise ValueError(f"{path}: not a nodule dataset, lacks the columns {', '.join(missing)}")
    return dataset


def crop_size_of(dataset: Dataset) -> int:
    """Edge of the cubic crops in voxels, from the dataset's types; reads no row."""
    return dataset.features["ct_hu"].shape[0]


def spacing_mm_of(dataset: Dataset) -> tuple[float, float, float] | None:
    """The spacing (z, y, x) in mm that all rows share, or None where they differ; reads that column alone."""
    spacings = np.unique(np.asarray(dataset.with_format("numpy")["spacing_mm"][:], np.float32), axis=0)
    return tuple(spacings[0].tolist()) if len(spacings) == 1 else None


def read_nodule(dataset: Dataset, index: int) -> dict[str, Any]:
    """One row in the stored types, whatever the dataset's format (Datasets' own "numpy" format widens integers).

    Args:
        dataset: Result of `load_nodules`, filtered or shuffled as you like.
        index: Row; negative counts from the end.
    Returns: Arrays as in `nodule_features` (int16 and uint8 (S, S, S), `spacing_mm` float32 (3,)), strings, and
        floats; a missing rating is NaN.
    """
    row = dataset.with_format("arrow")[index]
    nodule: dict[str, Any] = {}
    for name, feature in dataset.features.items():
        if isinstance(feature, Array3D):
            nodule[name] = row[name].combine_chunks().to_numpy(zero_copy_only=False)[0].astype(feature.dtype)
            continue
        value = row[name][0].as_py()
        if isinstance(feature, Value):
            nodule[name] = np.nan if value is None and feature.dtype.startswith("float") else value
        else:
            nodule[name] = np.asarray(value, feature.feature.dtype)
    return nodule


def _write_splits(
    rows: Iterable[Mapping[str, Any]], folder: Path, features: Features, crop_size: int
) -> dict[str, Dataset]:
    """One Arrow file per split that occurs, in the order of `SPLITS`."""
    folder.mkdir()
    split_of_patient: dict[str, str] = {}
    seen: set[str] = set()
    writers: dict[str, ArrowWriter] = {}
    with contextlib.ExitStack() as stack:
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
            if split not in writers:
                path = str(folder / f"{split}.arrow")
                writers[split] = stack.enter_context(
                    ArrowWriter(features=features, path=path, writer_batch_size=WRITE_BATCH)
                )
            writers[split].write({name: row.get(name) for name in features} | {"ct_hu": np.rint(row["ct_hu"])})
        for writer in writers.values():
            writer.finalize()
    if not writers:
        raise ValueError("no nodules to save; the source gave no row")
    return {split: Dataset.from_file(str(folder / f"{split}.arrow")) for split in SPLITS if split in writers}


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
