"""The lesions of each method, made once, and the time that one takes."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusion.sampling.loading import load_pipeline
from evaluation.baselines.config import BaselinesConfig
from evaluation.baselines.methods import Method
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import load_and_make_set, paint_batch
from evaluation.reports.baseline_table import Cost
from foundation.atomic import recover, write_atomically
from foundation.claimed_folder import claim_file
from imaging.dataset.nodules import load_nodules


def sampling_of(config: BaselinesConfig, method: Method) -> dict[str, Any]:
    """Network calls for a lesion, and the sampler: a GAN's one step is the training scheduler's."""
    if method.settings["objective"] == "gan":
        return {"steps": 1, "scheduler": "default"}
    return {"steps": config.steps, "scheduler": config.scheduler, "time_shift": config.time_shift}


def claim_sampling(config: BaselinesConfig, name: str, options: Mapping[str, Any]) -> None:
    """Check or write down what the lesions of a set depend on, the weights apart."""
    folder = config.out / name
    settings: dict[str, Any] = {name: getattr(config, name) for name in ("split", "lesions", "batch_size", "seed")}
    settings |= {"data": str(config.data), **options}
    made = f"{folder / 'lesions'}, {folder / '.lesions.lesions'} and {folder / 'sampling.json'}"
    claim_file(folder / "sampling.json", settings, made)


def inpaint(config: BaselinesConfig, name: str, pipeline: str, options: Mapping[str, Any]) -> None:
    """Paint a lesion into every mask, or make its whole crop, and measure how long one takes.

    Args:
        config: Of the comparison.
        name: Of the set.
        pipeline: What paints.
        options: How, of `SyntheticSetConfig`.
    """
    folder = config.out / name
    sampling = SyntheticSetConfig(
        data=config.data,
        pipeline=pipeline,
        out=folder / "lesions",
        split=config.split,
        lesions=config.lesions,
        site="whole" if config.task == "whole" else "own",
        batch_size=config.batch_size,
        seed=config.seed,
        **options,
    )
    recover(sampling.out)
    if not sampling.out.exists():
        claim_sampling(config, name, options)
        (config.out / "report/report.json").unlink(missing_ok=True)  # it is of other lesions
        load_and_make_set(sampling)
    timing = folder / "timing.json"
    if not timing.exists():
        seconds = seconds_per_lesion(sampling)
        write_atomically(timing, lambda temporary: temporary.write_text(json.dumps({"seconds_per_lesion": seconds})))


def seconds_per_lesion(sampling: SyntheticSetConfig) -> float:
    """Wall-clock of painting the first lesion alone, everything loaded."""
    pipeline, _ = load_pipeline(sampling)
    pipeline.set_progress_bar_config(disable=True)
    nodules = load_nodules(sampling.data, sampling.split)
    seconds = math.nan
    for steps in (1, sampling.steps):  # the first call makes ready what the second finds
        begun = time.monotonic()
        paint_batch(pipeline, nodules, [(0, 0)], replace(sampling, steps=steps))
        seconds = time.monotonic() - begun
    return seconds


def cost_of(config: BaselinesConfig, name: str, run: Method, progress: tuple[int, float]) -> Cost:
    """What a finished method took; `progress` are the steps and seconds of its training."""
    steps, seconds = progress
    lesion = json.loads((config.out / name / "timing.json").read_text())["seconds_per_lesion"]
    return Cost(steps, run.options["steps"], seconds / 60, sampling_of(config, run)["steps"], lesion)
