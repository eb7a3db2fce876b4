"""Speed of `SPADEUNet3D` against MONAI's `SPADEDiffusionModelUNet` of as many parameters, on the CPU.

    uv run benchmarks/speed/spade_unet.py                 # the U-Net of configs/ldm.yaml
    uv run benchmarks/speed/spade_unet.py --size base     # the defaults of SPADEUNet3D

Measured are one training step (forward, mean squared error, backward, AdamW; a batch of two) and the complete sampling
of one volume: conditions concatenated to the latent, the network, a Diffusers DDIM step, 50 times, with all that is
done once before the loop (our modulation, MONAI's one-hot map). Both networks get the same noisy latent, conditions,
timesteps and label map at the CT's resolution, float32, and run in turn, so that other work on the machine meets both.

MONAI's network has the same number of levels and encoder blocks, attention at the same place (the middle, none
elsewhere; the same kernel and width of a head), and widths proportional to ours, as nearly as multiples of 16 (else
of 8) allow, so that the parameters agree within 2.5 %. It runs twice: with its default width of the embedded map, 128,
and with ours. What remains different is the design: it has one more block at each level of the decoder, SPADE in the
decoder alone, embeds the map in every norm anew and at every step, normalises γ and β too, and has no embedding of
the voxel spacing. Ours runs a single volume's convolutions on oneDNN (`diffusion.blocks.Conv3d`); MONAI leaves that
to PyTorch.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Literal

import torch
import yaml
from diffusers import DDIMScheduler
from monai.networks.nets import SPADEDiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from diffusion.process import training_scheduler
from diffusion.unet import SPADEUNet3D
from foundation.config import launch, parse_config

SMALL = Path(__file__).parents[2] / "configs" / "ldm.yaml"
MONAI_MAP_CHANNELS = 128  # MONAI's default
PARAMETER_TOLERANCE = 0.025


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        size: "small" is the U-Net of configs/ldm.yaml, "base" has the defaults of SPADEUNet3D.
        cells: Edge of the latent.
        batch: Volumes of a training step.
        steps: Denoising steps of a sampling.
        repeats: Measurements of each, after one to warm up; their median counts.
        threads: CPU threads; 0 takes PyTorch's choice.
    """

    size: Literal["small", "base"] = "small"
    cells: int = 12
    batch: int = 2
    steps: int = 50
    repeats: int = 5
    threads: int = 0


def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    ours = SPADEUNet3D(**(yaml.safe_load(SMALL.read_text())["model"] if config.size == "small" else {}))
    networks: dict[str, nn.Module] = {f"SPADEUNet3D {widths(ours)}": ours}
    for map_channels in sorted({MONAI_MAP_CHANNELS, ours.config["map_channels"]}, reverse=True):
        peer = equal_peer(ours, map_channels)
        networks[f"MONAI {tuple(peer.block_out_channels)}, map {map_channels}"] = peer

    training = interleaved(
        {name: training_step(network, config) for name, network in networks.items()}, config.repeats, "training"
    )
    sampled = interleaved({name: sampling(network, config) for name, network in networks.items()}, config.repeats)
    print(f"\nlatent {config.cells}^3, {torch.get_num_threads()} thread(s), median of {config.repeats} (min ... max)\n")
    print(f"| network | parameters | training step, ms | × | {config.steps} sampling steps, s | × |")
    print("|---|---|---|---|---|---|")
    first = next(iter(networks))
    for name, network in networks.items():
        columns = [name, f"{parameters(network):,}"]
        for seconds, own, unit in ((training[name], training[first], 1e3), (sampled[name], sampled[first], 1.0)):
            middle, low, high = (unit * f(seconds) for f in (median, min, max))
            columns += [f"{middle:.3g} ({low:.3g} ... {high:.3g})", f"{median(seconds) / median(own):.2f}"]
        print("| " + " | ".join(columns) + " |")


