"""The table of methods: each pipeline between what its autoencoder alone allows and what a blur of real lesions has.

    uv run benchmarks/quality/lesion_table.py --data data/joined --split test --samples 3 --out runs/table \
        --pipelines ours=lung-nodule-small,gabor=runs/ablation/gabor/pipeline

Distances are ratios to real vs real in the same patient-wise splits, 1 for a perfect generator. The ceiling is each
real lesion encoded and decoded in its place, the floor a Gaussian blur of it: both are copies of the real lesion, so
what they lose is texture alone. Tests are paired over lesions, each method against the first. The same command goes on.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from autoencoder.identity import IdentityAutoencoder
from diffusion.sampling.loading import load_pipeline
from evaluation.autoencoders.matched_blur import blur_valid
from evaluation.autoencoders.reconstruction import reconstruct
from evaluation.image_quality import mse
from evaluation.lesions.detector import are_enough, detect, paired_by_mask
from evaluation.lesions.features import Features, measure_features
from evaluation.lesions.lesion_sets import Lesion, load_lesions, match_pairs
from evaluation.lesions.memorisation import check_memorisation
from evaluation.lesions.method_tests import method_tests
from evaluation.lesions.openings import open_test_split
from evaluation.lesions.set_comparison import SetMetric, distance_rows, set_metrics
from evaluation.lesions.spreads import spread_rows
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import load_and_make_set, paint_batch, synthetic_row
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.reports.lesion_report import number, spread_table
from evaluation.script_checks import named_sources
from foundation.atomic import write_atomically
from foundation.config import ExistingFolder, MustExist, config_dict, launch, parse_config
from foundation.document import to_markdown
from imaging.dataset.nodules import AIR_HU, crop_size_of, load_nodules, read_nodule, save_nodule_dataset
from imaging.window import to_hu, to_norm

CEILING, FLOOR = "real, encoded and decoded", "real, blurred"
COPIES_OF_REAL = (CEILING, FLOOR)
SHOWN = (
    *("Gabor WD", "Gabor WD, standardised", "GLCM WD", "GLCM WD, standardised", "GLRLM WD", "GLRLM WD, standardised"),
    *("Spectrum WD, standardised", "Fréchet 3D", "Core deviation WD", "Coverage WD", "Seam WD", "Mean HU WD"),
)
PAINTED = {"own": "over the real lesion of the mask", "free": "into lesion-free lung of another patient"}
TIMED = 5  # lesions, one at a time


@dataclass(frozen=True)
class LesionTableConfig:
    """What to compare.

    Attributes:
        data: Prepared dataset; its training split is searched for copies.
        out: Folder for the sets and the table.
        pipelines: name=DIR,name=DIR; tests are against the first, whose autoencoder is the ceiling.
        split: Whose masks are painted and whose lesions are compared with.
        site: "own" paints each lesion over the real one of its mask, whose rim shows through; "free" paints it into
            lesion-free lung of another patient, which is what users get.
        samples: Lesions for each mask.
        lesions: Masks of the split, evenly spaced; null takes all.
        steps: Denoising steps of those that are not named in `one_step`.
        time_shift: The same for all diffusion models; null takes each pipeline's own.
        one_step: Names of pipelines that take one step, such as a GAN; separated by commas.
        told_nothing: Names of pipelines that draw no appearance; separated by commas.
        blur_mm: Standard deviation of the floor's blur.
        repeats: Patient-wise splits.
        permutations: Of the tests.
        seed: Of everything random.
    """

    data: ExistingFolder
    out: Path
    pipelines: Annotated[str, MustExist("folder", or_remote=True, listed=True)]
    split: str = "test"
    site: Literal["own", "free"] = "own"
    samples: int = 3
    lesions: int | None = None
    steps: int = 16
    time_shift: float | None = None
    one_step: str = ""
    told_nothing: str = ""
    blur_mm: float = 1.5
    repeats: int = 200
    permutations: int = 999
    seed: int = 0


def main(config: LesionTableConfig) -> None:
    """Make the sets, measure, write."""
    pipelines = named_sources("--pipelines", config.pipelines, taken=COPIES_OF_REAL)
    openings = open_test_split(config.data, config.split, "lesion_table", config_dict(config))
    seconds = {name: made(config, name, source) for name, source in pipelines.items()}
    masks = load_lesions(config.out / next(iter(pipelines)), config.split)[0]
    copies_of_real(config, next(iter(pipelines.values())), {lesion.mask_name for lesion in masks})
    folders = {name: config.out / name for name in pipelines} | {
        CEILING: config.out / "ceiling",
        FLOOR: config.out / "floor",
    }

    real, train = load_lesions(config.data, config.split)[0], load_lesions(config.data, "train")[0]
    sets = {name: with_patients(load_lesions(folder, config.split)[0], real) for name, folder in folders.items()}
    net = load_nodule_net()
    features = {name: measure_features(lesions, name, nodule_net=net)[0] for name, lesions in sets.items()}
    of_real = measure_features(real, "real", nodule_net=net)[0]
    metrics = [metric for metric in set_metrics(of_real) if metric.name in SHOWN]
    rows = {name: row_of(config, name, sets[name], features[name], of_real, real, train, metrics) for name in folders}
    text = document(config, rows, seconds, tests(config, of_real, features, metrics, list(pipelines)), len(real))
    text += "\n" + to_markdown([spread_table(spread_rows({"real": of_real, **features}))])
    text += f"\n- {openings}\n" if openings else ""
    write_atomically(config.out / "table.md", lambda path: path.write_text(text))
    write_atomically(config.out / "table.json", lambda path: path.write_text(json.dumps(rows, indent=2)))
    print(text)


def made(config: LesionTableConfig, name: str, source: str) -> tuple[float, int]:
    """Inpaint the set of a pipeline; seconds that one lesion takes by itself, and network calls."""
    steps = 1 if name in config.one_step.split(",") else config.steps
    wanted = SyntheticSetConfig(
        data=config.data,
        split=config.split,
        site=config.site,
        lesions=config.lesions,
        samples=config.samples,
        pipeline=source,
        out=config.out / name,
        steps=steps,
        time_shift=config.time_shift if steps > 1 else 0.0,
        draw_appearance=name not in config.told_nothing.split(","),
        seed=config.seed,
    )
    if not wanted.out.exists():
        load_and_make_set(wanted)
    timing = config.out / f"{name}_seconds.json"
    if not timing.exists():
        pipeline = load_pipeline(wanted)[0]
        pipeline.set_progress_bar_config(disable=True)
        nodules, times = load_nodules(config.data, "validation"), []
        for index in range(TIMED + 1):
            begun = time.perf_counter()
            paint_batch(pipeline, nodules, [(index, 0)], replace(wanted, batch_size=1))
            times.append(time.perf_counter() - begun)
        write_atomically(timing, lambda path: path.write_text(json.dumps(float(np.median(times[1:])))))
    return json.loads(timing.read_text()), steps


def copies_of_real(config: LesionTableConfig, source: str, masks: set[str]) -> None:
    """The sets of the ceiling and the floor: real lesions changed inside their masks alone."""
    vae = load_pipeline(SyntheticSetConfig(data=config.data, out=config.out, pipeline=source))[0].vae
    assert not isinstance(vae, IdentityAutoencoder), "the first pipeline has no autoencoder to be the ceiling"
    window = (vae.config["window_width"], vae.config["window_level"])

    def decoded(row: dict[str, Any]) -> np.ndarray:
        with torch.no_grad():
            return to_hu(reconstruct(vae.float(), to_norm(row["ct_hu"].astype(np.float32), *window)), *window)

    def blurred(row: dict[str, Any]) -> np.ndarray:
        return blur_valid(row["ct_hu"].astype(np.float32), row["valid_mask"], config.blur_mm, row["spacing_mm"])

    nodules = load_nodules(config.data, config.split)
    changes: dict[str, Callable[[dict[str, Any]], np.ndarray]] = {"ceiling": decoded, "floor": blurred}
    for name, change in changes.items():
        if not (config.out / name).exists():
            rows = changed_rows(nodules, masks, change, name)
            save_nodule_dataset(rows, config.out / name, crop_size_of(nodules))


def changed_rows(
    nodules: Dataset, masks: set[str], change: Callable[[dict[str, Any]], np.ndarray], label: str
) -> Iterator[dict[str, Any]]:
    """Rows of the nodules with those names, changed inside the lesion."""
    for index in tqdm(range(len(nodules)), label):
        row = read_nodule(nodules, index)
        if row["nodule_id"] in masks:
            ct_hu = np.where(row["lesion_mask"] > 0, np.rint(change(row)).clip(AIR_HU, None), row["ct_hu"])
            yield synthetic_row(row, ct_hu.astype(row["ct_hu"].dtype), 0, 1)


def with_patients(lesions: list[Lesion], real: list[Lesion]) -> list[Lesion]:
    """The lesions with the patient of the real lesion whose mask they were made in."""
    patient_of = {lesion.mask_name: lesion.patient_id for lesion in real}
    return [replace(lesion, patient_id=patient_of[lesion.mask_name]) for lesion in lesions]


def row_of(
    config: LesionTableConfig,
    name: str,
    lesions: list[Lesion],
    features: Features,
    of_real: Features,
    real: list[Lesion],
    train: list[Lesion],
    metrics: list[SetMetric],
) -> dict[str, Any]:
    """The figures of one set: ratios with intervals, squared error, near copies of training lesions."""
    distances, _ = distance_rows(name, of_real, features, metrics, config.repeats, 1, config.seed)
    pairs, _ = match_pairs(real, lesions)
    errors = [squared_error(*pair) for pair in pairs]
    row: dict[str, Any] = {d.metric: [d.ratio, d.low, d.high] for d in distances if d.ratio is not None}
    of_masks, first = paired_by_mask(real, lesions)
    if are_enough(of_masks):
        detected = detect(name, of_masks, first, config.seed)
        row |= {"detector": [detected.auroc, detected.low, detected.high], "telltales": detected.telltales}
    row["lesions"] = len(lesions)
    row["MSE"] = float(np.mean(errors))
    row["copies"] = len(check_memorisation(lesions, train, real).duplicates) if name not in COPIES_OF_REAL else None
    return row


def squared_error(real: Lesion, made: Lesion) -> float:
    """Inside the mask, on the CT mapped to [-1, 1]."""
    target, pred = (to_norm(one.ct_hu)[None, None] for one in (real, made))
    return float(mse(pred, target, (real.valid_mask & made.valid_mask & real.lesion_mask)[None, None])[0])


def tests(
    config: LesionTableConfig,
    of_real: Features,
    features: Mapping[str, Features],
    metrics: list[SetMetric],
    names: list[str],
) -> list[str]:
    """A line for each difference between two methods that survives Holm's adjustment over all pairs and distances."""
    methods: dict[str, Features] = {name: features[name] for name in names}
    found, _ = method_tests(of_real, methods, {name: {} for name in names}, metrics, config.permutations, config.seed)
    return [
        f"{test.first} against {test.second}, {test.metric}: {test.first if test.difference < 0 else test.second} is "
        f"nearer, p {test.p_holm:.3f}"
        for test in found
        if test.p_holm < 0.05
    ]


