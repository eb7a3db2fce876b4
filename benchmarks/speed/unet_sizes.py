"""What sizes of the stage 2 U-Net cost: parameters, time and memory of a training step and of one call in sampling.

    uv run benchmarks/speed/unet_sizes.py
    uv run benchmarks/speed/unet_sizes.py --device cuda --autocast bf16 --batch 32

Every row runs in a process of its own, on a CPU in one thread, whose CPU time counts: it hardly depends on what else
runs. On a GPU the wall clock counts. Memory is what the task needs beyond the loaded model, with the optimiser's two
averages: the process's peak on a CPU (Linux), the allocator's on a GPU. Rows: configs/ldm.yaml, the U-Net's own
defaults, and twice their width.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import yaml
from autoencoder_presets import autocast, measured
from tqdm import tqdm

from diffusion.unet import SPADEUNet3D
from foundation.config import launch, parse_config

SMALL = Path(__file__).parents[2] / "configs/ldm.yaml"
FACTOR = 4  # voxels of the crop to a cell of the latent, along each axis


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        crop: Edge of the crops, voxels; the latent has a fourth of it.
        batch: Crops of a training step.
        repeats: Measurements of each, after one to warm up; their median counts.
        device: "cpu" or "cuda".
        autocast: "no" or "bf16".
    """

    crop: int = 48
    batch: int = 8
    repeats: int = 3
    device: str = "cpu"
    autocast: Literal["no", "bf16"] = "no"


def sizes() -> dict[str, dict[str, Any]]:
    """Arguments of `SPADEUNet3D` by the row's name."""
    given = yaml.safe_load(SMALL.read_text())["model"]
    same = {name: given[name] for name in ("num_labels", "attributes")}
    return {"configs/ldm.yaml": given, "default": same, "twice as wide": same | {"channels": (128, 256, 384)}}


def main(config: Config) -> None:
    step = f"step, {config.batch} × {config.crop}³"
    print(f"| U-Net | channels | parameters | {step} | a call of sampling |\n|" + "---|" * 5)
    for name, arguments in tqdm(sizes().items(), desc="sizes"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, (arguments, config))
        cells = [f"{1000 * row[task][0]:.0f} ms, {row[task][1]:.0f} MiB" for task in ("train", "sample")]
        widths = ", ".join(map(str, row["channels"]))
        print(f"| {name} | {widths} | {row['parameters'] / 1e6:.1f} M | {' | '.join(cells)} |", flush=True)


def measure(arguments: dict[str, Any], config: Config) -> dict[str, Any]:
    """Median seconds and peak MiB of each task, in this process."""
    torch.set_num_threads(1)
    clock = time.perf_counter if config.device == "cuda" else time.process_time
    torch.manual_seed(0)
    unet = SPADEUNet3D(**arguments).to(config.device, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-4)
    cells = [config.crop // FACTOR] * 3
    sample = torch.randn(config.batch, 18, *cells, device=config.device)  # noisy latent and what it is conditioned on
    target = torch.randn(config.batch, 4, *cells, device=config.device)
    labels = torch.randint(unet.config["num_labels"], (config.batch, 1, *[config.crop] * 3), device=config.device)
    timesteps = torch.randint(1000, (config.batch,), device=config.device)

    def train() -> None:
        unet.train()
        with autocast(config.device, config.autocast):
            output = unet(sample, timesteps, modulation=unet.modulate(labels)).sample
        F.mse_loss(output.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    def call(modulation: Any) -> None:
        unet.eval()
        with torch.no_grad(), autocast(config.device, config.autocast):
            unet(sample[:1], timesteps[0], modulation=modulation)

    with torch.no_grad():
        once = unet.modulate(labels[:1])  # before the first step, for all of them
    tasks: dict[str, Callable[[], None]] = {"sample": lambda: call(once), "train": train}
    row: dict[str, Any] = {
        "channels": list(unet.config["channels"]),
        "parameters": sum(p.numel() for p in unet.parameters()),
    }
    for task, act in tasks.items():
        row[task] = measured(act, config.device, config.repeats, clock)
    return row


if __name__ == "__main__":
    launch(main, parse_config(Config))
