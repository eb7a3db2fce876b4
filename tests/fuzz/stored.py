"""What the project itself writes: datasets, latents, manifests, configs and settings, with hostile versions."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fuzz.made import EDGE, GIB, Files, made_ct, made_mask

from autoencoder.latent_dataset import latent_features, load_latents, read_latent, save_latent_dataset
from foundation.claimed_folder import claim_folder
from foundation.config import ExistingFolder, parse_config
from imaging.dataset.manifest import SCHEMA, join_manifests, write_rows
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset, spacing_mm_of
from imaging.dataset.rows import RowReader
from imaging.dataset.scan_volumes import open_scans
from imaging.lidc.scan_nodules import ScanResult, save_result


def nodule_rows() -> list[dict[str, Any]]:
    shape = (EDGE,) * 3
    return [
        {
            "nodule_id": name,
            "patient_id": name,
            "source": "made",
            "split": split,
            "ct_hu": made_ct(shape),
            "lesion_mask": made_mask(shape),
            "valid_mask": np.ones(shape, np.uint8),
            "spacing_mm": (2.0, 0.7, 0.8),
            "diameter_mm": 4.5,
            "volume_mm3": 40.0,
            "malignancy": 3.5,
        }
        for name, split in (("a", "train"), ("b", "train"), ("c", "test"))
    ]


def make_nodules(folder: Path) -> None:
    save_nodule_dataset(nodule_rows(), folder / "data", EDGE, {"manufacturer": "string"})


def read_nodules(folder: Path) -> None:
    for split in ("train", "test"):
        dataset = load_nodules(folder / "data", split)
        spacing_mm_of(dataset)
        for index in range(len(dataset)):
            read_nodule(dataset, index)
        reader = RowReader(dataset.select_columns(["ct_hu", "lesion_mask", "diameter_mm", "nodule_id"]))
        for index in range(len(reader)):
            reader[index]


def dataset_bombs(files: Files) -> Iterator[Files]:
    state = "data/train/state.json"
    for change in (
        {"_data_files": []},
        {"_data_files": [{"filename": "/etc/passwd"}]},
        {"_data_files": [{"filename": "../../../../../etc/passwd"}]},
        {"_data_files": None},
        {"_indices_data_files": [{"filename": "nothing.arrow"}]},
        {"_columns": ["nothing"]},
        {"_format_type": "nothing"},
        {"_format_type": "torch"},
        {"_split": 7},
    ):
        yield {**files, state: json.dumps(json.loads(files[state]) | change).encode()}
    info = "data/train/dataset_info.json"
    for shape in ([-1] * 3, [2**40] * 3, [6, 6], "nothing", [0, 0, 0], [7, 6, 6]):
        changed = json.loads(files[info])
        changed["features"]["ct_hu"]["shape"] = shape
        yield {**files, info: json.dumps(changed).encode()}
    for splits in (None, 7, {"train": 1}, ["train", 7], "train", ["../train"], [["train"]]):
        yield {**files, "data/dataset_dict.json": json.dumps({"splits": splits}).encode()}
    for text in ("[" * 100_000, '{"splits":' * 100_000, "7", "null", '{"splits": ' + "9" * 5000 + "}"):
        yield {**files, "data/dataset_dict.json": text.encode()}
        yield {**files, state: text.encode()}
        yield {**files, info: text.encode()}


def make_latents(folder: Path) -> None:
    shape, latent = (EDGE,) * 3, (2, 3, 3, 3)
    features = latent_features(latent, EDGE)
    row: dict[str, Any] = dict.fromkeys(("nodule_id", "patient_id", "source"), "a") | {"split": "train"}
    for name, feature in features.items():
        if name not in row and hasattr(feature, "shape"):
            row[name] = np.ones(feature.shape, feature.dtype)
    row |= {"variant": 0, "spacing_mm": (1.0, 1.0, 1.0), "ct_hu": made_ct(shape)}
    save_latent_dataset([row, row | {"variant": 1}], folder / "data", features)


def read_latents(folder: Path) -> None:
    dataset = load_latents(folder / "data", "train")
    for index in range(len(dataset)):
        read_latent(dataset, index)


def read_scans(folder: Path) -> None:
    for _, volume in open_scans(folder / "scans"):
        volume.astype(np.float32).sum()


def make_result(folder: Path) -> None:
    save_result(folder / "a.npz", ScanResult(nodule_rows(), [], {"patient_id": "a"}))


def npz_bombs(files: Files) -> Iterator[Files]:
    (name, content), *_ = files.items()
    for member, size in (("meta.npy", 2 * GIB), ("ct_hu_0.npy", 3 * GIB)):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
            for info in source.infolist():
                if info.filename != member:
                    target.writestr(info.filename, source.read(info))
                    continue
                with target.open(member, "w", force_zip64=True) as stream:
                    shape = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}".encode()
                    stream.write(b"\x93NUMPY\x01\0" + len(shape).to_bytes(2, "little") + shape)
                    for _ in range(size // 2**24):
                        stream.write(bytes(2**24))
        yield {name: out.getvalue()}


def make_manifest(folder: Path) -> None:
    rows = [
        {"lesion": n, "attempt": 0, "accepted": True, "scan": "a.nii.gz", "box_zyx": [1, 2, 3, 4, 5, 6]} for n in (0, 1)
    ]
    write_rows(rows, folder / "part.parquet")


def manifest_bombs(files: Files) -> Iterator[Files]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.nulls(1, kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)}
    for text, rows in (("x" * (GIB // 4), 5), ("", 1_000_000)):
        out = io.BytesIO()
        with pq.ParquetWriter(out, SCHEMA, compression="zstd") as writer:
            for _ in range(rows if text else 10):
                count = 1 if text else rows // 10
                filled = {name: pa.nulls(count, column.type) for name, column in columns.items()}
                filled["detail"] = pa.array([text]) if text else filled["detail"]
                writer.write_table(pa.table(filled, SCHEMA))
        yield {"part.parquet": out.getvalue()}


def read_manifest(folder: Path) -> None:
    join_manifests([folder / "part.parquet"], folder / "joined.parquet")


@dataclass(frozen=True)
class Model:
    """Attributes: channels: Per level. kind: Of the model."""

    channels: tuple[int, ...] = (16, 32)
    kind: Literal["kl", "vq"] = "kl"


@dataclass(frozen=True)
class Config:
    """Attributes: out: Folder. data: Folder. seed: Of all. learning_rate: Peak. minutes: At most. model: Its shape."""

    out: Path
    data: ExistingFolder = Path(".")
    seed: int = 0
    learning_rate: float = 1e-4
    minutes: float | None = None
    model: Model = field(default_factory=Model)
    scales: dict[str, float] = field(default_factory=dict)


def make_config(folder: Path) -> None:
    (folder / "run.yaml").write_text(
        "# a comment\nout: runs/a\ndata: .\nseed: 3\nlearning_rate: 1.0e-4  # peak\nminutes: 5\n"
        "model:\n  channels: [16, 32]\n  kind: kl\nscales: {spiculation: 0.5, texture: 2}\n"
    )


def yaml_bombs(files: Files) -> Iterator[Files]:
    anchors = "a0: &a0 [lol, lol]\n" + "".join(
        f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)
    )
    merges = "b0: &b0 {k: v}\n" + "".join(
        f"b{i + 1}: &b{i + 1} {{<<: [{', '.join([f'*b{i}'] * 9)}]}}\n" for i in range(12)
    )
    for text in (
        *(anchors, anchors + "seed: *a12\n", anchors + "out: *a12\n", merges, "out: &a [*a]\n", "&a out: *a\n"),
        *(
            "out: &a {b: *a}\n",
            "seed: " + "[" * 100_000,
            "seed: " + "- " * 100_000,
            "? " * 100_000,
            "out: 2001-99-99\n",
        ),
        *("seed: " + "9" * 5000, "seed: 1:" + "59:" * 5000 + "1", "seed: 0b" + "1" * 100_000, "seed: 1e99999\n"),
        *("{[a]: b}\n", "? {a: b}\n: c\n", "out: !!binary =====\n", "out: !!timestamp x\n", "out: !!int x\n"),
        *("out: !!set {a, b}\n", "out: !!omap [a]\n", "seed: .nan\n", "seed: .inf\n", "null: 1\n", "1: 2\n", "- a\n"),
        *("%YAML 9.9\n---\nseed: 3\n", "seed: 3\n---\nseed: 4\n", "out: \0\n", "out: \x1b\n", "seed: 3\nseed: 4\n", ""),
        *(
            "[" * 900 + "]" * 900,
            "seed: &x {<<: *x}\n",
            "<<: [{seed: 1}, {seed: 2}]\n",
            "out: !!python/name:os.system\n",
        ),
        *("out: " + "x" * 10_000_000, "k" * 10_000_000 + ": 1\n", "\n".join(f"k{i}: 1" for i in range(20_000))),
    ):
        yield {"run.yaml": text.encode()}


def read_config(folder: Path) -> None:
    parse_config(Config, ["--config", str(folder / "run.yaml")])


def make_settings(folder: Path) -> None:
    claim_folder(folder, {"seed": 3, "scans": "a", "scale": {"spiculation": 0.5}})


def json_bombs(files: Files) -> Iterator[Files]:
    name = next(iter(files))
    for text in (
        *(
            "[" * 1_000_000,
            '{"a":' * 1_000_000,
            "[" * 900 + "]" * 900,
            "7",
            "null",
            "[]",
            '"a"',
            "[[]]",
            "NaN",
            "[NaN]",
        ),
        *('{"seed": ' + "9" * 5000 + "}", '{"seed": 1e999}', '{"\\ud800": 1}', '{"seed": "' + "x" * 10_000_000 + '"}'),
        *(
            "{}",
            "[null]",
            '[{"name": 7, "spacing_mm": "x", "body": [[1]]}]',
            '[{"name": "../a", "spacing_mm": 1, "body": 7}]',
        ),
    ):
        yield {**files, name: text.encode("utf-8")}
    yield {**files, name: b"\xff\xfe{}"}


def card_bombs(files: Files) -> Iterator[Files]:
    for one in yaml_bombs({}):
        yield {"README.md": b"---\n" + one["run.yaml"] + b"\n---\n"}
