"""One command that checks a GPU: both trainings, resume, bf16, torch.compile, sampling, throughput, share of the peak.

    uv run tests/gpu/device_check.py                 # at most 8 minutes; prints one JSON object
    uv run tests/gpu/device_check.py --out FOLDER    # keeps what it makes, and the JSON as FOLDER/device_check.json

It makes its own data (a phantom), and needs neither SimpleITK nor pyradiomics nor a network. A part that fails says so
in its place, and the command then ends with status 1; a part for which no time is left is named as left out.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

from foundation.config import launch, parse_config


@dataclass(frozen=True)
class CheckConfig:
    """The check.

    Attributes:
        out: Folder for data and runs; null takes a temporary one.
        device: "cpu" tests the check itself; it wants --tiny true.
        tiny: Tiny models and crops, without the compiler.
        minutes: No part begins after this time.
        peak_tflops: Of the GPU in bf16, dense; 0 takes it from its name.
    """

    out: Path | None = None
    device: Literal["cuda", "cpu"] = "cuda"
    tiny: bool = False
    minutes: float = 6.5
    peak_tflops: float = 0.0


CONFIG = parse_config(CheckConfig) if __name__ == "__main__" else None

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from autoencoder.latent_dataset import read_latent
from autoencoder.loading import load_autoencoder
from benchmarks.speed.training_step import PEAK_TFLOPS
from diffusion import LesionInpaintPipeline, SPADEUNet3D
from diffusion.conditioning import condition_channels
from diffusion.option_types import TextureConfig
from diffusion.process import training_scheduler
from diffusion.stage_two import stage_two_of
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.phantom.chest import phantom_nodules
from scripts import encode_latents, train_ldm, train_vae
from training.checkpoint import read_progress
from training.data import LatentNodules
from training.draws import diffusion_draw

SAME_WEIGHTS = 1e-2  # of a tensor's norm: a GPU adds in another order each time; another draw would change more
SAME_IMAGE_HU = 20.0


class Check:
    """The parts, in their order; each returns what it found, and raises where something is wrong."""

    def __init__(self, config: CheckConfig, root: Path) -> None:
        self.config, self.root, tiny = config, root, config.tiny
        self.device = torch.device(config.device)
        self.crop, self.nodules, self.steps = (16, 18, 4) if tiny else (48, 36, 30)
        self.vae_model = {"channels": (4, 8), "blocks_per_level": 1} if tiny else {}
        unets = {"small": {"channels": (32, 64, 128), "blocks_per_level": 1}, "base": {}}
        self.unets = {"small": {"channels": (8, 16), "blocks_per_level": 1, "map_channels": 4}} if tiny else unets
        self.batches = (2,) if tiny else (8, 32)

    def data(self) -> dict[str, Any]:
        """A prepared dataset of phantom nodules."""
        spacing_mm = 32.0 / self.crop
        save_nodule_dataset(phantom_nodules(self.nodules, self.crop, spacing_mm), self.root / "nodules", self.crop)
        return {"nodules": self.nodules, "crop": self.crop}

    def train_vae(self) -> dict[str, Any]:
        """Stage 1, bf16, interrupted and continued beside an undisturbed run; then the dataset is encoded."""
        config = train_vae.VaeConfig(
            data=self.root / "nodules",
            out=self.root / "vae",
            model=train_vae.ModelConfig(**self.vae_model),
            patch_size=8 if self.config.tiny else 32,
            evaluate_crops=2,
            **self._short("bf16"),
        )
        found = self._resumed(train_vae.main, config, "model")
        encode_latents.main(
            encode_latents.EncodeConfig(
                self.root / "nodules", str(self.root / "vae/model"), self.root / "latents", device=self.config.device
            )
        )
        return found

    def train_ldm(self) -> dict[str, Any]:
        """Stage 2 in float32 and in bf16, each interrupted and continued beside an undisturbed run."""
        found = {}
        for precision in ("no", "bf16"):
            config = train_ldm.LdmConfig(
                data=self.root / "latents",
                vae=str(self.root / "vae/model"),
                out=self.root / f"ldm_{precision}",
                model=train_ldm.UNetConfig(**self.unets["small"]),
                evaluate_crops=2,
                evaluate_steps=2,
                gradient_accumulation_steps=2,
                **self._short(precision),
            )
            found[precision] = self._resumed(train_ldm.main, config, "pipeline")
        return found

    def sampling(self) -> dict[str, Any]:
        """Lesions a minute; the outside is untouched, twice the same is the same, and the CPU makes nearly the same."""
        nodule = read_nodule(load_nodules(self.root / "nodules", "train"), 0)
        ct_hu, mask = (torch.from_numpy(nodule[name])[None, None] for name in ("ct_hu", "lesion_mask"))
        count, made, seconds = (2 if self.config.tiny else 16), {}, 0.0
        for name, device in (("cpu", "cpu"), ("first", self.device), ("again", self.device)):
            pipeline = LesionInpaintPipeline.from_pretrained(self.root / "ldm_no/pipeline").to(device)
            pipeline.set_progress_bar_config(disable=True)
            shape, number = (-1, *ct_hu.shape[1:]), 1 if name == "cpu" else count
            generators = [torch.Generator().manual_seed(seed) for seed in range(number)]
            began = time.perf_counter()
            result = pipeline(
                ct_hu.expand(number, *shape[1:]),
                mask.expand(number, *shape[1:]),
                num_inference_steps=16,
                generator=generators,
            )
            made[name], seconds = result.ct.cpu(), time.perf_counter() - began
        outside = result.paint_mask.cpu().expand_as(made["first"]) == 0
        expect(torch.equal(made["first"][outside], ct_hu.expand_as(made["first"])[outside]), "the outside was changed")
        expect(torch.equal(made["first"], made["again"]), "the same seeds painted another image")
        difference_hu = float((made["first"][:1] - made["cpu"]).abs().max())
        expect(difference_hu < SAME_IMAGE_HU, f"{difference_hu:.3g} HU from the CPU's image")
        return {"lesions_per_minute": 60 * count / seconds, "batch": count, "hu_from_cpu": difference_hu}

    def throughput(self) -> dict[str, Any]:
        """Samples a second of stage 2's step, by size, batch and variant, and the share of the GPU's peak."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        peak = self.config.peak_tflops or next((value for key, value in PEAK_TFLOPS.items() if key in name), 0.0)
        rows = []
        for size, batch in ((size, batch) for size in self.unets for batch in self.batches):
            for variant in ("float32", "bf16", "bf16, torch.compile"):
                if out_of_time(self.config):
                    rows.append({"size": size, "batch": batch, "variant": variant, "left_out": "no time"})
                    continue
                rows.append({"size": size, "batch": batch, "variant": variant, **self._rate(size, batch, variant)})
                if peak and variant != "float32":
                    rows[-1]["share_of_peak"] = rows[-1]["tflops"] / peak
        return {"peak_tflops_bf16": peak or None, "rows": rows}

    def _rate(self, size: str, batch_size: int, variant: str) -> dict[str, float]:
        """Forward, backward and AdamW on one batch that lies on the device."""
        torch.manual_seed(0)
        vae = load_autoencoder(self.root / "vae/model").to(self.device).requires_grad_(False)
        latents = LatentNodules(self.root / "latents", "train")
        row, settings = read_latent(latents.latents, 0), vars(train_ldm.UNetConfig(**self.unets[size]))
        channels = condition_channels(row["blanked_latent"].shape[0], vae.factor)
        unet = SPADEUNet3D(row["latent_mean"].shape[0], channels, map_factor=vae.factor, **settings)
        model = stage_two_of(unet, TextureConfig()).to(self.device, memory_format=torch.channels_last_3d)
        scheduler = training_scheduler("v")
        batch = default_collate([latents[draw % len(latents), draw] for draw in range(batch_size)])
        batch = {key: value.to(self.device) for key, value in batch.items()}
        drawn = diffusion_draw(batch, scheduler.config["num_train_timesteps"], 0, self.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=variant != "float32"):
                loss = model(vae, scheduler, batch, *drawn)[0]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        with FlopCounterMode(display=False) as counter:
            first = step()
        if "compile" in variant:
            unet.compile(backend="eager" if self.config.tiny else "inductor")
        for _ in range(1 if self.config.tiny else 5):
            last = step()
        self._synchronise()
        began, steps = time.perf_counter(), 2 if self.config.tiny else 20
        for _ in range(steps):
            last = step()
        self._synchronise()
        seconds = (time.perf_counter() - began) / steps
        expect(bool(torch.isfinite(last)) and bool(last < first), f"loss from {first:g} to {last:g} on one batch")
        flops = counter.get_total_flops()
        return {"samples_per_second": batch_size / seconds, "tflops": flops / seconds / 1e12, "loss": float(last)}

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _short(self, precision: str) -> dict[str, Any]:
        every = dict.fromkeys(("steps", "evaluate_every"), self.steps)
        return every | {"batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2, "mixed_precision": precision}

    def _resumed(self, main: Callable[[Any], None], config: Any, name: str) -> dict[str, float]:
        """Train undisturbed, and in another folder in two parts; how far the weights are apart."""
        apart, other = 0.0, replace(config, out=config.out.with_name(config.out.name + "_resumed"))
        for run in (config, replace(other, max_minutes=0.0), other):
            AcceleratorState._reset_state(reset_partial_state=True)  # one process, several precisions
            main(run)
        AcceleratorState._reset_state(reset_partial_state=True)
        for file in sorted((config.out / name).rglob("*.safetensors")):
            mine, others = load_file(file), load_file(other.out / file.relative_to(config.out))
            for key, value in mine.items():
                expect(bool(torch.isfinite(value).all()), f"{file}: {key} is not finite")
                distance = (value - others[key]).double().norm() / value.double().norm().clamp_min(1e-6)
                apart = max(apart, float(distance))
        expect(apart < SAME_WEIGHTS, f"a continued run ends {apart:.3g} from the undisturbed one, of a tensor's norm")
        step, seconds = read_progress(config.out / "checkpoint")
        samples = step * config.batch_size * config.gradient_accumulation_steps
        return {"resumed_apart": apart, "steps": step, "samples_per_second": samples / seconds}


PARTS = ("data", "train_vae", "train_ldm", "sampling", "throughput")
STARTED = time.monotonic()


def expect(condition: bool, otherwise: str) -> None:
    """Raise RuntimeError with the sentence unless the condition holds."""
    if not condition:
        raise RuntimeError(otherwise)


def out_of_time(config: CheckConfig) -> bool:
    """Whether no further part may begin."""
    return time.monotonic() - STARTED > 60 * config.minutes


@contextmanager
def folder_of(config: CheckConfig) -> Iterator[Path]:
    """The folder to work in, made; a temporary one is removed."""
    root = config.out or Path(tempfile.mkdtemp(prefix="device_check_"))
    root.mkdir(parents=True, exist_ok=True)
    try:
        yield root
    finally:
        if config.out is None:
            shutil.rmtree(root, ignore_errors=True)


def main(config: CheckConfig) -> None:
    """Run the parts and print what they found."""
    if config.device == "cuda" and not torch.cuda.is_available():
        print("skipped: PyTorch finds no CUDA GPU on this machine; nothing was checked")
        return
    name = torch.cuda.get_device_name() if config.device == "cuda" else "cpu"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    with folder_of(config) as root:
        check = Check(config, root)
        for part in PARTS:
            if out_of_time(config):
                found[part] = {"left_out": "no time"}
                continue
            began = time.monotonic()
            try:
                found[part] = getattr(check, part)()
            except Exception as error:  # the other parts are looked at, too
                found[part] = {"failed": f"{type(error).__name__}: {error}"}
            found[part]["minutes"] = round((time.monotonic() - began) / 60, 2)
        text = json.dumps(found, indent=2)
        (root / "device_check.json").write_text(text)
    print(text)
    failed = [part for part in PARTS if "failed" in found[part]]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    launch(main, CONFIG)
