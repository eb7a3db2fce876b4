"""Where the seam around an inpainted lesion comes from: one experiment for each possible cause.

    uv run benchmarks/choices/seam.py --pipeline runs/ldm/pipeline --data data/nodules --out runs/seam
    uv run benchmarks/choices/seam.py ... --lesions 40 --scheduler dpm-solver++ --steps 16

- *decoder*: the real crop, encoded and decoded, takes the lesion's place; no diffusion
- *margin*: how far around the lesion's mask is painted; 0 paints the mask itself
- *blend*: the width over which the generated lesion is blended in, from the painted border inwards: where it is wider
  than the margin, the real lesion that was there shows through and flatters every figure
- *paste*: what is blended in. The value: the generated HU. The difference: generated minus the reconstruction of the
  crop that was there, so that what the autoencoder cannot show (the scan's noise, bone above the window) stays; here
  that holds the real lesion's own fine detail. Elsewhere: the same residual, taken from another part of the crop. The
  membrane: the generated HU and the smoothest offset with which they meet the scan at the border

The seam score (`evaluation.lesions.hu_and_seam.seam_score`) is taken where the recorded lesion mask ends and where the
painted region ends, of real and synthetic CT at the same borders, and compared as every distance of sets is: synthetic
against real lesions of other patients, beside real against real in the same splits. Lesions are sampled once for each
margin and kept in --out: the same command continues. Results: seam.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import coo_array, diags
from scipy.sparse.linalg import cg
from tqdm import tqdm

from diffusion import LesionInpaintPipeline
from diffusion.sampling.crops import Crops
from diffusion.sampling.loading import SamplingConfig, load_pipeline, weights_of
from evaluation.lesions.features import Features, FeatureSet, measure_features
from evaluation.lesions.hu_and_seam import seam_score
from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.lesions.openings import open_test_split
from evaluation.lesions.set_comparison import DistanceRow, SetMetric, distance_rows, set_metrics
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import noise_generator, pipeline_arrays, settings_of
from evaluation.reports.lesion_report import number
from evaluation.statistics.distances import wasserstein_per_feature
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_folder
from foundation.config import ExistingFolder, config_dict, launch, parse_config
from imaging.compositing import composite, edge_weight
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.lesions.mask import grown_mask
from imaging.window import AIR_HU, to_hu, to_norm

Paste = Literal["value", "difference", "elsewhere", "membrane"]
PAINTED = "Painted seam"  # kind of features: the seam where the painted region ends
AT_PAINTED = SetMetric("Painted seam WD", PAINTED, wasserstein_per_feature, tested=True)
SHOWN = (
    "Seam WD",
    AT_PAINTED.name,
    "Gabor WD, standardised",
    "GLCM WD, standardised",
    "GLRLM WD, standardised",
    "Spectrum WD, standardised",
    "Coverage WD",
)


@dataclass(frozen=True, kw_only=True)
class SeamConfig(SamplingConfig):
    """What to measure; an experiment on one cause has the other settings as they are given here.

    Attributes:
        data: Prepared dataset that gives scans, masks and the real lesions.
        split: "train", "validation" or "test".
        lesions: Masks of the split to use, evenly spaced; null takes all.
        margins_mm: Margins to compare.
        blends_mm: Blend widths to compare, with the usual margin and with none.
        batch_size: Lesions at a time.
        repeats: Patient-wise splits.
        workers: Processes for texture features.
    """

    data: ExistingFolder
    split: str = "validation"
    lesions: int | None = None
    margins_mm: tuple[float, ...] = (0, 1, 2, 3, 4)
    blends_mm: tuple[float, ...] = (0, 0.5, 1, 2, 3)
    batch_size: int = 8
    repeats: int = 200
    workers: int = 1


@dataclass(frozen=True)
class Experiment:
    """One way to make a CT with a lesion.

    Attributes:
        source: Whose volume is pasted: the model's, or the real crop's reconstruction.
        margin_mm, blend_mm: Of the painted region.
        paste: See above.
    """

    source: Literal["generated", "reconstruction"]
    margin_mm: float
    blend_mm: float
    paste: Paste = "value"


@dataclass(frozen=True)
class Result:
    """Of one experiment: the mean seam scores of synthetic and real CT at both borders, HU, and the distances."""

    lesion_seam: tuple[float, float]
    painted_seam: tuple[float, float]
    distances: Mapping[str, DistanceRow]


def main(config: SeamConfig) -> None:
    """Sample what is missing, paste, measure, write."""
    openings = open_test_split(config.data, config.split, "seam", config_dict(config))
    pipeline, folder = load_pipeline(config)
    pipeline.set_progress_bar_config(disable=True)
    margin_mm = pipeline.config["paint_margin_mm"] if config.paint_margin_mm is None else config.paint_margin_mm
    claim(config, weights_of(config, pipeline, folder))
    indices, real = chosen_lesions(config)
    questions = experiments(margin_mm, config.blend_mm, config.margins_mm, config.blends_mm)
    wanted = list(dict.fromkeys(experiment for requested in questions.values() for experiment in requested))

    width, level = pipeline.vae.config["window_width"], pipeline.vae.config["window_level"]
    window_hu = (level - width / 2, level + width / 2)
    reconstructed = np.concatenate(list(tqdm(reconstructions(pipeline, real, config.batch_size), "reconstructions")))
    features, problems = measure_features(real, "real", config.workers)
    metrics = [metric for metric in set_metrics(features) if metric.name in SHOWN] + [AT_PAINTED]
    results = {}
    for margin in dict.fromkeys(experiment.margin_mm for experiment in wanted):
        paint_masks = [paint_mask_of(lesion, margin) for lesion in real]
        features[PAINTED] = painted_seam(real, paint_masks)
        generated = None
        for experiment in [one for one in wanted if one.margin_mm == margin]:
            source = reconstructed
            if experiment.source == "generated":
                if generated is None:
                    generated = samples(pipeline, config, indices, margin)
                source = generated
            made = [
                pasted(*volumes, experiment, window_hu)
                for volumes in zip(real, source, reconstructed, paint_masks, strict=True)
            ]
            found, failed = measured(made, paint_masks, features, metrics, config)
            results[experiment] = found
            problems += failed
    text = document(
        config, questions, results, len(real), [*([openings] if openings else []), *dict.fromkeys(problems)]
    )
    print(text)
    write_atomically(config.out / "seam.md", lambda temporary: temporary.write_text(text))
    print(f"wrote {config.out / 'seam.md'}")


def claim(config: SeamConfig, weights: Mapping[str, Any]) -> None:
    """Make the folder of samples, or refuse one whose samples are of other settings."""
    shared = {field.name: getattr(config, field.name, None) for field in fields(SyntheticSetConfig)}
    of_every_sample = shared | {"samples": 1, "paint_margin_mm": None, "blend_mm": 0.0}  # neither is one setting here
    made = SyntheticSetConfig(**of_every_sample)
    claim_folder(config.out, {**settings_of(made), **weights})


def chosen_lesions(config: SeamConfig) -> tuple[list[int], list[Lesion]]:
    """Rows of the split, and the real lesions in them, that can be measured."""
    nodules = load_nodules(config.data, config.split)
    lesions = {lesion.name: lesion for lesion in load_lesions(config.data, config.split)[0]}
    names = nodules["nodule_id"][:]
    count = min(config.lesions or len(names), len(names))
    indices = [int(index) for index in np.linspace(0, len(names) - 1, count) if names[int(index)] in lesions]
    return indices, [lesions[names[index]] for index in indices]


def experiments(
    margin_mm: float, blend_mm: float | None, margins_mm: Sequence[float], blends_mm: Sequence[float]
) -> dict[str, list[Experiment]]:
    """The experiments on each cause.

    Args:
        margin_mm, blend_mm: The usual settings, kept where the cause is another; a blend of None is as wide as the
            margin is.
        margins_mm, blends_mm: To compare.
    """
    both = tuple(dict.fromkeys((0.0, margin_mm)))

    def usual(margin: float) -> float:
        return margin if blend_mm is None else blend_mm

    requested = {
        "decoder": [Experiment("reconstruction", margin, blend) for margin in both for blend in (0.0, usual(margin))],
        "margin": [Experiment("generated", margin, usual(margin)) for margin in margins_mm],
        "blend": [Experiment("generated", margin, blend) for margin in both for blend in blends_mm],
        "paste": [
            Experiment("generated", margin, usual(margin), paste)
            for margin in both
            for paste in ("value", "difference", "elsewhere", "membrane")
        ],
    }
    return {cause: list(dict.fromkeys(ones)) for cause, ones in requested.items()}


def samples(
    pipeline: LesionInpaintPipeline, config: SeamConfig, indices: Sequence[int], margin_mm: float
) -> np.ndarray:
    """The model's volumes for these rows, float32 HU (N, D, H, W); batches that are on disk are not made again."""
    nodules = load_nodules(config.data, config.split)
    folder = config.out / f"margin_{margin_mm:g}"
    made = []
    starts = range(0, len(indices), config.batch_size)
    for number_, start in enumerate(tqdm(starts, f"samples, margin {margin_mm:g} mm")):
        file = folder / f"{number_:06d}.npy"
        if not file.exists():
            batch = indices[start : start + config.batch_size]
            volumes = sampled(pipeline, config, [read_nodule(nodules, index) for index in batch], batch, margin_mm)
            write_atomically(file, lambda temporary, volumes=volumes: np.save(temporary, volumes))
        made.append(np.load(file, allow_pickle=False))
    return np.concatenate(made)


