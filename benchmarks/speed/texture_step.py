"""What the texture losses cost: one training step of stage 2 with them over one without, in one run.

    uv run benchmarks/speed/texture_step.py                          # the U-Net of configs/ldm.yaml, crops of 48 voxels
    uv run benchmarks/speed/texture_step.py --texture.gate 1.0       # on at every timestep

A step is forward, backward and AdamW on random lesions of 12 voxels; timesteps are spread evenly over [0, T), so the
share of late samples is exactly the gate. Steps with and without alternate, so that other work meets both; the time is
that of the process.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

from autoencoder import AutoencoderKL3D
from autoencoder.networks.presets import PRESETS
from diffusion import SPADEUNet3D
from diffusion.option_types import TextureConfig
from diffusion.process import training_scheduler
from diffusion.stage_two import stage_two_of
from foundation.config import launch, parse_config
from imaging.lesions.shapes import nodule_mask
from imaging.semantic_map import FIRST_NODULE

CONFIGS = Path(__file__).parents[2] / "configs"
ALL = TextureConfig(losses=dict.fromkeys(("gabor", "cooccurrence", "wavelet", "dog"), 1.0))


@dataclass(frozen=True)
class StepConfig:
    """What to measure.

    Attributes:
        texture: The texture losses that are on.
        crop_size: Edge of the crops, voxels.
        batch: Samples of a step.
        repeats: Steps of each kind, after one to warm up; their median counts.
        threads: CPU threads.
    """

    texture: TextureConfig = field(default_factory=lambda: ALL)
    crop_size: int = 48
    batch: int = 10
    repeats: int = 7
    threads: int = 2


def main(config: StepConfig) -> None:
    """Measure and print the table."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    size = vars(PRESETS["tiny"]) | {"latent_channels": 4}  # as in configs/vae_kl.yaml
    vae = AutoencoderKL3D(**size, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).requires_grad_(False)
    shape = yaml.safe_load((CONFIGS / "ldm.yaml").read_text())["model"]
    scheduler = training_scheduler("v")
    batch, x0, noise, timesteps = random_batch(config, vae, len(scheduler.alphas_cumprod))
    none = replace(config.texture, losses={})
    kinds = {"without texture losses": (none, False), "with": (config.texture, False)}
    kinds |= {"with, gradients measured": (config.texture, True)}
    steps = {}
    for name, (texture, statistics) in kinds.items():
        model = stage_two_of(SPADEUNet3D(map_factor=vae.factor, **shape), texture)
        steps[name] = (model, torch.optim.AdamW(model.parameters(), lr=1e-5), statistics)

    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in tqdm(range(config.repeats + 1), desc="steps"):
        for name, (model, optimizer, statistics) in steps.items():
            started = time.process_time()
            loss, _, _ = model(vae, scheduler, batch, x0, noise, timesteps, statistics=statistics)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if repeat:
                times[name].append(time.process_time() - started)
    base = median(times["without texture losses"])
    print(f"\ngate {config.texture.gate}, batch {config.batch}, {config.crop_size}^3, {config.threads} thread(s)\n")
    print("| training step | CPU s, median (min ... max) | × |\n|---|---|---|")
    for name, values in times.items():
        print(
            f"| {name} | {median(values):.2f} ({min(values):.2f} ... {max(values):.2f}) | {median(values) / base:.2f} |"
        )


def random_batch(
    config: StepConfig, vae: AutoencoderKL3D, count: int
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Noise images with nodule-like masks of 12 mm at 1 mm; timesteps evenly over [0, count)."""
    size = (config.crop_size,) * 3
    centre = [edge / 2 for edge in size]
    masks = [nodule_mask(size, (1.0, 1.0, 1.0), centre, 12.0, seed=seed) for seed in range(config.batch)]
    lesion_mask = torch.stack([torch.from_numpy(mask) for mask in masks])[:, None]
    latent_shape = vae.latent_shape((config.batch, 1, *size))
    batch = {
        "blanked_latent": torch.randn(latent_shape),
        "lesion_mask": lesion_mask,
        "paint_mask": lesion_mask,
        "semantic_map": FIRST_NODULE * lesion_mask.long(),
        "valid_mask": torch.ones_like(lesion_mask),
        "spacing_mm": torch.ones(config.batch, 3),
        "ct_norm": torch.rand(config.batch, 1, *size) * 2 - 1,
    }
    timesteps = (torch.arange(config.batch) + 0.5) / config.batch * count
    return batch, torch.randn(latent_shape), torch.randn(latent_shape), timesteps.long()


if __name__ == "__main__":
    launch(main, parse_config(StepConfig))
