"""Atomic checkpoints: a kill, a full disk or a damaged file leaves a complete one, never half a file."""

import logging
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from foundation.atomic import write_atomically

logger = logging.getLogger(__name__)

STATE_FILE, PREVIOUS_FILE = "state.pt", "previous.pt"


class Progress(NamedTuple):
    """How far a run is: optimisation steps that are done, and the seconds that they took."""

    step: int
    seconds: float


def save_checkpoint(folder: Path, step: int, parts: dict[str, Any], seconds: float = 0.0) -> None:
    """Write the state dicts of `parts` and the run's progress to `folder/state.pt`; keep the one before.

    Args:
        folder: The run's checkpoint folder.
        step: Optimisation steps that are done.
        parts: Objects with `state_dict`: model, EMA, optimiser, learning-rate schedule, gradient scaler.
        seconds: That those steps took.
    Raises: OSError: If it cannot be written, on a full disk for example; the one before is as it was.
    """
    state = {"step": step, "seconds": seconds, "parts": {name: part.state_dict() for name, part in parts.items()}}
    newest, previous = folder / STATE_FILE, folder / PREVIOUS_FILE

    def write(temporary: Path) -> None:
        torch.save(state, temporary)
        if newest.exists():
            newest.replace(previous)  # a kill from here to the rename leaves the one before, which is looked for

    try:
        write_atomically(newest, write)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises RuntimeError
        raise OSError(
            f"{newest}: the checkpoint of step {step} cannot be written ({str(error).splitlines()[0]}); the one before "
            "is intact: make room, and the same command goes on from there"
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest file of :func:`save_checkpoint` that is intact; None without a checkpoint.

    Where the newest file is missing or damaged, it is the one before, with a warning.

    Raises: ValueError: If all there is is damaged.
    """
    path = _newest_intact(folder)
    if path is not None and path != folder / STATE_FILE:
        logger.warning("%s: missing or damaged; going on from %s", folder / STATE_FILE, path.name)
    return path


def load_checkpoint(source: Path | BinaryIO | None, parts: dict[str, Any]) -> Progress:
    """Load what :func:`save_checkpoint` wrote into `parts`.

    Args:
        source: The file, or its content in a process that does not have it; None is the beginning of a run.
        parts: As for :func:`save_checkpoint`.
    Returns: Steps and seconds that are done.
    Raises: ValueError: If it holds other parts than asked for, or weights of another shape.
    """
    if source is None:
        return Progress(0, 0.0)
    name = source if isinstance(source, Path) else "the first process's checkpoint"
    state = torch.load(source, map_location="cpu", weights_only=True)  # tensors and plain values only
    if set(state["parts"]) != set(parts):
        raise ValueError(
            f"{name}: holds {sorted(state['parts'])}, this run has {sorted(parts)}; start in another folder (--out)"
        )
    for key, part in parts.items():
        try:
            part.load_state_dict(state["parts"][key])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{name}: {key} does not fit this config ({error}); choose another --out") from error
    return _progress(state)


def read_progress(folder: Path) -> Progress:
    """Steps and seconds of the checkpoint that :func:`newest_checkpoint` finds, 0 of both without one.

    Raises: ValueError: If all there is is damaged.
    """
    path = _newest_intact(folder)
    if path is None:
        return Progress(0, 0.0)
    return _progress(torch.load(path, map_location="cpu", weights_only=True, mmap=True))  # the weights stay on disk


def _progress(state: dict[str, Any]) -> Progress:
    return Progress(int(state["step"]), float(state.get("seconds", 0.0)))  # early checkpoints have no seconds


def _newest_intact(folder: Path) -> Path | None:
    files = [path for path in (folder / STATE_FILE, folder / PREVIOUS_FILE) if path.exists()]
    intact = next((path for path in files if _is_intact(path)), None)
    if files and intact is None:
        raise ValueError(f"{folder}: every checkpoint is damaged; start in another folder (--out)")
    return intact


def _is_intact(path: Path) -> bool:
    """Whether the archive is complete and every part has its check sum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
