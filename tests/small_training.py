"""A small training that tests/training/test_processes.py starts in several processes, each with storage of its own."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import Dataset

from autoencoder import AutoencoderKL3D
from training.config import TrainingConfig
from training.draws import generator
from training.run import TrainingRun

PATIENCE_S = 60


class Points(Dataset):
    """Eleven points in four dimensions."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, item: tuple[int, int]) -> dict:
        row, draw = item
        return {"x": torch.from_numpy(generator(0, "noise", row).standard_normal(4, dtype="float32")), "draw": draw}


def train(config: TrainingConfig, at_batch: Callable[[TrainingRun], object]) -> TrainingRun:
    """Continue the run; a network without dropout and a loss that is a mean over samples."""
    set_seed(config.seed + int(os.environ.get("RANK", "0")))  # processes that begin with other weights
    run = TrainingRun(config)
    run.prepare(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
    for batch in run.batches(Points()):
        loss = (run.model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()
        run.update(loss, {"squared": loss})
        at_batch(run)
    return run


def weights(run: TrainingRun) -> list[Tensor]:
    """Averaged and trained."""
    with run.averaged() as model:
        averaged = [parameter.detach().clone() for parameter in model.parameters()]
    return averaged + [parameter.detach().clone() for parameter in run.model.parameters()]


def settings(folder: Path, batch_size: int, **others: int) -> TrainingConfig:
    """Four steps without clipping."""
    fixed = {"steps": 4, "learning_rate": 0.01, "warmup_steps": 0, "ema_decay": 0.9, "max_grad_norm": 1e9}
    every = {"log_every": 1, "checkpoint_every": 1, "evaluate_every": 2}
    return TrainingConfig(data=folder / "data", out=folder / "run", batch_size=batch_size, **fixed, **every, **others)


def join(rank: int, processes: int, port: int, folder: Path, batch_size: int, accumulation: int) -> None:
    """Be one of the processes: stop after one step, continue to the end, and save.

    In `folder`, each leaves its steps and its averaged and trained weights. The first one saves its model only when the
    others are gone.
    """
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    config = settings(folder / f"node{rank}", batch_size, gradient_accumulation_steps=accumulation)
    steps: list[int] = []
    for limit in (0.0, None):
        run = train(replace(config, max_minutes=limit), lambda run: steps.append(run.step))
    timeout_s = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout
    torch.save({"steps": steps, "weights": weights(run), "timeout_s": timeout_s.total_seconds()}, folder / f"{rank}.pt")

    def model_of(averaged: nn.Module) -> AutoencoderKL3D:
        deadline = time.monotonic() + PATIENCE_S
        while not all((folder / f"gone{other}").exists() for other in range(1, processes)):
            if time.monotonic() > deadline:
                raise SystemExit("the other processes wait while this one works alone")
            time.sleep(0.05)
        return AutoencoderKL3D(channels=(4,), blocks_per_level=1, latent_channels=2)

    run.save("model", model_of)
    if rank:
        (folder / f"gone{rank}").write_text(json.dumps(sorted(path.name for path in config.out.rglob("*"))))
