"""Typed rows on disk, by split: what writes and reads every dataset of this project, prepared or encoded."""

import contextlib
import copy
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Array3D, Array4D, Dataset, DatasetDict, Features, Value, concatenate_datasets
from datasets.arrow_writer import ArrowWriter

from foundation.atomic import recover, write_atomically
from foundation.text_files import read_json, reason_of

SPLITS = ("train", "validation", "test")
WRITE_BATCH = 16  # rows held in memory by each split's writer


def write_rows(rows: Iterable[Mapping[str, Any]], out: Path, features: Features) -> None:
    """Write rows as they come; `out` appears, or is replaced, only when all of them are written.

    Args:
        rows: Mappings with the keys of `features`, `split` among them; missing values are None or absent.
        out: Folder.
        features: Columns and types.
    Raises: ValueError: If no row comes. Nothing is left behind then, nor if a row raises.
    """
    write_atomically(Path(out), lambda temporary: _write_splits(rows, temporary, features))


def write_shard(rows: Iterable[Mapping[str, Any]], path: Path, features: Features) -> None:
    """Write some rows of one split as an Arrow file, complete or not at all; :func:`join_shards` makes a dataset of it.

    Args:
        rows: As in :func:`write_rows`, at least one.
        path: File.
        features: Columns and types.
    """

    def write(temporary: Path) -> None:
        with ArrowWriter(features=features, path=str(temporary), writer_batch_size=WRITE_BATCH) as writer:
            for row in rows:
                writer.write({name: row.get(name) for name in features})
            writer.finalize()

    write_atomically(Path(path), write)


def join_shards(shards: Mapping[str, Sequence[Path]], out: Path) -> None:
    """A dataset of files of :func:`write_shard`; `out` appears, or is replaced, when it is complete.

    Args:
        shards: Split -> its files in the order of their rows.
        out: Folder.
    """
    splits = {
        name: concatenate_datasets([Dataset.from_file(str(path)) for path in shards[name]])
        for name in SPLITS
        if shards.get(name)
    }
    write_atomically(Path(out), lambda temporary: DatasetDict(splits).save_to_disk(temporary))


