"""Prepared whole scans: int16 HU volumes on one isotropic grid, memory-mapped, for random patches; no image library."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from foundation.atomic import recover, write_atomically
from foundation.text_files import read_text, reason_of

INDEX = "scans.json"
BODY_HU = -500.0  # tissue is denser, air and lung are not
BODY_SHARE = 0.02  # a plane with less of its voxels in tissue is outside the body


@dataclass(frozen=True)
class ScanEntry:
    """One scan of the folder.

    Attributes:
        name: Its volume is `<name>.npy`, int16 HU, (D, H, W).
        spacing_mm: Of the grid, along every axis.
        body: (first, one past the last) voxel of the body along z, y, x; patches come from there.
    """

    name: str
    spacing_mm: float
    body: tuple[tuple[int, int], ...]


def save_scans(scans: Iterable[tuple[str, np.ndarray]], out: Path, spacing_mm: float) -> list[ScanEntry]:
    """Write scans as they come; `out` appears only when all of them are written.

    Args:
        scans: (name, HU volume (D, H, W)) in turn; names must differ.
        out: Folder to create; must not exist.
        spacing_mm: Isotropic spacing of all volumes.
    Raises: ValueError: If `out` exists, no scan comes, or a name comes twice.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; choose another folder or delete it")
    entries: dict[str, ScanEntry] = {}

    def write(folder: Path) -> None:
        folder.mkdir()
        for name, ct_hu in scans:
            if name in entries:
                raise ValueError(f"scan {name!r} comes twice; give each a name of its own")
            volume = np.rint(ct_hu).astype(np.int16)
            np.save(folder / f"{name}.npy", volume, allow_pickle=False)
            entries[name] = ScanEntry(name, spacing_mm, body_box(volume))
        if not entries:
            raise ValueError(f"{out}: no scan to write")
        index = [asdict(entry) for entry in entries.values()]
        (folder / INDEX).write_text(json.dumps(index, indent=1))

    write_atomically(out, write)
    return list(entries.values())


def open_scans(folder: Path) -> list[tuple[ScanEntry, np.ndarray]]:
    """The scans of a folder with their volumes, memory-mapped and read-only.

    Raises: ValueError: If the folder holds no prepared scans, or a volume is missing or broken.
    """
    recover(folder)
    try:
        records = json.loads(read_text(folder / INDEX))
        entries = [
            ScanEntry(str(r["name"]), float(r["spacing_mm"]), tuple((int(a), int(b)) for a, b in r["body"]))
            for r in records
        ]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{folder}: holds no prepared scans; make them with scripts/prepare_scans.py") from error
    opened: list[tuple[ScanEntry, np.ndarray]] = []
    for entry in entries:
        path = folder / f"{entry.name}.npy"
        try:
            volume = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # NumPy raises many kinds on a damaged header
            raise ValueError(
                f"{path}: cannot be read as a volume ({reason_of(error)}); prepare the scans again"
            ) from error
        if volume.ndim != 3 or volume.dtype != np.int16:
            raise ValueError(f"{path}: {volume.dtype} of shape {volume.shape}, expected int16 (D, H, W)")
        inside = [0 <= a < b <= size for (a, b), size in zip(entry.body, volume.shape, strict=False)]
        if len(entry.body) != 3 or not all(inside) or not 0 < entry.spacing_mm < math.inf:
            raise ValueError(
                f"{folder / INDEX}: {entry.name} has the body {entry.body} and {entry.spacing_mm} mm, expected a part "
                f"of {volume.shape} voxels and a positive spacing; prepare the scans again"
            )
        opened.append((entry, volume))
    return opened


def body_box(ct_hu: np.ndarray) -> tuple[tuple[int, int], ...]:
    """(first, one past the last) plane along z, y, x that has more than 2 % tissue; without any, the whole axis."""
    tissue = ct_hu > BODY_HU
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        planes = np.flatnonzero(tissue.mean(axis=others) > BODY_SHARE)
        box.append((int(planes[0]), int(planes[-1]) + 1) if len(planes) else (0, ct_hu.shape[axis]))
    return tuple(box)
