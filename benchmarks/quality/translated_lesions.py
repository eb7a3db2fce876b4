"""Does a lesion that was painted in one kind of CT and translated look like one that was painted in the other kind?

    uv run benchmarks/quality/translation.py --task kernel --data data/nodules --out runs/translation/kernel
    uv run benchmarks/quality/translated_lesions.py --task kernel --data data/nodules --models runs/translation/kernel \
        --out runs/translation/kernel_lesions

Kind A, a softer kernel or a lower dose, is simulated from the validation crops. The pipeline paints a lesion into each
crop of either kind, with the same mask, request and seed. The crops of kind A with their lesions are translated to kind
B by every trained method, by the linear filter, and not at all. The detector of `evaluation.lesions.detector` then
tells them from the lesions that were painted in kind B; 0.5 means that it cannot. Real lesions, which are
translated in the same way, stand beside them: what the detector sees in these is the translation's doing alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from diffusion import LesionInpaintPipeline
from evaluation.lesions.detector import Detection, detect
from evaluation.lesions.lesion_sets import Lesion
from evaluation.translation.methods import Method, load_translators, methods_of
from evaluation.translation.tasks import Simulation, Task
from foundation.atomic import write_atomically
from foundation.config import SHIPPED_PIPELINE, ExistingFolder, ModelSource, launch, parse_config
from foundation.threads import use_threads
from imaging.dataset.nodules import load_nodules, read_nodule


@dataclass(frozen=True)
class TranslatedLesions:
    """What to judge.

    Attributes:
        data: Prepared dataset at 1 mm, in crops of the pipeline's size.
        models: What benchmarks/quality/translation.py wrote for the task.
        out: Folder for figures.json and figures.md.
        task: "dose" or "kernel".
        pipeline: Paints the lesions.
        lesions: Validation crops, at most; by index.
        steps: Of the pipeline.
        samples: Samples of which means are judged beside single ones; 1 judges single ones alone.
        batch_size: Crops at a time.
        threads: CPU threads.
        seed: Of everything random.
    """

    data: ExistingFolder
    models: ExistingFolder
    out: Path
    task: Task = "kernel"
    pipeline: ModelSource = SHIPPED_PIPELINE
    lesions: int = 133
    steps: int = 16
    samples: int = 1
    batch_size: int = 4
    threads: int | None = None
    seed: int = 0


def main(config: TranslatedLesions) -> None:
    """Paint, translate, tell apart, write."""
    use_threads(config.threads)
    methods = methods_of(load_translators(config.models), "a_to_b", config.samples)
    rows = validation_rows(config)
    simulate = Simulation(config.task, config.seed + 1)
    real_b = [np.asarray(row["ct_hu"], np.float32) for row in rows]
    real_a = [simulate(volume) for volume in real_b]
    pipeline = LesionInpaintPipeline.from_pretrained(config.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    painted_a, painted_b = (painted(config, pipeline, rows, volumes) for volumes in (real_a, real_b))
    report: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        report[name] = {
            text: figures(name, rows, source, truth, method, config.seed)
            for text, source, truth in (("painted", painted_a, painted_b), ("real", real_a, real_b))
        }
    text = markdown(report)
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomically(config.out / "figures.json", lambda path: path.write_text(json.dumps(report, indent=1)))
    write_atomically(config.out / "figures.md", lambda path: path.write_text(text))
    print(text)


def validation_rows(config: TranslatedLesions) -> list[dict[str, Any]]:
    """The first validation crops."""
    dataset = load_nodules(config.data, "validation")
    return [read_nodule(dataset, index) for index in range(min(config.lesions, len(dataset)))]


def painted(
    config: TranslatedLesions,
    pipeline: LesionInpaintPipeline,
    rows: Sequence[dict[str, Any]],
    volumes: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """The crops with a lesion in each mask."""
    made: list[np.ndarray] = []
    for start in tqdm(range(0, len(rows), config.batch_size), desc="paint"):
        some = rows[start : start + config.batch_size]
        masks, valid = (
            torch.from_numpy(np.stack([np.asarray(row[name]) for row in some]))[:, None]
            for name in ("lesion_mask", "valid_mask")
        )
        result = pipeline(
            torch.from_numpy(np.stack(volumes[start : start + len(some)]))[:, None],
            masks,
            num_inference_steps=config.steps,
            generator=[torch.Generator().manual_seed(config.seed + start + number) for number in range(len(some))],
            valid_mask=valid,
        )
        made.extend(result.ct[:, 0].float().numpy())
    return made


def figures(
    name: str,
    rows: Sequence[dict[str, Any]],
    sources: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    method: Method,
    seed: int,
) -> dict[str, Any]:
    """The detector on translated lesions against those of kind B, and the error of their mean HU."""
    made = [
        method(torch.from_numpy(source)[None, None], number)[0, 0].numpy()
        for number, source in enumerate(tqdm(sources, desc=name))
    ]
    translated, expected = ([lesion_of(*pair) for pair in zip(rows, crops, strict=True)] for crops in (made, truths))
    found: Detection = detect(name, expected, translated, seed)
    means = np.array([[lesion.ct_hu[lesion.lesion_mask].mean() for lesion in one] for one in (translated, expected)])
    return {
        "auroc": found.auroc,
        "interval": [found.low, found.high],
        "telltales": dict(found.telltales[:3]),
        "lesion_hu": float(np.abs(means[0] - means[1]).mean()),
    }


def lesion_of(row: dict[str, Any], ct_hu: np.ndarray) -> Lesion:
    inside = np.asarray(row["lesion_mask"]) > 0
    valid = (np.asarray(row["valid_mask"]) > 0) | inside
    return Lesion(row["nodule_id"], row["patient_id"], ct_hu, inside, valid, tuple(map(float, row["spacing_mm"])))


def markdown(report: dict[str, dict[str, Any]]) -> str:
    """A row for each method."""
    lines = [
        "| method | detector, painted | error of mean HU | detector, real | error of mean HU | most telling, painted |",
        "|---|---|---:|---|---:|---|",
    ]
    for name, both in report.items():
        cells = []
        for one in (both["painted"], both["real"]):
            low, high = (np.nan if end is None else end for end in one["interval"])
            cells += [f"{one['auroc']:.2f} ({low:.2f} … {high:.2f})", f"{one['lesion_hu']:.1f}"]
        telling = ", ".join(f"{figure} {value:.2f}" for figure, value in both["painted"]["telltales"].items())
        lines.append(f"| {name} | {' | '.join(cells)} | {telling} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    launch(main, parse_config(TranslatedLesions))