def cell(value: float, low: float | None, high: float | None, perfect: float | None = None) -> str:
    """The value with its interval, marked where that does not hold the perfect one."""
    if low is None or high is None:
        return f"{value:.2f}"
    marked = " ≠ 1" if perfect is not None and not low <= perfect <= high else ""
    return f"{value:.2f} [{low:.2f}–{high:.2f}]{marked}"


def document(
    config: LesionTableConfig,
    rows: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, tuple[float, int]],
    found: list[str],
    real: int,
) -> str:
    """The table in Markdown."""
    short = [name.replace(", standardised", " std").replace(" WD", "") for name in SHOWN]
    lines = [
        f"{real} real lesions ({config.split}), {config.samples} seeds a mask, painted {PAINTED[config.site]}. Ratio "
        "to real vs real, 95 % interval in brackets (jackknife over patients), ≠ 1 where it does not hold 1. Detector: "
        "AUROC by figures of one lesion a mask against the real ones, 0.5 is a perfect generator; its interval over "
        "patients. MSE against the real lesion of the mask, ×10⁻²; s: one lesion by itself.",
        "",
        f"| set | detector | {' | '.join(short)} | MSE | near copies | calls | s |",
        "|---|" + "---:|" * (len(SHOWN) + 5),
    ]
    for name, row in rows.items():
        cells = [
            cell(*row["detector"]) if "detector" in row else "–",
            *(cell(*row[name], perfect=1) if name in row else "–" for name in SHOWN),
        ]
        took = [f"{seconds[name][1]}", number(seconds[name][0])] if name in seconds else ["–", "–"]
        cells += [f"{100 * row['MSE']:.2f}", "–" if row["copies"] is None else f"{row['copies']} of {row['lesions']}"]
        lines.append(f"| {name} | {' | '.join([*cells, *took])} |")
    lines += ["", "Differences that survive Holm's adjustment over all pairs of methods and all distances:", ""]
    return "\n".join([*lines, *(f"- {line}" for line in found or ["none"])]) + "\n"


if __name__ == "__main__":
    launch(main, parse_config(LesionTableConfig))
