"""Lesions that are made together with their masks: are mask and image real, and do they agree?

    uv run benchmarks/quality/paired.py --nodules data/nodules --paired runs/pig/pipeline --out runs/pig_judged

In the crop of each validation nodule a ball around it is painted. A pair of its diameter and ratings is requested
there. The shipped pipeline then paints a lesion into the same mask, and the nodule itself stands beside both. Other
pairs are made from nothing. The pairs are kept as a prepared dataset in OUT/pairs, and the lesions of stage 2 in their
masks in OUT/stage_two. benchmarks/quality/shapes.py --pairs judges the masks without another sampling, and
scripts/evaluate_downstream.py --synthetic trains networks with the pairs of --split train.

Judged here: the diameter against the requested one, the Dice of each lesion's own outline at half maximum with its
mask, the Dice of a segmenter that was trained on real nodules (--segmenter, a network that evaluate_downstream.py left)
with the masks, the detector of `evaluation.lesions.detector`, the Fréchet distance in nodule space, and what asking for
1 and for 5 of lobulation and spiculation changes. A picture shows mask and lesion at six noise levels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from diffusion import LesionInpaintPipeline, PairedLesionPipeline
from diffusion.mask_latents import ROUNDS, interpolated, largest_part, mask_latent, mask_of_latent
from diffusion.option_types import MaskKind
from evaluation.downstream.crops import Crop
from evaluation.downstream.tasks import TASKS
from evaluation.lesions.detector import are_enough, detect, real_against_real
from evaluation.lesions.label_agreement import label_agreement
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.shape_figures import NAMED, SHAPE_FIGURES, shape_figures
from evaluation.networks.nodule_net import load_nodule_net, nodule_features
from evaluation.reports.slices import save_slices
from evaluation.statistics.agreement import spearman
from evaluation.statistics.distances import frechet_distance
from foundation.atomic import write_atomically
from foundation.config import SHIPPED_PIPELINE, ExistingFile, ExistingFolder, ModelSource, launch, parse_config
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.window import to_norm

RATINGS = ("lobulation", "spiculation", "sphericity", "texture", "malignancy")
GRID = 3 * (1.0,)
IMAGES: tuple[tuple[str, MaskKind, float, int], ...] = (  # of a mask on the latent grid: name, kind, reach, rounds
    ("distance to 8 mm, not corrected", "distance", 8.0, 0),
    ("distance to 8 mm", "distance", 8.0, ROUNDS),
    ("distance to 4 mm", "distance", 4.0, ROUNDS),
    ("distance to 2 mm", "distance", 2.0, ROUNDS),
    ("coverage", "coverage", 2.0, ROUNDS),
)
NOISES = (0.0, 0.1, 0.2)  # standard deviation


@dataclass(frozen=True)
class PairedConfig:
    """What to judge.

    Attributes:
        nodules: Prepared dataset at 1 mm, in crops of the pipelines' size.
        paired: The paired pipeline.
        out: Folder for pairs, stage_two, figures.json, figures.md, pairs.png and steps.png.
        split: "validation", or "train" to make pairs that networks can be trained with.
        segmenter: Weights of a segmentation network of scripts/evaluate_downstream.py; null judges without.
        pipeline: Stage 2 that paints into the same masks.
        lesions: Nodules, at most; drawn at random.
        alone: Pairs from nothing.
        extremes: Nodules in whose place 1 and 5 of lobulation and spiculation are requested.
        steps: Denoising steps.
        time_shift: Of the image's network.
        exact_diameter: Whether masks are cut at the requested volume.
        batch_size: Crops at a time.
        seed: Of everything random.
    """

    nodules: ExistingFolder
    paired: ModelSource
    out: Path
    split: Literal["train", "validation"] = "validation"
    segmenter: ExistingFile | None = None
    pipeline: ModelSource = SHIPPED_PIPELINE
    lesions: int = 133
    alone: int = 32
    extremes: int = 24
    steps: int = 16
    time_shift: float = 0.0
    exact_diameter: bool = False
    batch_size: int = 4
    seed: int = 0


def main(config: PairedConfig) -> None:
    """Make the pairs, judge, write."""
    paired = PairedLesionPipeline.from_pretrained(config.paired)
    shipped = LesionInpaintPipeline.from_pretrained(config.pipeline)
    for pipeline in (paired, shipped):
        pipeline.set_progress_bar_config(disable=True)
    rows = nodule_rows(config, paired)
    requests = [{name: float(row[name]) for name in RATINGS if np.isfinite(row[name])} for row in rows]
    config.out.mkdir(parents=True, exist_ok=True)
    ct, masks = in_background(config, paired, rows, requests, "pairs")
    kept = [number for number in range(len(rows)) if masks[number].any()]
    report: dict[str, Any] = {
        "round_trip": round_trip(rows, paired.vae.factor),
        "asked": len(rows),
        "empty": len(rows) - len(kept),
    }
    painted = in_masks(config, shipped, rows, requests, masks, kept)
    alone = paired.generate(
        config.alone, num_inference_steps=config.steps, generator=torch.Generator().manual_seed(config.seed)
    )
    if kept:
        for name, images in (("pairs", ct), ("stage_two", painted)):
            save_made(config.out / name, [rows[n] for n in kept], images[kept], masks[kept])

    real = [lesion_of(rows[number], rows[number]["ct_hu"], rows[number]["lesion_mask"]) for number in kept]
    made = [lesion_of(rows[number], ct[number], masks[number]) for number in kept]
    again = [lesion_of(rows[number], painted[number], masks[number]) for number in kept]
    everywhere = np.ones(alone.ct.shape[2:], bool)
    free = [
        Lesion(f"alone {n}", f"alone {n}", image[0].numpy(), mask[0].numpy(), everywhere, GRID)
        for n, (image, mask) in enumerate(zip(alone.ct, alone.lesion_mask > 0, strict=True))
        if mask.any()
    ]
    diameters = np.array([[diameter_of(lesion.lesion_mask) for lesion in one] for one in (real, made)])
    report["diameter"] = {
        "rank_correlation": spearman(*diameters),
        "mean_ratio": float((diameters[1] / diameters[0]).mean()),
        "mean_error_mm": float(np.abs(diameters[1] - diameters[0]).mean()),
    }
    sets = {"real nodules": real, "paired": made, "stage 2 in the same masks": again, "paired, from nothing": free}
    report["agreement"] = {name: agreement(lesions) for name, lesions in sets.items()}
    if config.segmenter is not None:
        network = segmenter_of(config.segmenter)
        report["segmenter"] = {name: segmented(network, lesions) for name, lesions in sets.items()}
    features = {name: nodule_features(load_nodule_net(), lesions) for name, lesions in sets.items()}
    report["frechet"] = {name: float(frechet_distance(features["real nodules"], one)) for name, one in features.items()}
    if are_enough(real):
        found = {"paired": made, "stage 2 in the same masks": again}
        report["detector"] = {name: detection(name, real, lesions, config.seed) for name, lesions in found.items()}
    if len(real) >= 20:
        report.setdefault("detector", {})["real against real"] = list(real_against_real(real, config.seed))
    report["extremes"] = extremes(config, paired, rows)
    save_pictures(config, paired, rows, ct, masks, painted, alone)
    text = markdown(report)
    write_atomically(config.out / "figures.json", lambda path: path.write_text(json.dumps(report, indent=1)))
    write_atomically(config.out / "figures.md", lambda path: path.write_text(text))
    print(text)


def nodule_rows(config: PairedConfig, paired: PairedLesionPipeline) -> list[dict[str, Any]]:
    """Nodules of the split whose diameter can be requested, with missing ratings as NaN."""
    dataset = load_nodules(config.nodules, config.split)
    low, high = paired.diameters_mm
    chosen = np.random.default_rng(config.seed).permutation(len(dataset))[: config.lesions]
    rows = [read_nodule(dataset, int(index)) for index in np.sort(chosen)]
    rows = [row for row in rows if low <= diameter_of(row["lesion_mask"]) <= high]
    return [row | {name: np.nan if row[name] is None else row[name] for name in RATINGS} for row in rows]


def round_trip(rows: Sequence[dict[str, Any]], factor: int) -> dict[str, list[float]]:
    """Mean volume ratio of real masks that went to the latent grid and back, and mean Dice with noise on the latent."""
    masks = tensor_of(rows, "lesion_mask").to(torch.uint8)
    found = {}
    for name, kind, reach_mm, rounds in IMAGES:
        latent = mask_latent(masks, factor, kind, reach_mm, 1.0, rounds)
        values = []
        for noise in NOISES:
            white = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
            back = largest_part(mask_of_latent(latent + noise * white, factor))
            both, given, got = ((one > 0).flatten(1).sum(1) for one in (masks & back, masks, back))
            values += [] if noise else [float((got / given).mean())]
            values.append(float((2 * both / (given + got)).mean()))
        found[name] = values
    return found


def diameter_of(mask: np.ndarray) -> float:
    """Of the sphere of equal volume, mm."""
    return float(np.cbrt(6 / np.pi * (np.asarray(mask) > 0).sum()))


def lists_of(requests: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """Requests as a call takes them."""
    return {name: [request.get(name) for request in requests] for name in RATINGS}


def tensor_of(rows: Sequence[dict[str, Any]], name: str) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(row[name]) for row in rows]))[:, None]


def in_background(
    config: PairedConfig,
    paired: PairedLesionPipeline,
    rows: Sequence[dict[str, Any]],
    requests: Sequence[dict[str, float]],
    text: str,
) -> tuple[np.ndarray, np.ndarray]:
    """CT and mask of a pair at each nodule's place, (N, D, H, W)."""
    images, masks = [], []
    for start in tqdm(range(0, len(rows), config.batch_size), desc=text):
        some = rows[start : start + config.batch_size]
        made = paired(
            tensor_of(some, "ct_hu").float(),
            [np.argwhere(row["lesion_mask"]).mean(0).tolist() for row in some],
            [diameter_of(row["lesion_mask"]) for row in some],
            {k: v for k, v in lists_of(requests[start : start + len(some)]).items() if k in paired.attributes},
            num_inference_steps=config.steps,
            generator=[torch.Generator().manual_seed(config.seed + start + n) for n in range(len(some))],
            valid_mask=tensor_of(some, "valid_mask"),
            time_shift=config.time_shift,
            exact_diameter=config.exact_diameter,
        )
        images.append(made.ct[:, 0].numpy())
        masks.append(made.lesion_mask[:, 0].numpy())
    return np.concatenate(images), np.concatenate(masks)


