"""Texture against network calls: how few steps of which sampler does a trained pipeline need?

    uv run benchmarks/choices/few_steps.py --pipeline runs/ldm/pipeline --data data/nodules --out runs/few_steps
    uv run benchmarks/choices/few_steps.py ... --lesions 40 --calls 4,8,16,250 --samplers '[dpm-solver++,unipc]'

Every sampler inpaints the same masks from the same noise with each number of calls. A table and a curve (few_steps.md,
few_steps.png) show the distances to the real lesions beside real vs real, their ratio to the same sampler's with the
most calls, and how far the lesions themselves are from those. The same command continues; sets that are there stay.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from diffusion.sampling.loading import load_pipeline, weights_of
from diffusion.sampling.samplers import fitting_samplers, sampler_of
from evaluation.lesions.detector import are_enough, detect, paired_by_mask
from evaluation.lesions.features import FeatureSet, measure_features
from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.lesions.openings import open_test_split
from evaluation.lesions.set_comparison import DistanceRow, SetMetric, distance_rows, set_metrics
from evaluation.lesions.shared_masks import comparable_sets
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import load_and_make_set, settings_of
from evaluation.reports.figures import COLOURS, DPI
from evaluation.reports.lesion_report import number
from evaluation.statistics.exchange import TEST_SPLITS, LesionSets, Splits, draw_splits
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_folder
from foundation.config import ExistingFolder, ModelSource, config_dict, launch, parse_config

TEXTURE = ("Gabor WD, standardised", "GLCM WD, standardised", "GLRLM WD, standardised", "Spectrum WD, standardised")
SHOWN = (*TEXTURE, "Coverage WD", "Seam WD")
WITHIN = (
    0.05  # the aim: every texture distance within 5 % of that of the most calls; fewer calls may also come out nearer
)


@dataclass(frozen=True)
class FewStepsConfig:
    """What to compare.

    Attributes:
        pipeline: Folder or Hugging Face Hub repository of the pipeline.
        data: Prepared dataset that gives scans, masks and the real lesions.
        out: Folder for the sets of lesions, the table and the curve; what is there is not made again.
        split: "train", "validation" or "test".
        lesions: Masks of the split to use, evenly spaced; null takes all.
        samples: Lesions for each mask.
        samplers: Names as `--scheduler` of scripts/inpaint_nodules.py, written as [ddim,unipc]; null takes all that fit
            the pipeline.
        calls: Calls of the network; the largest is each sampler's reference.
        paint_margin_mm: What is painted around the lesion; null takes the margin of the training.
        blend_mm: Width over which the change is blended in; null takes the margin.
        batch_size: Lesions at a time.
        repeats: Patient-wise splits.
        seed: Of the noise and of the splits.
        workers: Processes for texture features.
        device: "auto", "cpu" or "cuda".
    """

    pipeline: ModelSource
    data: ExistingFolder
    out: Path
    split: str = "validation"
    lesions: int | None = None
    samples: int = 1
    samplers: tuple[str, ...] | None = None
    calls: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 250)
    paint_margin_mm: float | None = None
    blend_mm: float | None = None
    batch_size: int = 8
    repeats: int = 200
    seed: int = 0
    workers: int = 1
    device: str = "auto"


@dataclass(frozen=True)
class Row:
    """One sampler with one number of calls.

    Attributes:
        apart_hu: From the same sampler's lesions with the most calls, see `apart_hu`.
        distances: To the real lesions, by metric.
        ratios: Of the distance to that of the most calls: ratio, lower and upper end of its 95 % interval.
        detector: How well figures tell its lesions from real ones: AUROC, lower and upper end; NaN of too few.
    """

    sampler: str
    calls: int
    apart_hu: float
    distances: Mapping[str, DistanceRow]
    ratios: Mapping[str, tuple[float, float, float]]
    detector: tuple[float, float | None, float | None]


def main(config: FewStepsConfig) -> None:
    """Inpaint what is missing, measure, write."""
    if len(config.calls) < 2 or min(config.calls) < 1:
        raise ValueError(f"calls {config.calls}, expected at least two numbers from 1 on; the largest is the reference")
    openings = open_test_split(config.data, config.split, "few_steps", config_dict(config))
    samplers = make_sets(config)
    real = load_lesions(config.data, config.split)[0]
    features, problems = measure_features(real, "real", config.workers)
    metrics = [metric for metric in set_metrics(features) if metric.name in SHOWN]
    rows = [row for sampler in samplers for row in measured(config, sampler, real, features, metrics, problems)]
    if not shown(rows):
        raise ValueError(f"{config.data}: too few lesions or patients for real vs real; give more lesions")
    text = document(config, rows, [*([openings] if openings else []), *dict.fromkeys(problems)])
    print(text)
    write_atomically(config.out / "few_steps.md", lambda temporary: temporary.write_text(text))
    draw(config.out / "few_steps.png", rows)
    print(f"wrote {config.out / 'few_steps.md'} and few_steps.png")


def make_sets(config: FewStepsConfig) -> tuple[str, ...]:
    """Inpaint the sets that are missing; the samplers' names."""
    neutral = set_config(config, "default", 1)
    pipeline, folder = load_pipeline(neutral)
    samplers = config.samplers or tuple(fitting_samplers(pipeline.scheduler))
    for sampler in samplers:
        sampler_of(sampler, pipeline.scheduler)  # refused before anything is made
    claim_folder(config.out, {**settings_of(neutral), **weights_of(neutral, pipeline, folder)})
    for sampler in samplers:
        for calls in sorted(config.calls):
            wanted = set_config(config, sampler, calls)
            if not wanted.out.exists():
                print(f"{sampler}, {calls} calls")
                load_and_make_set(wanted)
    return samplers