def equal_peer(ours: SPADEUNet3D, map_channels: int) -> SPADEDiffusionModelUNet:
    """MONAI's network of as many parameters, with the widths nearest to proportional that are multiples of 16 or 8."""
    wanted = parameters(ours)
    for step in (16, 8):
        too_large: list[tuple[int, ...]] = []
        too_small: list[tuple[int, ...]] = []
        for candidate in proportional_widths(widths(ours), step):
            if any(all(a >= b for a, b in zip(candidate, other, strict=True)) for other in too_large):
                continue
            if any(all(a <= b for a, b in zip(candidate, other, strict=True)) for other in too_small):
                continue
            with torch.device("meta"):
                excess = parameters(monai_unet(ours, candidate, map_channels, step)) / wanted - 1
            if abs(excess) <= PARAMETER_TOLERANCE:
                return monai_unet(ours, candidate, map_channels, step)
            (too_large if excess > 0 else too_small).append(candidate)
    raise ValueError(f"no widths of MONAI's U-Net come near {wanted} parameters; choose other channels")


def proportional_widths(channels: tuple[int, ...], step: int) -> Iterable[tuple[int, ...]]:
    """Multiples of `step`, up to 1.5 times the channels, of which no ratio is off by more than 1.3; the best first."""

    def disproportion(candidate: tuple[int, ...]) -> float:
        logs = [math.log(a / b) for a, b in zip(candidate, channels, strict=True)]
        return max(logs) - min(logs)

    candidates = product(*[range(step, int(1.5 * width) + 1, step) for width in channels])
    return sorted((c for c in candidates if disproportion(c) <= math.log(1.3)), key=disproportion)


def monai_unet(ours: SPADEUNet3D, channels: tuple[int, ...], map_channels: int, groups: int) -> SPADEDiffusionModelUNet:
    """MONAI's counterpart of our U-Net with these widths."""
    config = ours.config
    return SPADEDiffusionModelUNet(
        spatial_dims=3,
        in_channels=config["latent_channels"] + config["condition_channels"],
        out_channels=config["latent_channels"],
        label_nc=config["num_labels"],
        num_res_blocks=config["blocks_per_level"],
        channels=channels,
        attention_levels=[False] * len(channels),  # the middle always attends
        norm_num_groups=groups,
        num_head_channels=math.gcd(32, channels[-1]),
        spade_intermediate_channels=map_channels,
        use_flash_attention=True,  # the kernel we use
    )


def training_step(network: nn.Module, config: Config) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    latent, conditions, label_map = example(config.batch, config.cells)
    target, t = torch.randn_like(latent), torch.randint(1000, (config.batch,))

    def step() -> None:
        network.train()
        output = denoiser(network, label_map)(torch.cat([latent, conditions], dim=1), t)
        F.mse_loss(output, target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampling(network: nn.Module, config: Config) -> Callable[[], None]:
    noise, conditions, label_map = example(1, config.cells)
    scheduler = DDIMScheduler.from_config(training_scheduler("v").config)

    @torch.no_grad()
    def sample() -> None:
        network.eval()
        latent, denoise = noise, denoiser(network, label_map)
        scheduler.set_timesteps(config.steps)
        for t in scheduler.timesteps:
            output = denoise(torch.cat([latent, conditions], dim=1), t.expand(1))
            latent = scheduler.step(output, t, latent).prev_sample

    return sample


def denoiser(network: nn.Module, label_map: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The network on a label map (B, 1, D, H, W), with all done that it can do before the first step."""
    if isinstance(network, SPADEUNet3D):
        modulation = network.modulate(label_map)
        return lambda sample, t: network(sample, t, modulation=modulation).sample
    one_hot = F.one_hot(label_map[:, 0], network.label_nc).movedim(-1, 1).float()
    return lambda sample, t: network(sample, t, one_hot)


def example(batch: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latent (B, 4, d, h, w), conditions (B, 14, d, h, w), and a lesion's label map, four times as fine."""
    sample = torch.randn(batch, 18, cells, cells, cells, generator=torch.Generator().manual_seed(0))
    label_map = torch.zeros(batch, 1, 4 * cells, 4 * cells, 4 * cells, dtype=torch.long)
    lesion = slice(4 * cells // 3, 8 * cells // 3)
    label_map[..., lesion, lesion, lesion] = 1
    return sample[:, :4], sample[:, 4:], label_map


def interleaved(tasks: dict[str, Callable[[], None]], repeats: int, what: str = "sampling") -> dict[str, list[float]]:
    """Seconds of each task, run in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in tqdm(range(repeats + 1), desc=what):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def widths(ours: SPADEUNet3D) -> tuple[int, ...]:
    return tuple(ours.config["channels"])


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    launch(main, parse_config(Config))