def in_masks(
    config: PairedConfig,
    shipped: LesionInpaintPipeline,
    rows: Sequence[dict[str, Any]],
    requests: Sequence[dict[str, float]],
    masks: np.ndarray,
    kept: Sequence[int],
) -> np.ndarray:
    """What stage 2 paints into the same masks; the CT as it is where there is none."""
    painted = np.stack([np.asarray(row["ct_hu"], np.float32) for row in rows])
    known = shipped.unet.config["attributes"]
    for start in tqdm(range(0, len(kept), config.batch_size), desc="stage 2"):
        numbers = kept[start : start + config.batch_size]
        some = [rows[number] for number in numbers]
        asked = lists_of([{"texture": requests[n]["texture"]} if "texture" in requests[n] else {} for n in numbers])
        made = shipped(
            tensor_of(some, "ct_hu").float(),
            torch.from_numpy(masks[numbers])[:, None],
            {name: values for name, values in asked.items() if name in known and any(v is not None for v in values)},
            num_inference_steps=config.steps,
            generator=[torch.Generator().manual_seed(config.seed + n) for n in numbers],
            valid_mask=tensor_of(some, "valid_mask"),
        )
        painted[numbers] = made.ct[:, 0].numpy()
    return painted


def lesion_of(row: dict[str, Any], ct_hu: np.ndarray, mask: np.ndarray) -> Lesion:
    inside = np.asarray(mask) > 0
    valid = (np.asarray(row["valid_mask"]) > 0) | inside
    return Lesion(row["nodule_id"], row["patient_id"], np.asarray(ct_hu, np.float32), inside, valid, GRID)


