"""Our KL autoencoder against MONAI's `AutoencoderKL`: quality at equal time, seconds a step, decoding, memory.

    uv run benchmarks/speed/autoencoder_against_monai.py --data data/nodules --out runs/against_monai
    uv run benchmarks/speed/autoencoder_against_monai.py --data data/nodules --out runs/gpu \
        --device cuda --autocast bf16

MONAI's network has the widths of its own 3D tutorials (32, 64, 64), one block a level, no attention, and so 12 % more
parameters than ours; factor 4 and 4 latent channels are equal. Both minimise L1 + 1e-6 KL per voxel with AdamW, a
cosine schedule over their time and averaged weights, on patches of the same crops. Learning rate and patch (batches of
four 32³ or one 48³) are searched for each network alone, by the PSNR on 12 training nodules that nothing is trained
on; the test split is only read at the end. Contenders run in turn, in slices of some seconds, so that other work on
the machine meets all of them; a contender's clock runs in its own slices only.

Trained beside them: ours with a third of the time, and ours with group norm in place of the norm per voxel. The speed
table also has ours with a plain convolution in place of the Haar stem. Linux: peak memory is read from /proc.
"""

import copy
import json
import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from autoencoder import AutoencoderKL3D
from autoencoder.losses.basic import kl_loss, l1_loss
from evaluation.image_quality import psnr
from evaluation.lesions.openings import open_test_split
from foundation.config import launch, parse_config
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.window import to_norm
from training.data import NodulePatches

WINDOW = (1500.0, -400.0)
KL_WEIGHT = 1e-6
VALIDATION_NODULES = 12
OURS, PEER, GROUP = "AutoencoderKL3D", "MONAI AutoencoderKL", "ours, group norm"
TRAINED = (OURS, PEER, GROUP)


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        data: Prepared dataset of crops.
        out: Folder for results.json, written anew after every stage.
        minutes: Training time of each contender.
        search_minutes: Training time of each candidate of the search; 0 takes the first of each list.
        learning_rates: Candidates.
        patches: Candidates, (edge, batch) joined as edge * 100 + batch: 3204 is four patches of 32³.
        slice_seconds: Time of one turn.
        curve_points: Evaluations on the test split during training.
        repeats: Measurements of each speed; their median counts.
        threads: CPU threads.
        device: "cpu" or "cuda".
        autocast: "no" or "bf16".
    """

    data: Path
    out: Path
    minutes: float = 10.0
    search_minutes: float = 1.5
    learning_rates: tuple[float, ...] = (1e-3, 3e-4, 3e-3)
    patches: tuple[int, ...] = (3204, 4801)
    slice_seconds: float = 10.0
    curve_points: int = 6
    repeats: int = 5
    threads: int = 1
    device: str = "cpu"
    autocast: str = "no"


def monai_network() -> nn.Module:
    """The peer at factor 4 with 4 latent channels."""
    return AutoencoderKL(
        spatial_dims=3,
        channels=(32, 64, 64),
        num_res_blocks=1,
        attention_levels=(False,) * 3,
        latent_channels=4,
        norm_num_groups=16,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    OURS: partial(AutoencoderKL3D, channels=(32, 96), blocks_per_level=1),
    PEER: monai_network,
    GROUP: partial(AutoencoderKL3D, channels=(32, 96), blocks_per_level=1, norm="group"),
    "ours, convolution stem": partial(AutoencoderKL3D, channels=(32, 96), blocks_per_level=1, stem="conv"),
}


def reconstruct(network: nn.Module, ct_norm: Tensor, noise: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(reconstruction, posterior mean, log-variance) of either network; a draw from the posterior, or its mean."""
    if isinstance(network, AutoencoderKL3D):
        drawn = torch.randn(network.latent_shape(ct_norm.shape), device=ct_norm.device) if noise else None
        return network(ct_norm, drawn)
    mean, std = network.encode(ct_norm)
    latent = network.sampling(mean, std) if noise else mean
    return network.decode(latent), mean, 2 * std.log()


