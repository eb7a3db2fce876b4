"""What the copy of loaded weights costs: load and one forward pass, aligned weights against mapped ones.

    uv run benchmarks/aligned_weights.py
    uv run benchmarks/aligned_weights.py --threads 1 --repeats 20

Models of the project copy their weights out of the memory map that Diffusers loads them into
(`autoencoder.aligned_model`). Both ways open the same file, in the page cache, and run in turn, so that other work on
the machine meets both. The U-Net of configs/ldm.yaml denoises a latent of 12 cells, the autoencoder of
configs/vae_kl.yaml encodes and decodes 48 voxels; weights are random, which changes no time.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from tqdm import tqdm

from autoencoder import AutoencoderKL3D
from autoencoder.aligned_model import AlignedModel
from autoencoder.networks.presets import PRESETS
from diffusion.unet import SPADEUNet3D
from foundation.config import launch, parse_config

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        cells: Edge of the latent; the CT has four times as many voxels.
        repeats: Measurements of each, after one to warm up; their median counts.
        threads: CPU threads; 0 takes PyTorch's choice.
    """

    cells: int = 12
    repeats: int = 10
    threads: int = 0


@torch.no_grad()
def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    vae_config, unet_config = (
        yaml.safe_load((CONFIGS / name).read_text())["model"] for name in ("vae_kl.yaml", "ldm.yaml")
    )
    ct_norm = torch.rand(1, 1, *[4 * config.cells] * 3) * 2 - 1
    sample = torch.randn(1, 9, *[config.cells] * 3)
    semantic_map = (ct_norm > 0).long()
    size = {**vars(PRESETS[vae_config["preset"]]), "latent_channels": vae_config["latent_channels"]}
    models: list[tuple[Any, Callable[[Any], Any]]] = [
        (AutoencoderKL3D(**size), lambda vae: vae(ct_norm)),
        (SPADEUNet3D(**unet_config), lambda unet: unet(sample, 500, semantic_map)),
    ]
    rows = [measure(model, forward, config.repeats) for model, forward in models]
    print(
        f"\n{torch.get_num_threads()} thread(s), ms, mapped → aligned, median of {config.repeats}; × aligned / mapped\n"
    )
    print("| model | parameters | load | × | forward | × | both | × |\n|" + "---|" * 8)
    print("\n".join(rows))


def measure(model: Any, forward: Callable[[Any], Any], repeats: int) -> str:
    """One row of the table."""
    name = type(model).__name__
    seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for number in tqdm(range(repeats + 1), desc=name):
            for aligned in (False, True) if number % 2 else (True, False):  # neither always follows the other
                start = time.perf_counter()
                opener = type(model) if aligned else super(AlignedModel, type(model))
                loaded = opener.from_pretrained(folder)
                between = time.perf_counter()
                forward(loaded)
                seconds[aligned].append((between - start, time.perf_counter() - between))
                del loaded
    columns = [name, f"{sum(p.numel() for p in model.parameters()):,}"]
    for part in (lambda times: times[0], lambda times: times[1], sum):
        mapped, aligned_ = (1e3 * median(part(times) for times in seconds[way][1:]) for way in (False, True))
        columns += [f"{mapped:.1f} → {aligned_:.1f}", f"{aligned_ / mapped:.2f}"]
    return "| " + " | ".join(columns) + " |"


if __name__ == "__main__":
    launch(main, parse_config(Config))
