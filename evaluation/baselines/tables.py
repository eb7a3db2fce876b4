"""What is measured of all sets together, and the tables: of lesions, or of whole crops."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoencoder.pretrained import resolve_folder
from diffusion import LesionInpaintPipeline
from evaluation.baselines.config import BaselinesConfig
from evaluation.baselines.methods import Method
from evaluation.baselines.sets import inpaint
from evaluation.lesions.lesion_sets import load_lesions
from evaluation.lesions.whole_crops import Networks, fidelity
from evaluation.networks.inception import load_inception, load_lpips
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.reports.baseline_table import Cost, baseline_blocks
from evaluation.reports.whole_crop_tables import whole_crop_blocks
from evaluation.script_checks import named_sources, optional_network
from foundation.atomic import recover, write_atomically
from foundation.command import run_script
from foundation.device import torch_device
from foundation.document import Block

ENCODER = ("latents_mean", "latents_std", "window_width", "window_level")  # what the latents depend on


def lesion_table(config: BaselinesConfig, costs: Mapping[str, Cost]) -> list[Block]:
    """Evaluate all methods together, and lay out the table of the texture-loss proposal."""
    compare(config, list(costs))
    report = json.loads((config.out / "report/report.json").read_text())
    return baseline_blocks(report, costs)


def compare(config: BaselinesConfig, names: list[str]) -> None:
    """Evaluate all methods together, unless the report there is of the same ones."""
    report = config.out / "report"
    wanted = {
        "real": config.data,
        "synthetic": ",".join(f"{name}={config.out / name / 'lesions'}" for name in names),
        "train": config.data,
        "real_split": config.split,
        "inception": config.inception,
        "lpips_backbone": "none",
        "seed": config.seed,
    }
    recover(report)
    if (report / "report.json").exists():
        made = json.loads((report / "report.json").read_text())["settings"]
        if all(made[name] == (str(value) if isinstance(value, Path) else value) for name, value in wanted.items()):
            return
    options = wanted | {"workers": config.workers, "threads": config.threads}
    write_atomically(report, lambda temporary: run_script("evaluate", options | {"out": temporary}))


def whole_crop_tables(config: BaselinesConfig, runs: Mapping[str, Method], costs: Mapping[str, Cost]) -> list[Block]:
    """Make the sets that need no training of their own, measure all, and lay out LSDM's tables."""
    plain = {name: str(run.out / "pipeline") for name, run in runs.items()}
    others = named_sources("--pipelines", config.pipelines or "", tuple(runs))
    usual: dict[str, Any] = {"steps": config.steps, "scheduler": config.scheduler, "time_shift": config.time_shift}
    notes: list[str] = []
    names = list(runs)
    for name, source in (plain | others).items():
        if name in others:
            usual["time_shift"] = None  # its own
            inpaint(config, name, source, usual)
            names.append(name)
        elif name == "ours" and config.guide is not None:
            source = guided_pipeline(config, runs["ours"])
        guide = LesionInpaintPipeline.from_pretrained(resolve_folder(source)).guide
        if guide is None:
            continue
        notes += [f"{name}: {one} is not guided, {why}" for one, why in guide.refused.items()]
        guided = tuple(one for one in guide.attributes if one not in guide.refused)
        for label, ratings in {**{one: (one,) for one in guided}, "guide": guided}.items():
            steered = {"own_ratings": ratings, "cfg_scale": 0.0}  # the guide alone
            inpaint(config, f"{name} + {label}", source, usual | steered)
            names.append(f"{name} + {label}")
    inception, no_inception = optional_network("FID", config.inception, load_inception)
    lpips, no_lpips = optional_network("LPIPS", config.lpips_backbone, load_lpips)
    real, left_out = load_lesions(config.data, config.split)
    sets = {name: config.out / name / "lesions" for name in names}
    networks = Networks(load_nodule_net(), inception, lpips, torch_device("auto"))
    found = fidelity(real, sets, config.split, networks, seed=config.seed)
    found.left_out[:0] = [*(note for note in (no_inception, no_lpips) if note), *notes, *left_out]
    content = json.dumps(asdict(found), indent=1, ensure_ascii=False)
    write_atomically(config.out / "figures.json", lambda temporary: temporary.write_text(content))
    return whole_crop_blocks(found, costs, names)


def guided_pipeline(config: BaselinesConfig, run: Method) -> str:
    """Folder of our method's pipeline with the guide of `--guide`.

    Raises: ValueError: If there is no guide, or it was trained on latents of another autoencoder.
    """
    assert config.guide is not None
    folder = config.out / "ours with guide"
    other = LesionInpaintPipeline.from_pretrained(resolve_folder(config.guide))
    if other.guide is None:
        raise ValueError(f"guide {config.guide}: this pipeline has none; train one with scripts/train_classifier.py")
    pipeline = LesionInpaintPipeline.from_pretrained(run.out / "pipeline", guide=other.guide)
    differing = [name for name in ENCODER if pipeline.vae.config[name] != other.vae.config[name]]
    if differing:
        raise ValueError(f"guide {config.guide}: {', '.join(differing)} of its autoencoder differ from --vae")
    if not folder.exists():
        write_atomically(folder, pipeline.save_pretrained)
    return str(folder)
