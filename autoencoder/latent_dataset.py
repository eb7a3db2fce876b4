"""The encoded dataset: what stage 2 trains on, one row per nodule and augmentation, read without any image library."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array3D, Array4D, Dataset, DatasetDict, Features, Sequence, Value
from datasets.arrow_writer import ArrowWriter

from imaging.dataset.nodules import RATINGS, SPLITS

WRITE_BATCH = 16  # rows held in memory by each split's writer


def latent_features(latent_shape: tuple[int, int, int, int], crop_size: int) -> Features:
    """Columns of an encoded dataset.

    - `nodule_id`, `patient_id`, `source`, `split`, and `flips`: the axes flipped before encoding, for example "zx".
    - `latent_mean`, `latent_std`: posterior of the CT, float32 (C, d, h, w), standardised.
    - `blanked_latent`: posterior mean of the CT with the lesion blanked, standardised.
    - `ct_hu` int16, `lesion_mask`, `valid_mask` uint8 (S, S, S), flipped alike.
    - `spacing_mm`, `diameter_mm` and the ratings as in the prepared dataset.
    """
    crop = (crop_size,) * 3
    columns: dict[str, Any] = {
        name: Value("string") for name in ("nodule_id", "patient_id", "source", "split", "flips")
    }
    columns |= {name: Array4D(latent_shape, "float32") for name in ("latent_mean", "latent_std", "blanked_latent")}
    columns |= {"ct_hu": Array3D(crop, "int16"), "lesion_mask": Array3D(crop, "uint8")}
    columns |= {"valid_mask": Array3D(crop, "uint8"), "spacing_mm": Sequence(Value("float32"), length=3)}
    return Features(columns | {name: Value("float32") for name in ("diameter_mm", *RATINGS)})


def save_latent_dataset(rows: Iterable[Mapping[str, Any]], out: Path, features: Features) -> None:
    """Write rows as they come; `out` appears only when all of them are written.

    Args:
        rows: Mappings with the keys of `features`; missing ratings are None or NaN.
        out: Folder to create; must not exist.
        features: Result of :func:`latent_features`.
    Raises: ValueError: If `out` exists, or no row comes.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; choose another folder or delete it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writers: dict[str, ArrowWriter] = {}
    try:
        for row in rows:
            split = row["split"]
            if split not in writers:
                path = str(partial / f"{split}.arrow")
                writers[split] = ArrowWriter(features=features, path=path, writer_batch_size=WRITE_BATCH)
            writers[split].write({name: row.get(name) for name in features})
        for writer in writers.values():
            writer.finalize()
        if not writers:
            raise ValueError(f"{out}: no nodule to encode; the prepared dataset is empty")
        ordered = [split for split in SPLITS if split in writers]
        splits = {split: Dataset.from_file(str(partial / f"{split}.arrow")) for split in ordered}
        DatasetDict(splits).save_to_disk(partial / "dataset")
        (partial / "dataset").rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_latents(path: Path, split: str) -> Dataset:
    """Open one split of an encoded dataset, memory-mapped.

    Raises: ValueError: If the folder is no encoded dataset or has no such split.
    """
    try:
        splits = json.loads((Path(path) / "dataset_dict.json").read_text())["splits"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: not an encoded dataset; make one with scripts/encode_latents.py") from error
    if split not in splits:
        raise ValueError(f"{path}: no split {split!r}; it has {', '.join(map(repr, splits))}")
    dataset = Dataset.load_from_disk(Path(path) / split)
    if "latent_mean" not in dataset.column_names:
        raise ValueError(f"{path}: holds CT but no latents; encode it with scripts/encode_latents.py")
    return dataset


def read_latent(dataset: Dataset, index: int) -> dict[str, Any]:
    """One row: float32 (C, d, h, w) latents, (S, S, S) CT and masks in their stored types; a missing rating is NaN."""
    table = dataset.with_format("arrow")[index]
    row: dict[str, Any] = {}
    for name, feature in dataset.features.items():
        if isinstance(feature, (Array3D, Array4D)):
            array = table[name].combine_chunks().to_numpy(zero_copy_only=False)[0]
            row[name] = np.asarray(array).astype(feature.dtype)
        else:
            value = table[name][0].as_py()
            missing = value is None and isinstance(feature, Value) and feature.dtype == "float32"
            row[name] = np.asarray(value, np.float32) if isinstance(value, list) else (np.nan if missing else value)
    return row
