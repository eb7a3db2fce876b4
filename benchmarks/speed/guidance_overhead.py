"""What guidance costs: a pipeline's call unguided, guided on latents, on decoded crops, classifier-free, by HU.

    uv run benchmarks/speed/guidance_overhead.py                                       # the shipped pipeline
    uv run benchmarks/speed/guidance_overhead.py --pipeline runs/classifier/pipeline   # one with a guide of its own

A call inpaints one crop. Every round has a call of each kind, one after the other in turning order, and a ratio is
taken within its round, so that other work on the machine meets all kinds alike. The time is that of the process, one
thread: several would wait for one another. To reach: guidance on latents at most 2.2 times an unguided call.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm.auto import tqdm

from diffusion import LesionInpaintPipeline
from foundation.config import SHIPPED_PIPELINE, ModelSource, launch, parse_config
from guidance import MultiClassifierGuidance, NoduleClassifier3D
from imaging.lesions.shapes import nodule_mask

CONFIGS = Path(__file__).parents[2] / "configs"
REQUEST = {"malignancy": "malignant"}
REQUESTABLE = {**REQUEST, "lobulation": 3, "spiculation": 4, "texture": 2}
TO_REACH = 2.2


@dataclass(frozen=True)
class GuidanceConfig:
    """What to measure.

    Attributes:
        pipeline: Folder, repository or shipped name of a pipeline. If it has a guide on latents, that is the one; else
            guides are those of configs/classifier.yaml with random weights.
        crop_size: Edge of the crop, voxels.
        steps: Denoising steps of a call.
        repeats: Rounds, after one to warm up; the median counts.
    """

    pipeline: ModelSource = SHIPPED_PIPELINE
    crop_size: int = 48
    steps: int = 16
    repeats: int = 9

    def __post_init__(self) -> None:
        if self.steps < 1 or self.repeats < 1:
            raise ValueError(f"steps {self.steps}, repeats {self.repeats}: expected at least 1 of each")


def main(config: GuidanceConfig) -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pipe = LesionInpaintPipeline.from_pretrained(config.pipeline)
    pipe.set_progress_bar_config(disable=True)
    latent = pipe.guide if pipe.guide is not None and not decodes(pipe.guide) else guide_of("latent", pipe)
    guides = {"latent": latent, "decoded": guide_of("decoded", pipe)}
    size = (config.crop_size,) * 3
    mask = torch.from_numpy(nodule_mask(size, (1.0, 1.0, 1.0), [edge / 2 for edge in size], 12.0, seed=0))[None, None]
    ct_hu = torch.randint(-1000, 100, (1, 1, *size)).float()
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {"unguided": (None, {})}
    for space, guide in guides.items():
        guide.allow(*guide.attributes)
        kinds[f"{space}, malignancy"] = (guide, {"attributes": REQUEST})
        kinds[f"{space}, all four"] = (guide, {"attributes": REQUESTABLE})
    if pipe.unet.config["attributes"]:
        kinds["classifier-free"] = (None, {"attributes": REQUEST, "cfg_scale": 2.0})
        kinds["classifier-free and latent, malignancy"] = (latent, {"attributes": REQUEST, "cfg_scale": 2.0})
    if "mean_hu" in pipe.unet.config["attributes"]:
        kinds["HU met, mean HU"] = (None, {"attributes": {"mean_hu": -450}})
    times: dict[str, list[float]] = {name: [] for name in kinds}
    names = list(kinds)
    for repeat in tqdm(range(config.repeats + 1), desc="rounds"):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            guide, options = kinds[name]
            pipe.register_modules(guide=guide)
            started = time.process_time()
            steps = config.steps if repeat else 2
            pipe(ct_hu, mask, num_inference_steps=steps, guidance_range=(0, 1), draw_appearance=False, **options)
            if repeat:
                times[name].append(time.process_time() - started)
    ratios = {name: np.array(seconds) / times["unguided"] for name, seconds in times.items()}
    print(f"\n{config.steps} steps, all of them guided, {config.crop_size}^3, one thread, {config.repeats} rounds\n")
    print("| call | CPU s, median | × unguided, median (min … max) |\n|---|---:|---:|")
    for name, seconds in times.items():
        spread = f"{np.median(ratios[name]):.2f} ({ratios[name].min():.2f} … {ratios[name].max():.2f})"
        print(f"| {name} | {np.median(seconds):.2f} | {spread} |")
    for name in ("latent, malignancy", "latent, all four"):
        reached = "reached" if np.median(ratios[name]) <= TO_REACH else "missed"
        print(f"\n{name}: {np.median(ratios[name]):.2f} ×, {reached} (at most {TO_REACH})")


def guide_of(space: str, pipe: LesionInpaintPipeline) -> MultiClassifierGuidance:
    """The classifier of configs/classifier.yaml with random weights, on latents or on decoded crops."""
    settings = yaml.safe_load((CONFIGS / "classifier.yaml").read_text())
    heads = {"classes": {"malignancy": ["benign", "malignant"]}, "regressions": list(REQUESTABLE)[1:]}
    channels = pipe.unet.config["latent_channels"]
    classifier = NoduleClassifier3D(**heads, **{**settings["model"], "space": space}, latent_channels=channels)
    return MultiClassifierGuidance.of([classifier])


def decodes(guide: MultiClassifierGuidance) -> bool:
    """Whether a guide looks at decoded crops."""
    return any(config["space"] == "decoded" for config in guide.config["classifiers"])


if __name__ == "__main__":
    launch(main, parse_config(GuidanceConfig))