def sampled(
    pipeline: LesionInpaintPipeline,
    config: SeamConfig,
    given: list[dict[str, Any]],
    indices: Sequence[int],
    margin_mm: float,
) -> np.ndarray:
    """One batch, from the noise that scripts/inpaint_nodules.py has for these rows."""
    crops = {name: torch.from_numpy(array) for name, array in pipeline_arrays(given).items()}
    paint = [grown_mask(row["lesion_mask"], margin_mm, row["spacing_mm"]) * row["valid_mask"] for row in given]
    crops = Crops(crops["ct"], crops["mask"], torch.from_numpy(np.stack(paint)[:, None]), crops["valid_mask"])
    made = pipeline.generate(crops, config, [noise_generator(config.seed, index) for index in indices])
    return made[:, 0].float().cpu().numpy()


@torch.no_grad()
def reconstructions(
    pipeline: LesionInpaintPipeline, lesions: Sequence[Lesion], batch_size: int
) -> Iterator[np.ndarray]:
    """The real crops, encoded and decoded, float32 HU (B, D, H, W), batch by batch."""
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    for start in range(0, len(lesions), batch_size):
        ct_hu = np.stack([lesion.ct_hu for lesion in lesions[start : start + batch_size]])[:, None]
        ct_norm = to_norm(torch.from_numpy(ct_hu).to(pipeline.device), *window)
        decoded = pipeline.vae.decode(pipeline.vae.encode(ct_norm).latent_dist.mode()).sample
        yield to_hu(decoded.float().clamp(-1, 1), *window)[:, 0].cpu().numpy()


