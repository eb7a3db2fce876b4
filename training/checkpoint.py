"""Atomic checkpoints: `kill -9` at any moment leaves the last complete one, never half a file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATE_FILE = "state.pt"


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


def save_checkpoint(folder: Path, step: int, parts: dict[str, Any]) -> None:
    """Write the state dicts of `parts` and the number of finished steps to `folder/state.pt`, atomically.

    Args:
        folder: The run's checkpoint folder.
        step: Optimisation steps that are done.
        parts: Objects with `state_dict`: model, EMA, optimiser, learning-rate schedule, gradient scaler.
    """
    state = {"step": step, "parts": {name: part.state_dict() for name, part in parts.items()}}
    write_atomically(folder / STATE_FILE, lambda temporary: torch.save(state, temporary))


def load_checkpoint(folder: Path, parts: dict[str, Any]) -> int:
    """Load what :func:`save_checkpoint` wrote into `parts`; the number of finished steps, 0 without a checkpoint.

    Raises: ValueError: If the checkpoint holds other parts than asked for, or weights of another shape.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)  # tensors and plain values only
    if set(state["parts"]) != set(parts):
        raise ValueError(
            f"{path}: holds {sorted(state['parts'])}, this run has {sorted(parts)}; start in another folder (--out)"
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(state["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: {name} does not fit this config ({error}); choose another --out") from error
    return int(state["step"])
