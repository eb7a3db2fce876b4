"""What the processes of one training do together: start, share the first one's checkpoint, agree, and part."""

import contextlib
import io
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

TIMEOUT = timedelta(hours=12)  # the others wait while the first one evaluates; a launcher ends them if one dies
CHUNK = 64 * 1024**2  # bytes of a checkpoint that are sent at once
WHOLE_MODEL = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def open_accelerator(**settings: Any) -> Accelerator:
    """Accelerate for a training whose processes each keep the whole model.

    Args:
        settings: Further arguments of `Accelerator`.
    Raises: ValueError: If the launcher asks for shards of the model, or for gradient accumulation of its own.
    """
    for name in WHOLE_MODEL:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("true", "1"):
            raise ValueError(
                f"the launcher's {name}: expected processes that each keep the whole model, because averages and "
                "checkpoints need it; launch with configs/accelerate/multi_gpu.yaml"
            )
    accumulation = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if accumulation != "1":
        raise ValueError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS {accumulation}: expected none from the launcher, which would only "
            "divide the loss; unset it and give the script --gradient_accumulation_steps"
        )
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # else torchrun's processes would not find one another there
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        **settings,
    )


def of_first_process(path: Path | None, accelerator: Accelerator) -> Path | BinaryIO | None:
    """The first process's file in every process, which may run on machines without common storage.

    Args:
        path: The file; counts in the first process only.
        accelerator: Of the training; every process calls this.
    Returns: The path in the first process, the content in the others; None everywhere if `path` is None.
    """
    if accelerator.num_processes == 1:
        return path
    mine = path if accelerator.is_main_process else None
    size = torch.tensor(-1 if mine is None else mine.stat().st_size, device=accelerator.device)
    dist.broadcast(size, src=0)
    if size < 0:
        return None
    content = io.BytesIO()
    with contextlib.nullcontext() if mine is None else mine.open("rb") as file:
        for first in range(0, int(size), CHUNK):
            count = min(CHUNK, int(size) - first)
            read = torch.frombuffer(bytearray(file.read(count)), dtype=torch.uint8) if file else torch.empty(count)
            chunk = read.to(accelerator.device, torch.uint8)
            dist.broadcast(chunk, src=0)
            if file is None:
                content.write(chunk.cpu().numpy().tobytes())
    content.seek(0)
    return content if mine is None else mine


def in_every_process(condition: bool, accelerator: Accelerator) -> bool:
    """Whether the condition holds in all processes, each of which calls this."""
    if accelerator.num_processes == 1:
        return condition
    counted = torch.tensor(float(condition), device=accelerator.device)
    return bool(accelerator.reduce(counted, reduction="sum") == accelerator.num_processes)


def part(accelerator: Accelerator) -> None:
    """Wait for all processes and end their communication: from here on nobody waits for what the first one does."""
    accelerator.wait_for_everyone()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
