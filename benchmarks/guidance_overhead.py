"""What guidance costs: seconds of a pipeline's call unguided, guided on latents, on decoded crops, classifier-free.

    uv run benchmarks/guidance_overhead.py                                       # the shipped pipeline
    uv run benchmarks/guidance_overhead.py --pipeline runs/classifier/pipeline   # one with a guide of its own

A call inpaints one crop. Calls of the kinds alternate, so that other work on the machine meets all of them; the time is
that of the process over all its threads. To reach: guidance on latents at most 2.2 times an unguided call.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from tqdm.auto import tqdm

from diffusion import LesionInpaintPipeline
from foundation.config import SHIPPED_PIPELINE, ModelSource, launch, parse_config
from guidance import MultiClassifierGuidance, NoduleClassifier3D
from imaging.lesions.shapes import nodule_mask

CONFIGS = Path(__file__).parents[1] / "configs"
WISH = {"malignancy": "malignant"}
WISHES = {**WISH, "lobulation": 3, "spiculation": 4, "texture": 2}
TO_REACH = 2.2


@dataclass(frozen=True)
class GuidanceConfig:
    """What to measure.

    Attributes:
        pipeline: Folder, repository or shipped name of a pipeline. If it has a guide on latents, that is the one; else
            guides are those of configs/classifier.yaml with random weights.
        crop_size: Edge of the crop, voxels.
        steps: Denoising steps of a call.
        repeats: Calls of each kind, after one to warm up; their median counts.
        threads: CPU threads.
    """

    pipeline: ModelSource = SHIPPED_PIPELINE
    crop_size: int = 48
    steps: int = 16
    repeats: int = 5
    threads: int = 2


def main(config: GuidanceConfig) -> None:
    """Measure and print the table."""
    torch.set_num_threads(config.threads)
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
        kinds[f"{space}, malignancy"] = (guide, {"attributes": WISH})
        kinds[f"{space}, all four"] = (guide, {"attributes": WISHES})
    if pipe.unet.config["attributes"]:
        kinds["classifier-free"] = (None, {"attributes": WISH, "cfg_scale": 2.0})
        kinds["classifier-free and latent, malignancy"] = (latent, {"attributes": WISH, "cfg_scale": 2.0})
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat in tqdm(range(config.repeats + 1), desc="calls of each kind"):
        for name, (guide, options) in kinds.items():
            pipe.register_modules(guide=guide)
            started = time.process_time()
            pipe(ct_hu, mask, num_inference_steps=config.steps if repeat else 2, guidance_range=(0, 1), **options)
            if repeat:
                times[name].append(time.process_time() - started)
    base = median(times["unguided"])
    print(f"\n{config.steps} steps, all of them guided, {config.crop_size}^3, {config.threads} thread(s)\n")
    print("| call | CPU s, median (min ... max) | × unguided |\n|---|---|---|")
    for name, seconds in times.items():
        spread = f"{min(seconds):.2f} ... {max(seconds):.2f}"
        print(f"| {name} | {median(seconds):.2f} ({spread}) | {median(seconds) / base:.2f} |")
    ratio = median(times["latent, malignancy"]) / base
    print(f"\nguidance on latents: {ratio:.2f} ×, {'reached' if ratio <= TO_REACH else 'missed'} (at most {TO_REACH})")


def guide_of(space: str, pipe: LesionInpaintPipeline) -> MultiClassifierGuidance:
    """The classifier of configs/classifier.yaml with random weights, on latents or on decoded crops."""
    settings = yaml.safe_load((CONFIGS / "classifier.yaml").read_text())
    heads = {"classes": {"malignancy": ["benign", "malignant"]}, "regressions": list(WISHES)[1:]}
    channels = pipe.unet.config["latent_channels"]
    classifier = NoduleClassifier3D(**heads, **{**settings["model"], "space": space}, latent_channels=channels)
    return MultiClassifierGuidance.of([classifier])


def decodes(guide: MultiClassifierGuidance) -> bool:
    """Whether a guide looks at decoded crops."""
    return any(config["space"] == "decoded" for config in guide.config["classifiers"])


if __name__ == "__main__":
    launch(main, parse_config(GuidanceConfig))
