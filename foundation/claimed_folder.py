"""Folders of work that is done in parts: continued by the same settings, refused to others, shared by processes.

The settings are in a JSON file beside the work. Whoever comes later finds them there and compares.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from foundation.atomic import write_atomically
from foundation.text_files import read_json

SETTINGS = "settings.json"
LOCKS = ".locks"  # folder


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder for work with these settings, or check that its work was begun with the same ones.

    Args:
        folder: Its `settings.json` is written or compared.
        settings: What the work depends on, as JSON types.
    Raises: ValueError: As `claim_file`.
    """
    claim_file(folder / SETTINGS, settings, str(folder))


def claim_file(path: Path, settings: Mapping[str, Any], work: str) -> None:
    """Write the settings of a piece of work, or check that it was begun with the same ones.

    Args:
        path: JSON file; parents are made.
        settings: As for `claim_folder`.
        work: What was made with the settings, for the message: who wants others can delete it.
    Raises: ValueError: If the file holds other settings, naming what differs and the remedy.
    """
    if path.exists():
        try:
            there = read_json(path)
        except ValueError as error:
            raise ValueError(f"{error}; these are no settings: delete {work} and begin anew") from error
        changes = changed_settings(there, settings)
        if changes:
            raise ValueError(
                f"{path}: made with other settings ({changes}); go back to those, delete {work}, or take another --out"
            )
    else:
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(settings, indent=2)))


def claim_shared_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """`claim_folder` for several processes at once, in a folder that holds this work and nothing else.

    Raises: ValueError: As `claim_file`, and if there is something in a folder without settings.
    """
    with folder_lock(folder, "settings"):
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (LOCKS, SETTINGS))
        if foreign and not (folder / SETTINGS).exists():
            raise ValueError(f"{folder}: holds {foreign[0]} and no {SETTINGS}; choose another --out or empty it")
        claim_folder(folder, settings)


def changed_settings(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs, as `name: earlier value -> value; ...`; empty where nothing does. A missing name is None."""
    names = dict.fromkeys((*settings, *earlier))
    changed = [name for name in names if earlier.get(name) != settings.get(name)]
    return "; ".join(f"{name}: {earlier.get(name)} -> {settings.get(name)}" for name in changed)


def folder_lock(folder: Path, name: str, timeout_s: float = -1) -> FileLock:
    """A lock between the processes that work in a folder; the system lifts it when its holder dies.

    Args:
        folder: The lock is a file below its `.locks`; both folders are made.
        name: Of the lock.
        timeout_s: How long to wait for it; 0 raises `filelock.Timeout` at once, below 0 waits for ever.
    """
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCKS / name, timeout=timeout_s)