@dataclass
class Contender:
    """One training with its own clock."""

    name: str
    network: nn.Module
    learning_rate: float
    patch: int
    seconds: float
    patches: NodulePatches
    elapsed: float = 0.0
    steps: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network.to(memory_format=torch.channels_last_3d)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), self.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.ema = EMAModel(self.network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
        self.order = np.random.default_rng(0)

    def run(self, until: float, config: Config) -> None:
        """Train until the own clock shows `until` seconds."""
        while self.elapsed < until:
            start = time.perf_counter()
            progress = self.elapsed / self.seconds
            rate = self.learning_rate * min(1.0, progress / 0.02 + 0.01) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._step(config)
            if config.device == "cuda":
                torch.cuda.synchronize()
            self.elapsed += time.perf_counter() - start

    def _step(self, config: Config) -> None:
        batch = self.patch % 100
        rows = self.order.integers(len(self.patches), size=batch)
        samples = [self.patches[(int(row), self.steps * batch + i)] for i, row in enumerate(rows)]
        ct_norm, valid = (torch.stack([s[key] for s in samples]).to(config.device) for key in ("ct_norm", "valid_mask"))
        with torch.autocast(config.device, torch.bfloat16, enabled=config.autocast == "bf16"):
            reconstruction, mean, logvar = reconstruct(self.network, ct_norm, noise=True)
        loss = l1_loss(reconstruction.float(), ct_norm, valid)
        loss = loss + KL_WEIGHT * kl_loss(mean.float(), logvar.float()) / ct_norm[0].numel()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())
        self.steps += 1

    @torch.no_grad()
    def psnr_db(self, crops: list[tuple[Tensor, Tensor]], device: str) -> float:
        """Mean PSNR of the averaged weights' reconstructions, dB; not on the clock."""
        network = copy.deepcopy(self.network).eval()
        self.ema.copy_to(network.parameters())
        values = []
        for ct_norm, valid in crops:
            output = reconstruct(network, ct_norm.to(device), noise=False)[0].clamp(-1, 1).cpu()
            values.append(psnr(output, ct_norm, 2.0, valid).item())
        return float(np.mean(values))


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "config": {key: str(value) for key, value in asdict(config).items()},
        "parameters": {name: sum(p.numel() for p in build().parameters()) for name, build in NETWORKS.items()},
        "speed": measure_speed(config),
    }
    save(results, config)
    patches = {patch: split_patches(config, patch) for patch in config.patches}
    train, validation = load_nodules(config.data, "train"), range(-VALIDATION_NODULES, 0)
    validation_crops = [crop(train, len(train) + i) for i in validation]
    results["test_openings"] = open_test_split(config.data, "test", "autoencoder_against_monai", results["config"])
    test = load_nodules(config.data, "test")
    test_crops = [crop(test, i) for i in range(len(test))]

    def contender(name: str, rate: float, patch: int, seconds: float, label: str | None = None) -> Contender:
        torch.manual_seed(0)
        return Contender(label or name, NETWORKS[name]().to(config.device), rate, patch, seconds, patches[patch])

    chosen = dict.fromkeys(TRAINED, (config.learning_rates[0], config.patches[0]))
    if config.search_minutes > 0:
        grid = list(product(TRAINED, config.learning_rates, config.patches))
        candidates = [contender(*choice, config.search_minutes * 60) for choice in grid]
        take_turns(candidates, config, lambda c: None)
        scores = {
            choice: c.psnr_db(validation_crops, config.device) for choice, c in zip(grid, candidates, strict=True)
        }
        for name in TRAINED:
            chosen[name] = max((c for c in grid if c[0] == name), key=lambda c: scores[c])[1:]
        results["search"] = [{"choice": c, "validation_psnr_db": score} for c, score in scores.items()]
        save(results, config)

    seconds = config.minutes * 60
    contenders = [contender(name, *chosen[name], seconds) for name in TRAINED]
    contenders.append(contender(OURS, *chosen[OURS], seconds / 3, "ours, a third of the time"))

    def record(c: Contender) -> None:
        c.curve.append((c.elapsed, c.psnr_db(test_crops, config.device)))
        results["training"] = [
            {"name": o.name, "learning_rate": o.learning_rate, "patch": o.patch, "steps": o.steps, "curve": o.curve}
            for o in contenders
        ]
        save(results, config)

    take_turns(contenders, config, record)
    print_tables(results)


def take_turns(contenders: list[Contender], config: Config, record: Callable[[Contender], None]) -> None:
    """Train all of them in turn to the end of their time; `record` is called at every point of their curves."""
    total = sum(c.seconds for c in contenders)
    with tqdm(total=round(total), unit="s", desc=f"{len(contenders)} trainings in turn") as bar:
        while any(c.elapsed < c.seconds for c in contenders):
            for c in contenders:
                if c.elapsed >= c.seconds:
                    continue
                point = int(c.elapsed / c.seconds * config.curve_points)
                c.run(min(c.seconds, c.elapsed + config.slice_seconds), config)
                if int(c.elapsed / c.seconds * config.curve_points) > point:
                    record(c)
                bar.n = round(sum(min(o.elapsed, o.seconds) for o in contenders))
                bar.refresh()


