"""The folder of a reading study: cases as volumes of equal size, a sealed key, and each reader's order.

- `study.json`: how many cases, their shape and spacing, the truth of the training cases, the number of repeats
- `volumes.npy`: int16 (N, D, H, W), HU
- `key.bin`: what each case is; compressed, so that no one reads it by accident. The server never opens it.
- `answers.csv`, `readers.json`: see `evaluation.reading.answers` and `readers`

`evaluation.reading.preparation` writes the folder. This module imports nothing heavy: the server starts at once.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foundation.text_files import read_json

STUDY, VOLUMES, KEY, ANSWERS = "study.json", "volumes.npy", "key.bin", "answers.csv"
KEY_BYTES = 2**24  # a damaged key does not fill the memory
VERSION = 1
Kind = Literal["training", "first", "repeat"]


@dataclass(frozen=True)
class Study:
    """What the server knows.

    Attributes:
        id: Random; with a reader's name it decides the reader's order.
        shape: Of every volume, (D, H, W).
        spacing_mm: (z, y, x).
        cases: Numbers of the cases that count, from 1.
        training: Number of each training case -> whether it is real.
        repeats: How many cases each reader sees twice.
        volumes: int16 (N, D, H, W), HU, memory-mapped; case n is row n - 1.
    """

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    cases: tuple[int, ...]
    training: Mapping[int, bool]
    repeats: int
    volumes: np.ndarray


@dataclass(frozen=True)
class KeyCase:
    """What the key says of a case.

    Attributes:
        case: Its number.
        real: Whether it is.
        lesion: Its name in its set.
        patient: Its patient.
        diameter_mm: Of the sphere with the mask's volume; None for a crop without a mask.
        texture: Rating from 1 (ground glass) to 5 (solid), of the mask's real lesion; None where unknown.
        mean_hu: Inside the mask; None without one.
    """

    case: int
    real: bool
    lesion: str
    patient: str = ""
    diameter_mm: float | None = None
    texture: float | None = None
    mean_hu: float | None = None


@dataclass(frozen=True)
class Showing:
    """One step of a reader's order."""

    case: int
    kind: Kind


def check_study_folder(out: Path) -> None:
    """Refuse a folder that a study or a sheet may not replace.

    Raises: ValueError: If it holds something that is neither, or answers.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / KEY).is_file():
        raise ValueError(f"{out}: exists and holds no reading study; choose another --out")
    if (out / ANSWERS).is_file():
        raise ValueError(f"{out}: readers have begun to answer this study; choose another --out")


def write_key(folder: Path, key: Sequence[KeyCase]) -> None:
    """Write the sealed key of a study or a sheet."""
    (folder / KEY).write_bytes(zlib.compress(json.dumps([asdict(case) for case in key]).encode()))


def open_key(folder: Path) -> list[KeyCase]:
    """The key of a study or a sheet. Raises ValueError if there is none, or it is damaged."""
    path = folder / KEY
    if not path.is_file():
        raise ValueError(f"{path}: not found; prepare the study first")
    try:
        rows = json.loads(zlib.decompressobj().decompress(path.read_bytes(), KEY_BYTES))
        return [KeyCase(**row) for row in rows]
    except (zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); prepare the study again") from error


def load_study(folder: Path) -> Study:
    """What the server shows. Raises ValueError if the folder holds no complete study."""
    if not (folder / STUDY).is_file():
        raise ValueError(f"{folder}: holds no {STUDY}; prepare a study first (without --sheet)")
    about: Any = read_json(folder / STUDY)
    try:
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']}, expected {VERSION}")
        training = {int(case): bool(real) for case, real in about["training"].items()}
        volumes = np.load(folder / VOLUMES, mmap_mode="r", allow_pickle=False)
        cases, shape = tuple(map(int, about["cases"])), tuple(map(int, about["shape"]))
        spacing_mm = tuple(map(float, about["spacing_mm"]))
        if volumes.dtype != np.int16 or volumes.shape != (len(cases) + len(training), *shape):
            raise ValueError(f"{VOLUMES} is {volumes.dtype} {volumes.shape} and does not fit")
        return Study(str(about["id"]), shape, spacing_mm, cases, training, int(about["repeats"]), volumes)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{folder / STUDY}: damaged ({error}); prepare the study again") from error


def reading_order(study: Study, reader: str) -> list[Showing]:
    """What a reader sees, always the same for one name: training, then the cases in random order.

    The cases that come first are repeated in the second half, so that a repeat is far from its first showing.
    """
    seed = int.from_bytes(hashlib.sha256(f"{study.id}/{reader}".encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    cases = [study.cases[row] for row in rng.permutation(len(study.cases))]
    half = (len(cases) + 1) // 2
    later = [Showing(case, "first") for case in cases[half:]]
    later += [Showing(case, "repeat") for case in cases[: study.repeats]]
    later = [later[row] for row in rng.permutation(len(later))]
    training = [Showing(case, "training") for case in sorted(study.training)]
    return [*training, *(Showing(case, "first") for case in cases[:half]), *later]