def set_config(config: FewStepsConfig, sampler: str, calls: int) -> SyntheticSetConfig:
    """What makes the lesions of one sampler and number of calls."""
    return SyntheticSetConfig(
        data=config.data,
        split=config.split,
        lesions=config.lesions,
        samples=config.samples,
        batch_size=config.batch_size,
        pipeline=config.pipeline,
        out=config.out / f"{sampler}_{calls}",
        scheduler=sampler,  # type: ignore[arg-type]  # checked by sampler_of
        steps=calls,
        draw_appearance=False,  # the sampler's own path, without HU that are met at its end
        paint_margin_mm=config.paint_margin_mm,
        blend_mm=config.blend_mm,
        seed=config.seed,
        device=config.device,
    )


def measured(
    config: FewStepsConfig,
    sampler: str,
    real_lesions: Sequence[Lesion],
    real: Mapping[str, FeatureSet],
    metrics: Sequence[SetMetric],
    problems: list[str],
) -> list[Row]:
    """The rows of one sampler, fewest calls first; `problems` gets a sentence for each lesion left out."""
    reference_lesions: list[Lesion] = []
    reference: Mapping[str, FeatureSet] = {}
    rows: list[Row] = []
    for calls in sorted(config.calls, reverse=True):
        lesions = load_lesions(config.out / f"{sampler}_{calls}", config.split)[0]
        label = f"{sampler}, {calls} calls"
        features, failed = measure_features(lesions, label, config.workers)
        if not rows:
            reference_lesions, reference = lesions, features
            masks = {lesion.mask_name for lesion in lesions}
            real = {kind: of_masks(given, masks) for kind, given in real.items()}
        found, notes = distance_rows(label, dict(real), features, list(metrics), config.repeats, 1, config.seed)
        problems += [*failed, *notes]
        distances = {row.metric: row for row in found if row.ratio is not None}
        ratios = {
            metric.name: ratio_to_reference(
                real[metric.kind], features[metric.kind], reference[metric.kind], metric, config.seed
            )
            for metric in metrics
            if metric.name in distances and metric.kind in reference
        }
        originals, first = paired_by_mask(real_lesions, lesions)
        detector: tuple[float, float | None, float | None] = (float("nan"), None, None)
        if are_enough(originals):
            found_out = detect(label, originals, first, config.seed, config.workers)
            detector = (found_out.auroc, found_out.low, found_out.high)
        rows.append(Row(sampler, calls, apart_hu(lesions, reference_lesions), distances, ratios, detector))
    return rows[::-1]


def of_masks(features: FeatureSet, masks: Collection[str]) -> FeatureSet:
    """Only the lesions with these masks."""
    return features.subset([lesion.name for lesion in features.lesions if lesion.mask_name in masks])


