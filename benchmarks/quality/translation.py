"""Unpaired translation where the truth is known: SynDiff, CycleGAN, DDPM, a linear filter, and no translation.

    uv run benchmarks/quality/translation.py --task dose --data data/nodules --out runs/translation/dose
    uv run benchmarks/quality/translation.py --task kernel --data data/nodules --out runs/translation/kernel

One kind of CT is simulated from real crops (`evaluation.translation.tasks`): a lower dose, or a softer kernel. The
training patients are halved; one half gives kind A, the other kind B. Each method is trained from these unpaired sets
with networks of one size, for the steps that take about the same CPU time. Then the validation crops, which are known
in both kinds, are translated and compared with the truth. A trained model in --out is not trained again.

All three trained methods begin at the same linear filter (`diffusion.spectral_filters`). The CycleGAN is the
non-diffusive half by itself, without noise, with ten times the ℓ1 of the cycle in `ct_norm`, as Zhu et al. 2017 have.
The DDPM learns from the pairs of the same non-diffusive half, as SynDiff's baseline of this name does, with a squared
error and a cosine schedule in place of the adversary, and is sampled in 16 steps.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from diffusion.translator import Direction, Translator
from evaluation.reports.slices import save_slices
from evaluation.translation.figures import figures, markdown
from evaluation.translation.methods import FOLDER, LINEAR, Method, load_translators, methods_of
from evaluation.translation.tasks import KINDS, Case, Task, held_out, save_unpaired
from foundation.atomic import write_atomically
from foundation.command import run_script
from foundation.config import ExistingFolder, launch, parse_config
from imaging.dataset.nodules import load_nodules
from imaging.dataset.scan_volumes import open_scans
from imaging.window import to_norm
from training.scan_patches import fitted_filters

CONFIG = Path(__file__).parents[2] / "configs/translation.yaml"
OPTIONS: dict[str, dict[str, Any]] = {
    "syndiff": {"process": "syndiff"},
    "ddpm": {"process": "ddpm", "calls": 16},
    "cyclegan": {"process": "cyclegan", "calls": 1, "losses.cycle": 10.0, "learning_rate": 1e-4},
}
RESIDUAL_HU = {"dose": 40, "kernel": 8}  # what the linear filter leaves
SHOWN = 4  # crops in a picture


@dataclass(frozen=True)
class TranslationBenchmark:
    """What to judge.

    Attributes:
        data: Prepared dataset at 1 mm.
        out: Folder for the sets, the runs, figures.json, figures.md and pictures.
        task: "dose" or "kernel".
        methods: Which of "syndiff", "ddpm" and "cyclegan" to train and judge.
        steps: Of SynDiff and of DDPM.
        cyclegan_steps: A step has fewer networks.
        samples: Samples of which means are judged beside single ones.
        threads: CPU threads.
        seed: Of everything random.
    """

    data: ExistingFolder
    out: Path
    task: Task = "dose"
    methods: tuple[str, ...] = ("syndiff", "ddpm", "cyclegan")
    steps: int = 200
    cyclegan_steps: int = 310
    samples: int = 4
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(OPTIONS))
        if unknown:
            raise ValueError(f"methods {', '.join(unknown)}: expected some of {', '.join(OPTIONS)}")


def main(config: TranslationBenchmark) -> None:
    """Simulate, train, judge, write."""
    save_unpaired(config.data, config.out, config.task, config.seed)
    save_linear(config)
    for name in config.methods:
        train(config, name)
    known = load_translators(config.out)
    models = {name: known[name] for name in (LINEAR, *config.methods)}
    cases = held_out(config.data, config.task, config.seed)
    spacing = float(load_nodules(config.data, "validation")[0]["spacing_mm"][0])
    report: dict[str, dict] = {}
    text = ""
    directions: tuple[Direction, ...] = ("a_to_b", "b_to_a") if config.task == "kernel" else ("a_to_b",)
    for direction in directions:  # there is no true noise of a low dose
        kinds = KINDS[config.task] if direction == "a_to_b" else KINDS[config.task][::-1]
        title = " to ".join(kind.replace("_", " ") for kind in kinds)
        made = {
            name: volumes(cases, direction, method)
            for name, method in methods_of(models, direction, config.samples).items()
        }
        results = {
            name: [judged(case, volume, direction, spacing) for case, volume in zip(cases, translated, strict=True)]
            for name, translated in made.items()
        }
        report[title] = results
        text += f"## {title}, {len(cases)} crops\n\n{markdown(results, list(results)[-1])}\n"
        save_pictures(config.out / f"{direction}.png", cases, made, direction)
    write_atomically(config.out / "figures.json", lambda path: path.write_text(json.dumps(report, indent=1)))
    write_atomically(config.out / "figures.md", lambda path: path.write_text(text))
    print(text)


def save_linear(config: TranslationBenchmark) -> None:
    """The linear filter of the unpaired sets, as a translator whose networks add nothing."""
    scans = [open_scans(config.out / kind) for kind in "ab"]
    linear = Translator("cyclegan")
    for direction, filters in fitted_filters(scans, config.task).items():
        getattr(linear, f"filter_{direction}").copy_(filters.expected)
    linear.save_pretrained(config.out / LINEAR / FOLDER)


def train(config: TranslationBenchmark, name: str) -> None:
    """Train a method if it is not there."""
    folder = config.out / name
    if (folder / FOLDER).exists():
        return
    kind_a, kind_b = KINDS[config.task]
    steps = config.cyclegan_steps if name == "cyclegan" else config.steps
    options = {
        "config": CONFIG,
        "data": config.out / "a",
        "other": config.out / "b",
        "out": folder,
        "difference": config.task,
        "kind_a": kind_a,
        "kind_b": kind_b,
        "residual_hu": RESIDUAL_HU[config.task],
        "steps": steps,
        "evaluate_every": steps,
        "threads": config.threads,
        "seed": config.seed,
    }
    run_script("train_translation", options | OPTIONS[name])


def volumes(cases: list[Case], direction: Direction, method: Method) -> list[np.ndarray]:
    """Translated crops, HU."""
    sources = [case.kinds[0 if direction == "a_to_b" else 1] for case in cases]
    return [
        method(torch.from_numpy(source)[None, None], number)[0, 0].numpy()
        for number, source in enumerate(tqdm(sources, desc="translate"))
    ]


def judged(case: Case, made: np.ndarray, direction: Direction, spacing_mm: float) -> dict[str, float]:
    """Figures of one crop."""
    return figures(made, truth_of(case, direction), case.lesion_mask, case.valid_mask, spacing_mm)


def save_pictures(path: Path, cases: list[Case], made: dict[str, list[np.ndarray]], direction: Direction) -> None:
    """The first crops by every method beside the truth."""
    rows = [
        tuple(to_norm(volume) for volume in (*(one[number] for one in made.values()), truth_of(case, direction)))
        for number, case in enumerate(cases[:SHOWN])
    ]
    save_slices(path, rows, [*made, "truth"])


def truth_of(case: Case, direction: Direction) -> np.ndarray:
    return case.kinds[1 if direction == "a_to_b" else 0]


if __name__ == "__main__":
    launch(main, parse_config(TranslationBenchmark))
