"""Whether results can be written, found out before any work is done."""

import os
import tempfile
from pathlib import Path
from typing import Literal


def check_output(path: Path, kind: Literal["file", "folder"], option: str = "--out") -> None:
    """Raise ValueError if a file or folder cannot be written; nothing is left behind.

    Args:
        path: What will be written; it and its parents need not exist.
        kind: What it will be.
        option: Names it in the message.
    """
    name = f"{option} {path}"
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{name}: is a link that leads nowhere; remove the link, or choose another path")
    if kind == "folder" and path.exists() and not path.is_dir():
        raise ValueError(f"{name}: is a file, expected a folder or a path that does not exist; choose another path")
    if kind == "file" and path.is_dir():
        raise ValueError(f"{name}: is a folder, expected a file or a path that does not exist; name a file in it")
    place = path if path.is_dir() else path.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{name}: lies below {place}, which is no folder; choose another path")
    try:
        tempfile.TemporaryFile(dir=place).close()  # it has no name, so that no other process ever sees it
    except OSError as error:
        raise ValueError(
            f"{name}: {place} cannot be written to ({error.strerror}); choose another path, or change its permissions"
        ) from error
