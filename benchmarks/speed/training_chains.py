"""The chains of training steps that benchmarks/speed/training_step.py measures: each in a process of its own, in turns.

That benchmark starts them; there is nothing to start by hand. *ours* is scripts/train_ldm.py itself, with its clock
read between the parts of a step. *monai* is the loop that a user of MONAI writes: `CacheDataset` of dictionaries,
`DataLoader`, the frozen autoencoder without gradients in every step (as MONAI's `LatentDiffusionInferer` does), the
same network on the same conditions, mean squared error, `torch.optim.AdamW`. It does less than ours, which also clips
gradients, averages weights, weighs the loss by regions and keeps logs. *monai_latents* is that loop on posteriors that
were stored.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import monai
import numpy as np
import torch
from accelerate.utils import set_seed
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, RandFlipd, ScaleIntensityRanged
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.latents import standardise
from autoencoder.loading import load_autoencoder
from diffusion import SPADEUNet3D
from diffusion.conditioning import blank, condition_channels, condition_of
from diffusion.process import add_noise, target_of, training_scheduler
from foundation.command import run_script, script_settings
from foundation.config import ExistingFolder, ModelSource, launch, parse_config
from foundation.device import torch_device
from foundation.threads import use_threads
from training import draws, run
from training.run import TrainingRun

ROOT = Path(__file__).parents[2]
SIZES: dict[str, dict[str, Any]] = {
    "small": {},
    "base": {"model.channels": (64, 128, 192), "model.blocks_per_level": 2},
}
MASKS = ("lesion_mask", "paint_mask", "valid_mask", "semantic_map")
STORED = ("latent_mean", "latent_std", "blanked_latent")
MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class ChainConfig:
    """One chain.

    Attributes:
        chain: Which.
        turns: Folder in which turns are requested and answered.
        asker: Process that asks; when it is gone, so is this one.
        latents: Encoded dataset, which holds the crops as well.
        vae: Autoencoder.
        size: "small" is the U-Net of configs/ldm.yaml, "base" has the defaults of train_ldm.
        batch: Samples per step and process.
        steps: Of a turn.
        warmup: Steps before the first turn.
        workers: Loader processes.
        crops: Rows that MONAI's cache holds.
        precision: Of autocast.
        compile: Whether torch.compile takes the U-Net.
        channels_last: Whether our weights lie channels-last, as TrainingRun lays them.
    """

    chain: Literal["ours", "monai", "monai_latents"]
    turns: Path
    asker: int
    latents: ExistingFolder
    vae: ModelSource
    size: Literal["small", "base"] = "small"
    batch: int = 8
    steps: int = 5
    warmup: int = 3
    workers: int = 0
    crops: int = 256
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    channels_last: bool = True


class Turns:
    """Counts steps and the seconds of their parts; waits for the word before each turn and answers after it."""

    def __init__(self, config: ChainConfig) -> None:
        self.config, self.step, self.flops = config, -config.warmup, 0
        self.parts: dict[str, float] = defaultdict(float)
        self.started = self.last = time.perf_counter()
        self.speaks = int(os.environ.get("RANK", "0")) == 0  # another process waits for this one's gradients

    def mark(self, part: str) -> None:
        """What has passed since the last mark was this part of a step."""
        now = time.perf_counter()
        self.parts[part] += now - self.last
        self.last = now

    def end_step(self) -> None:
        """After every step."""
        self.step += 1
        if not self.speaks or self.step < 0 or self.step % self.config.steps:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        turn = self.step // self.config.steps
        if turn == 0:
            answer: dict[str, Any] = {"flops": self.flops, "threads": torch.get_num_threads()}
            answer["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        else:
            answer = {"seconds": time.perf_counter() - self.started, "parts": dict(self.parts)}
        part = self.config.turns / "part.json"
        part.write_text(json.dumps(answer))
        part.rename(self.config.turns / f"done_{turn}.json")
        self._wait(self.config.turns / f"go_{turn + 1}")
        self.parts.clear()
        self.started = self.last = time.perf_counter()

    def _wait(self, word: Path) -> None:
        while not word.exists():
            try:
                os.kill(self.config.asker, 0)  # no signal, but an error where there is no such process
            except ProcessLookupError:
                raise SystemExit("nobody asks for turns any more") from None
            if not self.config.turns.is_dir():
                raise SystemExit("no more turns")
            time.sleep(0.01)


def ours(config: ChainConfig, turns: Turns) -> None:
    """scripts/train_ldm.py, with marks; its FLOPs are counted in the last step of the warm-up."""
    counter = FlopCounterMode(display=False)

    class MeasuredRun(TrainingRun):
        def prepare(self, model: nn.Module, *arguments: Any) -> None:
            if config.compile:
                model.unet.compile()
            super().prepare(model, *arguments)
            backward = self.accelerator.backward

            def marked_backward(loss: Tensor) -> None:
                turns.mark("forward")
                backward(loss)
                turns.mark("backward")

            self.accelerator.backward = marked_backward
            if not config.channels_last:
                for tensor in (*self.model.parameters(), *self.ema.shadow_params):
                    tensor.data = tensor.data.contiguous()

        def batches(self, *arguments: Any) -> Iterator[Any]:
            for batch in super().batches(*arguments):
                turns.mark("data")
                if turns.step == -1 and not config.compile:
                    counter.__enter__()
                yield batch

        def update(self, *arguments: Any) -> None:
            super().update(*arguments)
            if turns.step == -1 and not config.compile:
                counter.__exit__(None, None, None)
                turns.flops = counter.get_total_flops()
            turns.mark("optimiser")
            turns.end_step()

    draw = draws.diffusion_draw

    def marked_draw(*arguments: Any) -> Any:
        drawn = draw(*arguments)
        turns.mark("draw")
        return drawn

    run.TrainingRun, draws.diffusion_draw = MeasuredRun, marked_draw  # where the script takes them from
    run_script("train_ldm", ldm_options(config))


def ldm_options(config: ChainConfig) -> dict[str, Any]:
    """configs/ldm.yaml on these data, without end, evaluation and checkpoints."""
    return {
        "config": ROOT / "configs/ldm.yaml",
        **SIZES[config.size],
        "data": config.latents,
        "vae": config.vae,
        "out": config.turns / "run",
        "batch_size": config.batch,
        "workers": config.workers,
        "mixed_precision": config.precision,
        **dict.fromkeys(("steps", "evaluate_every", "checkpoint_every"), MOST_STEPS),
    }


def monai_loop(config: ChainConfig, turns: Turns) -> None:
    """A plain PyTorch loop over MONAI's dataset, of images or of stored posteriors."""
    set_seed(0)
    use_threads()
    monai.data.set_track_meta(False)  # faster than MONAI's default
    device = torch_device("auto")
    vae = load_autoencoder(config.vae).to(device).requires_grad_(False)
    model, channels = script_settings("train_ldm", ldm_options(config))["model"], vae.config["latent_channels"]
    unet = SPADEUNet3D(channels, condition_channels(channels, vae.factor), map_factor=vae.factor, **model)
    unet.to(device)
    labels = "lesion_mask" if model["num_labels"] == 2 else "semantic_map"
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    scheduler = training_scheduler("v")
    names = ("ct_norm",) if config.chain == "monai" else STORED
    dataset = monai.data.CacheDataset(
        rows_of(config, model["attributes"], names), transform(names, vae), progress=False
    )
    loader = monai.data.DataLoader(dataset, batch_size=config.batch, shuffle=True, num_workers=config.workers)
    while True:
        for batch in loader:
            batch = {name: value.to(device) for name, value in batch.items()}
            turns.mark("data")
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                mean, std, blanked = (
                    encoded(batch, vae) if config.chain == "monai" else [batch[name] for name in STORED]
                )
                x0 = mean + std * torch.randn_like(mean)
                noise, t = torch.randn_like(x0), torch.randint(1000, (len(x0),), device=device)
                turns.mark("draw")
                condition = condition_of(blanked, *(batch[name] for name in MASKS[:3]), vae.factor)
                noisy = torch.cat([add_noise(scheduler, x0, noise, t), condition], dim=1)
                output = unet(noisy, t, batch[labels], attributes=batch.get("attributes")).sample
                loss = F.mse_loss(output.float(), target_of(scheduler, x0, noise, t))
            turns.mark("forward")
            loss.backward()
            turns.mark("backward")
            optimizer.step()
            optimizer.zero_grad()
            turns.mark("optimiser")
            turns.end_step()


