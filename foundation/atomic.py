"""Files and folders that appear complete or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

TEMPORARY, ASIDE = ".tmp.", ".old."  # before the name, so that its ending stays what writers go by


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling (file or folder), then rename it to `path`, replacing what was there.

    A file is replaced in one step. A folder cannot be: the old one is moved aside first, so that at every moment a
    complete old or a complete new folder exists, under `path` or, after a kill, where :func:`recover` finds it. What a
    killed writer left is cleared up.

    Args:
        path: What appears; parents are made.
        write: Gets the temporary path, whose ending is that of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    temporary, aside = (path.with_name(prefix + path.name) for prefix in (TEMPORARY, ASIDE))
    _remove(temporary)
    try:
        write(temporary)
        if temporary.is_file():
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():
            path.rename(aside)
            temporary.rename(path)
        else:
            temporary.replace(path)
        _remove(aside)
    finally:
        _remove(temporary)


def recover(path: Path) -> None:
    """Put back a folder that a killed writer had moved aside; whoever looks for a folder calls this first."""
    if not path.name:
        return  # "." or "/": nobody moves these aside
    aside = path.with_name(ASIDE + path.name)
    if aside.exists():
        if path.exists():
            _remove(aside)  # the new one is complete
        else:
            aside.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
