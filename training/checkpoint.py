"""Atomic checkpoints: `kill -9` at any moment leaves the last complete one, never half a file."""

from pathlib import Path
from typing import Any

import torch

from foundation.atomic import write_atomically

STATE_FILE = "state.pt"


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
