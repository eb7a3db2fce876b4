"""What the presets of the autoencoder cost: parameters, time and memory of a training step and of encoding, decoding.

    uv run benchmarks/speed/autoencoder_presets.py
    uv run benchmarks/speed/autoencoder_presets.py --device cuda --autocast bf16 --patch 64 --batch 4

Every row runs in a process of its own. Memory is what the task needs beyond the loaded model: the process's peak on a
CPU (Linux), the allocator's on a GPU.
"""

import multiprocessing
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from tqdm import tqdm

from autoencoder import AutoencoderKL3D, VQAutoencoder3D
from autoencoder.losses.weights import LossWeights
from autoencoder.networks.presets import PRESETS, PresetName
from autoencoder.stage_one import StageOne
from foundation.config import launch, parse_config


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        presets: Names.
        kind: "kl" or "vq".
        patch: Edge of a training patch.
        batch: Patches a step.
        volume: Edge of the volume that is encoded and decoded.
        repeats: Measurements of each, after one to warm up; their median counts.
        device: "cpu" or "cuda".
        autocast: "no" or "bf16".
        threads: CPU threads; 0 takes PyTorch's choice.
    """

    presets: tuple[PresetName, ...] = ("tiny", "base", "large")
    kind: Literal["kl", "vq"] = "kl"
    patch: int = 32
    batch: int = 2
    volume: int = 64
    repeats: int = 3
    device: str = "cpu"
    autocast: Literal["no", "bf16"] = "no"
    threads: int = 0


def main(config: Config) -> None:
    step = f"step, {config.batch} × {config.patch}³"
    rows = []
    variants = [(name, checkpointing) for name in config.presets for checkpointing in (False, True)]
    for name, checkpointing in tqdm(variants, desc="presets"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (name, checkpointing, config)))
    print(f"\n| preset | parameters | {step} | encode {config.volume}³ | decode {config.volume}³ |\n|" + "---|" * 5)
    for row in rows:
        cells = [f"{1000 * row[task][0]:.0f} ms, {row[task][1]:.0f} MiB" for task in ("train", "encode", "decode")]
        print(f"| {row['name']} | {row['parameters'] / 1e6:.1f} M | {' | '.join(cells)} |")


def measure(name: PresetName, checkpointing: bool, config: Config) -> dict[str, Any]:
    """Median seconds and peak MiB of each task, in this process."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    kind = AutoencoderKL3D if config.kind == "kl" else VQAutoencoder3D
    vae = kind(**vars(PRESETS[name])).to(config.device, memory_format=torch.channels_last_3d)
    if checkpointing:
        vae.enable_gradient_checkpointing()
    stage = StageOne(vae, LossWeights())
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-4)
    patch = torch.rand(config.batch, 1, *[config.patch] * 3, device=config.device) * 2 - 1
    batch = {"ct_norm": patch, "valid_mask": torch.ones_like(patch)}
    volume = torch.rand(1, 1, *[config.volume] * 3, device=config.device) * 2 - 1
    latent = torch.randn(vae.latent_shape(volume.shape), device=config.device)

    def train() -> None:
        stage.train()
        with autocast(config.device, config.autocast):
            loss, _ = stage(batch, None, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def infer(act: Any, x: torch.Tensor) -> None:
        vae.eval()
        with torch.no_grad(), autocast(config.device, config.autocast):
            act(x)

    tasks = {"encode": lambda: infer(vae.encode, volume), "decode": lambda: infer(vae.decode, latent), "train": train}
    label = name + (", gradient checkpointing" if checkpointing else "")
    row: dict[str, Any] = {"name": label, "parameters": sum(p.numel() for p in vae.parameters())}
    for task, act in tasks.items():
        row[task] = measured(act, config.device, config.repeats)
    return row


def measured(
    act: Callable[[], object], device: str, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Median seconds of a task after one run to warm up, and the memory in MiB that it needs beyond what is in use."""
    before = memory_mib(device, reset=True)
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        act()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return median(seconds[1:]), memory_mib(device) - before


def autocast(device: str, kind: str) -> Any:
    """The context of "bf16"; of "no", one that changes nothing."""
    return torch.autocast(device, torch.bfloat16) if kind == "bf16" else nullcontext()


def memory_mib(device: str, reset: bool = False) -> float:
    """Highest memory since the last reset; with `reset`, what is in use now, and a new start."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if reset:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM falls back to VmRSS
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 2**10


if __name__ == "__main__":
    launch(main, parse_config(Config))