def load_split(path: Path, split: str, required: Iterable[str], kind: str, remedy: str) -> Dataset:
    """Open one split, memory-mapped: no array is read before it is asked for.

    Args:
        path: Folder written by `write_rows` (or by `DatasetDict.save_to_disk` with the same columns).
        split: One of `SPLITS`.
        required: Columns without which it is no dataset of this kind.
        kind: What the messages call it, for example "a prepared dataset".
        remedy: What to do where it is none.
    Raises: ValueError: If the folder is missing or none of the kind, or has no such split; it says what is there.
    """
    path = Path(path)
    recover(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; {remedy}")
    try:
        splits = list(map(str, read_json(path / "dataset_dict.json")["splits"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not {kind} (no readable dataset_dict.json with `splits`); {remedy}") from error
    if split not in splits:
        again = "; patients for it are set aside when the dataset is prepared: do that again" * (split == "validation")
        raise ValueError(f"{path}: no split {split!r}; it has {', '.join(map(repr, splits))}{again}")
    try:
        _check_arrow(path / split)
        dataset = Dataset.load_from_disk(path / split)
        _check_shapes(dataset)
    except Exception as error:  # of JSON, of Arrow and of Datasets, on damaged files
        raise ValueError(f"{path}: the split {split!r} cannot be read ({reason_of(error)})") from error
    missing = [name for name in required if name not in dataset.column_names]
    if missing:
        raise ValueError(f"{path}: not {kind}, lacks the columns {', '.join(missing)}; {remedy}")
    return dataset


def _check_arrow(folder: Path) -> None:
    """Refuse a split whose files are elsewhere, or damaged so that an array reaches beyond them.

    Arrow trusts the offsets in a file, and the process would crash. All of them are read, and no voxel is.
    """
    state = read_json(folder / "state.json")
    for entry in [*(state.get("_data_files") or ()), *(state.get("_indices_data_files") or ())]:
        if Path(entry["filename"]).name != entry["filename"]:
            raise ValueError(f"state.json names {entry['filename']}, expected a file beside it")
        with pa.memory_map(str(folder / entry["filename"])) as file, pa.ipc.open_stream(file) as stream:
            stream.read_all().validate(full=True)


def _check_shapes(dataset: Dataset) -> None:
    """Refuse stored arrays that have another shape than dataset_info.json says."""
    for name, feature in dataset.features.items():
        for chunk in dataset.data.column(name).chunks if isinstance(feature, (Array3D, Array4D)) else ():
            lists = chunk.storage
            for size in feature.shape:
                if pc.any(pc.not_equal(pc.list_value_length(lists), size)).as_py():
                    raise ValueError(f"the arrays of {name} are not of the shape {feature.shape}")
                lists = lists.flatten()


def read_row(dataset: Dataset, index: int) -> dict[str, Any]:
    """One row in the stored types, whatever the dataset's format (Datasets' own "numpy" format widens integers).

    Args:
        dataset: Result of `load_split`, filtered or shuffled as you like.
        index: Row; negative counts from the end.
    Returns: Arrays of the stored types, strings, and floats; a missing float is NaN.
    """
    rows = copy.copy(dataset)  # `with_format` copies the table's thousand batches, for every row that is read
    rows.set_format("arrow")
    table = rows[index]
    row: dict[str, Any] = {}
    for name, feature in dataset.features.items():
        if isinstance(feature, (Array3D, Array4D)):
            array = table[name].combine_chunks().to_numpy(zero_copy_only=False)[0]
            row[name] = np.asarray(array).astype(feature.dtype)
        else:
            row[name] = _plain(table[name][0].as_py(), feature)
    return row


class RowReader:
    """What :func:`read_row` gives, from a dataset that is opened once: in a seventh of the time, for training loops.

    Datasets builds the types of its arrays anew at every access; here the columns are mapped as plain lists once.

    Args:
        dataset: Result of `load_split`, filtered or shuffled as you like, with the columns that are wanted; no array in
            it is missing.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self._features = dataset, dataset.features
        columns = {name: dataset.data.column(name) for name in self._features}
        for name, feature in self._features.items():
            if isinstance(feature, (Array3D, Array4D)):
                columns[name] = pa.chunked_array([chunk.storage for chunk in columns[name].chunks])
        self._table = pa.table(columns)
        indices = dataset._indices  # the rows of the table, where it was filtered or shuffled
        self._rows = None if indices is None else indices.column(0).to_numpy()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row as of `read_row`; negative counts from the end. Raises IndexError outside."""
        index = range(len(self))[index]
        table = self._table.slice(int(index if self._rows is None else self._rows[index]), 1)
        row: dict[str, Any] = {}
        for name, feature in self._features.items():
            value = table.column(name).chunk(0)
            if isinstance(feature, (Array3D, Array4D)):
                for _ in feature.shape:
                    value = value.flatten()
                row[name] = value.to_numpy().reshape(feature.shape).astype(feature.dtype)
            else:
                row[name] = _plain(value[0].as_py(), feature)
        return row

    def __reduce__(self) -> tuple[type["RowReader"], tuple[Dataset]]:
        return RowReader, (self.dataset,)  # another process maps the file itself; the table would travel whole


def _plain(value: Any, feature: Any) -> Any:
    """A value that is no array of voxels: a missing float is NaN, a list an array."""
    if isinstance(feature, Value):
        return np.nan if value is None and feature.dtype.startswith("float") else value
    return np.asarray(value, feature.feature.dtype)


def _write_splits(rows: Iterable[Mapping[str, Any]], folder: Path, features: Features) -> None:
    """One Arrow file per split that occurs, then the dataset in the order of `SPLITS`."""
    arrow = folder / "arrow"
    arrow.mkdir(parents=True)
    writers: dict[str, ArrowWriter] = {}
    with contextlib.ExitStack() as stack:
        for row in rows:
            split = row["split"]
            if split not in writers:
                path = str(arrow / f"{split}.arrow")
                writer = ArrowWriter(features=features, path=path, writer_batch_size=WRITE_BATCH)
                writers[split] = stack.enter_context(writer)
            writers[split].write({name: row.get(name) for name in features})
        for writer in writers.values():
            writer.finalize()
    if not writers:
        raise ValueError("no rows to save; the source gave none")
    splits = {name: Dataset.from_file(str(arrow / f"{name}.arrow")) for name in SPLITS if name in writers}
    DatasetDict(splits).save_to_disk(folder)
    shutil.rmtree(arrow)