def agreement(lesions: Sequence[Lesion]) -> dict[str, float]:
    """Dice of lesions' own outlines with their masks; those without lung around cannot be judged."""
    found = [label_agreement(lesion.ct_hu, lesion.lesion_mask, GRID, lesion.valid_mask) for lesion in lesions]
    dice, empty = (np.array([getattr(one, name) for one in found], float) for name in ("dice", "empty_share"))
    return {"dice": float(np.nanmean(dice)), "empty": float(np.nanmean(empty)), "judged": int(np.isfinite(dice).sum())}


def segmenter_of(path: Path) -> nn.Module:
    """A segmentation network with its weights, in eval mode."""
    network = TASKS["segmentation"].network()
    network.load_state_dict(load_file(path))
    return network.eval()


@torch.no_grad()
def segmented(network: nn.Module, lesions: Sequence[Lesion]) -> float:
    """Mean Dice of the network's masks with the lesions' own."""
    crops = [
        Crop(one.name, one.patient_id, np.rint(one.ct_hu).astype(np.int16), one.lesion_mask, one.valid_mask, GRID, None)
        for one in lesions
    ]
    return float(np.mean([TASKS["segmentation"].outcome(network, crop)["dice"] for crop in crops]))


def detection(name: str, real: Sequence[Lesion], made: Sequence[Lesion], seed: int) -> list[float | None]:
    found = detect(name, real, made, seed)
    return [found.auroc, found.low, found.high]