def paint_mask_of(lesion: Lesion, margin_mm: float) -> np.ndarray:
    """What is painted: the lesion and the margin around it, as far as the scan goes."""
    return grown_mask(lesion.lesion_mask, margin_mm, lesion.spacing_mm) * lesion.valid_mask


def pasted(
    lesion: Lesion,
    source_hu: np.ndarray,
    reconstruction_hu: np.ndarray,
    paint_mask: np.ndarray,
    experiment: Experiment,
    window_hu: tuple[float, float],
) -> Lesion:
    """The real lesion's crop with a volume pasted into its painted region; outside it every voxel stays.

    Args:
        lesion: Real, whole HU.
        source_hu: What is pasted, (D, H, W).
        reconstruction_hu: The crop itself, encoded and decoded.
        paint_mask: (D, H, W), 0 or 1.
        experiment: Blend width and way of pasting.
        window_hu: Lowest and highest HU that the autoencoder shows.
    """
    raised = np.maximum(lesion.ct_hu, AIR_HU)
    shown = np.clip(raised, *window_hu)  # bone is not an offset that continues into the lesion
    change = source_hu - raised
    if experiment.paste == "difference":
        change = source_hu - reconstruction_hu
    elif experiment.paste == "elsewhere":
        change = change + elsewhere(shown - reconstruction_hu)
    elif experiment.paste == "membrane":
        change = change + membrane(shown - source_hu, paint_mask > 0, lesion.valid_mask)
    weight = edge_weight(paint_mask, np.array(lesion.spacing_mm), experiment.blend_mm)
    made = composite(lesion.ct_hu.astype(np.int16), change, weight)
    return replace(lesion, ct_hu=made.astype(np.float32))


