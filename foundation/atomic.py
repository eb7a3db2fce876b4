"""Files and folders that appear complete or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling (file or folder), then rename it to `path`, replacing what was there.

    A file is replaced in one step. A folder cannot be: the old one is moved aside first, so that at every moment a
    complete old or a complete new folder exists under `path` or beside it. What a killed writer left is cleared up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = (path.with_name(f".{path.name}.{ending}") for ending in ("tmp", "old"))
    _remove(temporary)
    try:
        write(temporary)
        if temporary.is_file():
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():
            _remove(aside)
            path.rename(aside)
            temporary.rename(path)
        else:
            temporary.replace(path)
        _remove(aside)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