def apart_hu(lesions: Sequence[Lesion], reference: Sequence[Lesion]) -> float:
    """Mean absolute difference inside the mask, averaged over the lesions that both sets have, HU."""
    by_name = {lesion.name: lesion for lesion in reference}
    pairs = [(lesion, by_name[lesion.name]) for lesion in lesions if lesion.name in by_name]
    return float(np.mean([np.abs(a.ct_hu - b.ct_hu)[a.lesion_mask].mean() for a, b in pairs]))


def ratio_to_reference(
    real: FeatureSet, made: FeatureSet, reference: FeatureSet, metric: SetMetric, seed: int
) -> tuple[float, float, float]:
    """The distance of one set to the real lesions over that of another set in the same masks, with its interval.

    Both in the same patient-wise splits, synthetic lesions against real ones of other patients. As both sets are of the
    same masks and noise, their ratio is known far better than either distance. Interval: jackknife over patients of
    the logarithm, as in `evaluation.statistics.exchange.ratio_interval`.

    Args:
        real: Features of the real lesions.
        made, reference: Of the two sets, in masks of the real lesions; what only one of them has is left out.
        metric: The distance.
        seed: Of the splits.
    Returns: Ratio, lower and upper end of the 95 % interval.
    """
    both = {lesion.name for lesion in made.lesions} & {lesion.name for lesion in reference.lesions}
    names = [lesion.name for lesion in made.lesions if lesion.name in both]
    pair = [comparable_sets(real, features.subset(names))[0] for features in (made, reference)]
    splits = draw_splits(pair[0], TEST_SPLITS, np.random.default_rng(seed))

    def log_ratio(without: str | None) -> float:
        distances = [mean_distance(sets, splits, metric, without) for sets in pair]
        return float(np.log(np.maximum(distances, np.finfo(float).tiny)) @ [1, -1])

    patients = sorted(set(pair[0].real_patients))
    left_out = [log_ratio(patient) for patient in patients]
    reach = student_t.ppf(0.975, len(patients) - 1) * np.sqrt((len(patients) - 1) * np.var(left_out))
    ratio, low, high = np.exp(log_ratio(None) + reach * np.array([0, -1, 1]))
    return float(ratio), float(low), float(high)


def mean_distance(sets: LesionSets, splits: Splits, metric: SetMetric, without: str | None) -> float:
    """Synthetic lesions of one half of the patients to real ones of the other, mean over the splits, without one."""
    patients = np.asarray(sets.real_patients)
    values = []
    for rows, samples in zip(splits.real, splits.samples, strict=True):
        kept = [patients[side] != without for side in rows]
        real = [sets.real[side[keep], 0] for side, keep in zip(rows, kept, strict=True)]
        made = [sets.synthetic[s[k], draw[k], 0] for s, k, draw in zip(rows, kept, samples, strict=True)]
        values.append((metric.value(made[0], real[1]) + metric.value(made[1], real[0])) / 2)
    return float(np.mean(values))


def fewest_calls(rows: Sequence[Row], metrics: Sequence[str] = TEXTURE, within: float = WITHIN) -> int:
    """The smallest number of calls from which on every distance is that of the most calls, to a share of it.

    A smaller distance is as far off as a larger one: it says that the sampler has not arrived, and smooth lesions of
    two calls can lie nearer to real ones than those that the model has learnt.

    Args:
        rows: Of one sampler.
        metrics: Names of the distances that count.
        within: Largest difference of a ratio from 1.
    Returns: The number of calls; the reference's own if no smaller one will do.
    """
    enough = max(row.calls for row in rows)
    for row in sorted(rows, key=lambda row: row.calls, reverse=True):
        if any(abs(row.ratios[metric][0] - 1) > within for metric in metrics if metric in row.ratios):
            break
        enough = row.calls
    return enough


def shown(rows: Sequence[Row]) -> list[str]:
    """The distances that every row has, in the order of `SHOWN`."""
    return [name for name in SHOWN if all(name in row.ratios for row in rows)]


def detected(row: Row) -> str:
    """The detector's AUROC with its interval."""
    value, low, high = row.detector
    return f"{value:.2f}" + ("" if low is None else f" ({low:.2f} … {high:.2f})")