def extremes(config: PairedConfig, paired: PairedLesionPipeline, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of single figures of masks where 1 and where 5 of lobulation and spiculation are requested."""
    some = [row for row in rows if diameter_of(row["lesion_mask"]) >= 6][: config.extremes]
    if not some:
        return {}
    found = {}
    for value in (1.0, 5.0):
        request = {"lobulation": value, "spiculation": value}
        _, masks = in_background(config, paired, some, [request] * len(some), f"character {value:g}")
        figures = np.stack([shape_figures(mask) for mask in masks if mask.any()])
        shown = (*NAMED, "solidity", "radius_deviation")
        means = np.nanmean(figures, 0)
        found[f"{value:g}"] = {name: float(means[SHAPE_FIGURES.index(name)]) for name in shown}
    return found


def save_made(out: Path, rows: Sequence[dict[str, Any]], ct: np.ndarray, masks: np.ndarray) -> None:
    """Made lesions with their masks as a prepared dataset; ratings are those that were requested."""
    made = (
        {**row, "ct_hu": image, "lesion_mask": mask, "diameter_mm": diameter_of(mask), "volume_mm3": mask.sum()}
        for row, image, mask in zip(rows, ct, masks, strict=True)
    )
    save_nodule_dataset(made, out, ct.shape[1], overwrite=True)


def save_pictures(
    config: PairedConfig,
    paired: PairedLesionPipeline,
    rows: Sequence[dict[str, Any]],
    ct: np.ndarray,
    masks: np.ndarray,
    painted: np.ndarray,
    alone: Any,
    count: int = 8,
) -> None:
    """Some pairs beside the real nodules, pairs from nothing, and a sampling at six noise levels."""
    window = (paired.vae.config["window_width"], paired.vae.config["window_level"])

    def shown(volume: Any) -> np.ndarray:
        return np.asarray(to_norm(torch.as_tensor(np.asarray(volume, np.float32)), *window))

    numbers = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    pictures = [
        (shown(rows[n]["ct_hu"]), 2.0 * rows[n]["lesion_mask"] - 1, shown(ct[n]), 2.0 * masks[n] - 1, shown(painted[n]))
        for n in numbers
    ]
    save_slices(config.out / "pairs.png", pictures, ["real", "its mask", "paired", "its mask", "stage 2 in it"])
    free = [(shown(one[0]), 2.0 * mask[0].numpy() - 1) for one, mask in zip(alone.ct, alone.lesion_mask, strict=True)]
    save_slices(config.out / "alone.png", free[:count], ["from nothing", "its mask"])

    levels: list[tuple[Tensor, Tensor]] = []
    factor, config_of = paired.vae.factor, paired.vae.config

    def watch(pipeline: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        from autoencoder.latents import unstandardise

        decoded = pipeline.vae.decode(unstandardise(tensors["image_estimate"], config_of)).sample
        levels.append((interpolated(tensors["mask_estimate"], factor)[0, 0], decoded[0, 0].float().clamp(-1, 1)))
        return {}

    large = max(range(len(rows)), key=lambda n: -abs(diameter_of(rows[n]["lesion_mask"]) - 14))
    row = rows[large]
    paired(
        tensor_of([row], "ct_hu").float(),
        np.argwhere(row["lesion_mask"]).mean(0).tolist(),
        diameter_of(row["lesion_mask"]),
        num_inference_steps=config.steps,
        generator=torch.Generator().manual_seed(config.seed),
        callback_on_step_end=watch,
    )
    chosen = np.unique(np.linspace(0, len(levels) - 1, 6).astype(int))
    noise = [f"{100 * (1 - step / max(len(levels) - 1, 1)):.0f} %" for step in chosen]
    save_slices(config.out / "steps.png", list(zip(*(levels[step] for step in chosen), strict=True)), noise)


def markdown(report: dict[str, Any]) -> str:
    """All figures."""
    diameter, lines = report["diameter"], []
    lines.append(
        f"{report['asked']} pairs, {report['empty']} of them empty. Diameter: rank correlation "
        f"{diameter['rank_correlation']:.2f} with the requested one, mean ratio {diameter['mean_ratio']:.2f}, "
        f"mean error {diameter['mean_error_mm']:.1f} mm."
    )
    heads = " | ".join(["volume", "Dice", *(f"with noise {noise:g}" for noise in NOISES[1:])])
    lines += ["", f"| mask on the latent grid and back | {heads} |", "|---|" + "---:|" * (1 + len(NOISES))]
    for name, values in report["round_trip"].items():
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")
    lines += [
        "",
        "| lesions | Dice of own outline with mask | Dice of a segmenter | empty share | Fréchet | detector |",
    ]
    lines.append("|---|---|---:|---|---|---|")
    detector, segmenter = report.get("detector", {}), report.get("segmenter", {})
    for name, one in report["agreement"].items():
        auroc = detector.get("real against real" if name == "real nodules" else name)
        text = f"{auroc[0]:.2f} ({auroc[1] or np.nan:.2f} … {auroc[2] or np.nan:.2f})" if auroc else "–"
        frechet = report["frechet"][name]
        dice = f"{segmenter[name]:.2f}" if name in segmenter else "–"
        own = f"{one['dice']:.2f} ({one['judged']})"
        lines.append(f"| {name} | {own} | {dice} | {one['empty']:.2f} | {frechet:.2f} | {text} |")
    if report["extremes"]:
        names = list(report["extremes"]["1"])
        lines += ["", f"| lobulation and spiculation | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
        for value, figures in report["extremes"].items():
            lines.append(f"| {value} | {' | '.join(f'{figures[name]:.2f}' for name in names)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    launch(main, parse_config(PairedConfig))