def split_patches(config: Config, patch: int) -> NodulePatches:
    """Patches of the training nodules without the last ones, which are for validation."""
    patches = NodulePatches(config.data, "train", patch // 100, WINDOW, seed=0)
    patches.nodules = patches.nodules.select(range(len(patches.nodules) - VALIDATION_NODULES))
    return patches


def crop(nodules, index: int) -> tuple[Tensor, Tensor]:
    """ct_norm and valid_mask of one nodule, (1, 1, S, S, S)."""
    nodule = read_nodule(nodules, index)
    ct_norm = to_norm(nodule["ct_hu"].astype(np.float32), *WINDOW)
    return tuple(torch.from_numpy(v)[None, None] for v in (ct_norm, nodule["valid_mask"].astype(np.float32)))


def measure_speed(config: Config) -> dict[str, dict[str, float]]:
    """Median seconds of a training step (four 32³), of encoding and decoding a 64³ volume, and peak MiB, by network."""
    tasks: dict[str, dict[str, Callable[[], object]]] = {}
    for name, build in NETWORKS.items():
        network = build().to(config.device, memory_format=torch.channels_last_3d)
        tasks[name] = speed_tasks(network, config)
    seconds: dict[tuple[str, str], list[float]] = {}
    for repeat in tqdm(range(config.repeats + 1), desc="speed"):
        for name, task in product(NETWORKS, ("train", "encode", "decode")):  # in turn: all meet the same machine
            start = time.perf_counter()
            tasks[name][task]()
            if config.device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds.setdefault((name, task), []).append(time.perf_counter() - start)
    speed = {name: {task: median(seconds[name, task]) for task in ("train", "encode", "decode")} for name in NETWORKS}
    context = multiprocessing.get_context("spawn")
    for name, task in product(NETWORKS, ("train", "encode", "decode")):
        with context.Pool(1) as pool:
            speed[name][f"{task}_peak_mib"] = pool.apply(peak_mib, (name, task, config))
    return speed


def speed_tasks(network: nn.Module, config: Config) -> dict[str, Callable[[], object]]:
    """One step of each kind, as a function to call."""
    patch, volume = (torch.rand(b, 1, s, s, s, device=config.device) * 2 - 1 for b, s in ((4, 32), (1, 64)))
    latent = torch.randn(1, 4, 16, 16, 16, device=config.device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    autocast = partial(torch.autocast, config.device, torch.bfloat16, enabled=config.autocast == "bf16")

    def train() -> None:
        with autocast():
            loss = l1_loss(reconstruct(network, patch, noise=True)[0].float(), patch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def without_gradient(act: Callable[[], object]) -> None:
        with torch.no_grad(), autocast():
            act()

    return {
        "train": train,
        "encode": partial(without_gradient, lambda: network.encode(volume)),
        "decode": partial(without_gradient, lambda: network.decode(latent)),
    }


def peak_mib(name: str, task: str, config: Config) -> float:
    """Memory that one task needs beyond the loaded network, in a process of its own."""
    torch.set_num_threads(config.threads)
    network = NETWORKS[name]().to(config.device, memory_format=torch.channels_last_3d)
    act = speed_tasks(network, config)[task]
    if config.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        act()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident_mib("VmRSS")
    act()
    return resident_mib("VmHWM") - before


def resident_mib(entry: str) -> float:
    """VmRSS (now) or VmHWM (highest so far) of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[entry].split()[0]) / 2**10


def save(results: dict[str, Any], config: Config) -> None:
    (config.out / "results.json").write_text(json.dumps(results, indent=1))


def print_tables(results: dict[str, Any]) -> None:
    """The tables, in Markdown."""
    ours = results["speed"][OURS]
    print(
        "\n| network | parameters | step, 4 × 32³ | encode 64³ | decode 64³ | peak: step, encode, decode |\n|"
        + "---|" * 6
    )
    for name, speed in results["speed"].items():
        times = [f"{speed[t] / ours[t]:.2f} × ({1000 * speed[t]:.0f} ms)" for t in ("train", "encode", "decode")]
        peaks = ", ".join(f"{speed[t + '_peak_mib']:.0f}" for t in ("train", "encode", "decode"))
        print(f"| {name} | {results['parameters'][name] / 1e6:.2f} M | {' | '.join(times)} | {peaks} MiB |")
    print("\n| training | learning rate | patches | minutes | steps | PSNR over its time, dB |\n|" + "---|" * 6)
    for row in results["training"]:
        curve = " / ".join(f"{db:.2f}" for _, db in row["curve"])
        edge, batch = divmod(row["patch"], 100)
        minutes = row["curve"][-1][0] / 60
        settings = f"{row['learning_rate']:g} | {batch} × {edge}³"
        print(f"| {row['name']} | {settings} | {minutes:.1f} | {row['steps']} | {curve} |")


if __name__ == "__main__":
    launch(main, parse_config(Config))