def document(config: FewStepsConfig, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The tables in Markdown."""
    metrics = shown(rows)
    short = [name.removesuffix(", standardised").removesuffix(" WD") for name in metrics]
    first, most = rows[0].distances[metrics[0]], max(config.calls)
    lines = [
        "# Texture against network calls",
        "",
        f"{first.synthetic_lesions} synthetic and {first.real_lesions} real lesions ({config.split}). Wasserstein "
        "distance to the real lesions of other patients, and in brackets its ratio to real vs real in the same splits "
        "(1 for a perfect generator). Detector: AUROC by figures against the real lesions of the same masks, 0.5 for a "
        "perfect generator. HU: mean absolute difference inside the mask from the same sampler's lesions "
        f"with {most} calls.",
        "",
        f"| sampler | calls | HU | detector | {' | '.join(short)} |",
        "|---|" + "---:|" * (3 + len(metrics)),
        f"| real vs real | | | | {' | '.join(number(real_vs_real(rows[0].distances[name])) for name in metrics)} |",
    ]
    for row in rows:
        cells = [f"{number(row.distances[name].value)} ({row.distances[name].ratio:.2f})" for name in metrics]
        lines.append(f"| {row.sampler} | {row.calls} | {row.apart_hu:.1f} | {detected(row)} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Ratio to the same sampler with {most} calls, 95 % interval (jackknife over patients):",
        "",
        f"| sampler | calls | {' | '.join(short)} |",
        "|---|" + "---:|" * (1 + len(metrics)),
    ]
    for row in rows:
        if row.calls < most:
            cells = ["{:.2f} ({:.2f} … {:.2f})".format(*row.ratios[name]) for name in metrics]
            lines.append(f"| {row.sampler} | {row.calls} | {' | '.join(cells)} |")
    lines += ["", f"Fewest calls from which on every texture distance is within {WITHIN:.0%} of that:", ""]
    for sampler in dict.fromkeys(row.sampler for row in rows):
        lines.append(f"- {sampler}: {fewest_calls([row for row in rows if row.sampler == sampler])}")
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def real_vs_real(row: DistanceRow) -> float | None:
    """The mean over the splits."""
    return None if row.floor is None else row.floor.mean


def draw(path: Path, rows: Sequence[Row]) -> None:
    """The detector, then a column for each distance: above over real vs real, below over the most calls."""
    metrics, samplers = shown(rows), list(dict.fromkeys(row.sampler for row in rows))
    figure = Figure(figsize=(2.6 * (len(metrics) + 1), 5.6), layout="constrained")
    all_axes = figure.subplots(2, len(metrics) + 1, sharex=True, squeeze=False)
    all_axes[1, 0].set_axis_off()
    axes = all_axes[:, 1:]
    for index, sampler in enumerate(samplers):
        line = [row for row in rows if row.sampler == sampler]
        values, style = [row.detector[0] for row in line], {"color": COLOURS[index % len(COLOURS)], "ms": 3}
        all_axes[0, 0].plot([row.calls for row in line], values, "o-", **style)
    all_axes[0, 0].axhline(0.5, color="black", linewidth=0.7)
    all_axes[0, 0].set_title("detector, AUROC", fontsize=9)
    for column, metric in enumerate(metrics):
        above, below = axes[:, column]
        for index, sampler in enumerate(samplers):
            line = [row for row in rows if row.sampler == sampler]
            calls, style = [row.calls for row in line], {"color": COLOURS[index % len(COLOURS)], "ms": 3}
            above.plot(calls, [row.distances[metric].ratio for row in line], "o-", label=sampler, **style)
            ratio, low, high = np.array([row.ratios[metric] for row in line]).T
            below.errorbar(calls, ratio, [ratio - low, high - ratio], fmt="o-", capsize=2, **style)
        above.axhline(1, color="black", linewidth=0.7)
        below.axhspan(1 - WITHIN, 1 + WITHIN, color="#dfeadf")
        above.set_title(metric.removesuffix(", standardised"), fontsize=9)
        below.set(xlabel="network calls", ylim=(0.8, 1.5))  # near 1 is what decides
        below.set_xscale("log", base=2)
        ticks = sorted({row.calls for row in rows})
        below.set_xticks(ticks, [f"{tick}" for tick in ticks], fontsize=7)
    axes[0, 0].set_ylabel("distance / real vs real")
    axes[1, 0].set_ylabel("distance / that of the most calls")
    axes[0, -1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=DPI)


if __name__ == "__main__":
    launch(main, parse_config(FewStepsConfig))