def elsewhere(volume: np.ndarray) -> np.ndarray:
    """The volume moved by half its size along every axis, and around: what is in the middle comes from the corners."""
    return np.roll(volume, [size // 2 for size in volume.shape], axis=tuple(range(volume.ndim)))


def membrane(offset: np.ndarray, inside: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The smoothest continuation h of an offset from around a region into it: ∇²h = 0 inside, h = offset at the border.

    With it the gradient of a source is pasted in place of its values (Pérez et al. 2003, eq. 4), per voxel.

    Args:
        offset: (D, H, W); looked at beside the region only.
        inside: The region, bool (D, H, W).
        valid: Where the scan is, bool; no offset is taken from elsewhere, and none at the volume's border.
    Returns: float64 (D, H, W), 0 outside the region, and in parts of it that touch no valid voxel.
    """
    count = int(inside.sum())
    index = np.full(inside.shape, -1)
    index[inside] = np.arange(count)
    known = valid & ~inside
    neighbours, border, pairs = np.zeros(count), np.zeros(count), []
    for axis in range(inside.ndim):
        places, offsets, fixed = (np.moveaxis(array, axis, 0) for array in (index, offset, known))
        for one, other in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            own, beside = places[one], places[other]
            pairs.append(np.stack([own, beside])[:, (own >= 0) & (beside >= 0)])
            at_border = (own >= 0) & fixed[other]
            np.add.at(border, own[at_border], offsets[other][at_border])
            np.add.at(neighbours, own[at_border], 1)
    rows, columns = np.concatenate(pairs, axis=1)
    neighbours += np.bincount(rows, minlength=count)
    laplacian = diags(np.maximum(neighbours, 1)) - coo_array((np.ones(len(rows)), (rows, columns)), (count, count))
    result = np.zeros(inside.shape)
    result[inside] = cg(laplacian.tocsr(), border, rtol=1e-6)[0]
    return result


def painted_seam(lesions: Sequence[Lesion], paint_masks: Sequence[np.ndarray]) -> FeatureSet:
    """Seam score at the border of what is painted; a lesion whose painted region has no border is left out."""
    scores, kept = [], []
    for lesion, paint_mask in zip(lesions, paint_masks, strict=True):
        try:
            scores.append(seam_score(lesion.ct_hu, paint_mask, lesion.valid_mask))
        except ValueError:
            continue
        kept.append(lesion)
    return FeatureSet(np.array(scores)[:, None, None], kept, ("seam",))


def measured(
    made: list[Lesion],
    paint_masks: Sequence[np.ndarray],
    real: Features,
    metrics: list[SetMetric],
    config: SeamConfig,
) -> tuple[Result, list[str]]:
    """Everything about one set of lesions, and a sentence for each one left out."""
    features, problems = measure_features(made, "pasted", config.workers)
    features[PAINTED] = painted_seam(made, paint_masks)
    rows, notes = distance_rows("pasted", real, features, metrics, config.repeats, 1, config.seed)
    distances = {row.metric: row for row in rows if row.ratio is not None}
    if not {"Seam WD", AT_PAINTED.name} <= set(distances):
        raise ValueError(f"{config.data}: too few lesions or patients for real vs real; give more lesions")
    means = [(float(features[kind].values.mean()), float(real[kind].values.mean())) for kind in ("Seam", PAINTED)]
    return Result(means[0], means[1], distances), problems + notes


def document(
    config: SeamConfig,
    questions: Mapping[str, Sequence[Experiment]],
    results: Mapping[Experiment, Result],
    lesions: int,
    notes: Sequence[str],
) -> str:
    """The table in Markdown."""
    first = next(iter(results.values())).distances
    texture = [name for name in SHOWN[2:] if all(name in result.distances for result in results.values())]
    short = [name.removesuffix(", standardised").removesuffix(" WD") for name in texture]
    lines = [
        "# Where the seam comes from",
        "",
        f"{lesions} lesions ({config.split}), scheduler {config.scheduler}, {config.steps} steps. Seam: mean score of "
        "synthetic and of real CT at the same border, HU, then the Wasserstein distance to the real lesions of other "
        "patients over real vs real in the same splits, with its 95 % interval; 1 or less is the aim. At the painted "
        "border, which differs with the margin, real vs real is taken there too. Texture: the same ratio. Where the "
        "blend is wider than the margin, and where a difference is pasted, the real lesion shows through.",
        "",
        f"Real vs real: seam {number(floor_mean(first['Seam WD']))} HU, "
        + ", ".join(f"{name} {number(floor_mean(first[metric]))}" for name, metric in zip(short, texture, strict=True))
        + ".",
        "",
        "| cause | pasted | margin mm | blend mm | paste | at the lesion's border | at the painted border | "
        + " | ".join(short)
        + " |",
        "|---|---|---:|---:|---|---|---|" + "---:|" * len(texture),
    ]
    for question, requested in questions.items():
        for one in requested:
            result = results[one]
            cells = [question, one.source, f"{one.margin_mm:g}", f"{one.blend_mm:g}", one.paste]
            for (made, real), metric in (
                (result.lesion_seam, "Seam WD"),
                (result.painted_seam, AT_PAINTED.name),
            ):
                row = result.distances[metric]
                cells.append(f"{made:.1f} / {real:.1f}: **{row.ratio:.2f}** ({row.low:.2f} … {row.high:.2f})")
            cells += [f"{result.distances[metric].ratio:.2f}" for metric in texture]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def floor_mean(row: DistanceRow) -> float | None:
    """Real vs real, mean over the splits."""
    return None if row.floor is None else row.floor.mean


if __name__ == "__main__":
    launch(main, parse_config(SeamConfig))