@torch.no_grad()
def encoded(batch: dict[str, Tensor], vae: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior's mean and standard deviation, and the mean of the blanked CT's, standardised."""
    both = torch.cat([batch["ct_norm"], blank(batch["ct_norm"], batch["paint_mask"])])
    posterior = vae.encode(both).latent_dist
    mean, blanked = standardise(posterior.mean, vae.config).chunk(2)
    scale = torch.tensor(vae.config["latents_std"], device=mean.device).view(1, -1, 1, 1, 1)
    return mean, posterior.std[: len(mean)] / scale, blanked


def rows_of(config: ChainConfig, attributes: Sequence[str], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The dictionaries that MONAI's dataset is made of: CT or posteriors, masks, attributes, as arrays."""
    latents, rows = load_latents(config.latents, "train"), []
    for index in range(min(config.crops, len(latents))):
        row = read_latent(latents, index)
        row["ct_norm"] = row["ct_hu"].astype(np.float32)  # scaled by the transform
        rows.append({name: row[name] for name in (*names, *MASKS)})
        if attributes:
            rows[-1]["attributes"] = np.array([row[name] for name in attributes], np.float32)
    return rows


def transform(names: tuple[str, ...], vae: Any) -> Compose:
    """CT scaled to the window and flipped at random with its masks; what is not random is done once, for the cache."""
    if names == STORED:
        return Compose([EnsureChannelFirstd(MASKS, channel_dim="no_channel"), EnsureTyped(names)])
    width, level = vae.config["window_width"], vae.config["window_level"]
    arrays = (*names, *MASKS)
    return Compose(
        [
            EnsureChannelFirstd(arrays, channel_dim="no_channel"),
            ScaleIntensityRanged(names, level - width / 2, level + width / 2, -1.0, 1.0, clip=True),
            *[RandFlipd(arrays, prob=0.5, spatial_axis=axis) for axis in range(3)],
        ]
    )


def main(config: ChainConfig) -> None:
    """Run the chain until nobody asks any more."""
    turns = Turns(config)
    (ours if config.chain == "ours" else monai_loop)(config, turns)


if __name__ == "__main__":
    launch(main, parse_config(ChainConfig))
