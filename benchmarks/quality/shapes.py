"""Shapes of lesions that have no mask: are they told from real ones, and do they obey a request?

    uv run benchmarks/quality/shapes.py --data lidc_shapes --nodules data/nodules --out runs/shapes_judged

Judges are the outlines of the validation patients, whose shapes a pipeline does not have. Each of them asks for a shape
of its diameter, lobulation and spiculation. A classifier two-sample test on the figures of masks alone
(`evaluation.lesions.shape_figures`) then says how well drawn shapes are told from real ones, AUROC 0.5 for not at all.
Real shapes of other patients without any transformation stand beside them. Obedience is the rank correlation of what
was requested with what a regressor, trained on real masks and ratings of other patients, says of the drawn shape. Its
correlation with the readers on the real shapes of the validation patients is its ceiling. Large nodules are rated
higher, so both are also given with the diameter held. Requests of one rating, even from 1 to 5, go further than the
validation patients do; their ceiling is the regressor's correlation with the readers on the drawn shapes themselves.

With --pairs, the masks that a paired pipeline made in the places of validation nodules (benchmarks/quality/paired.py)
are judged in the same way, beside these nodules.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.ensemble import HistGradientBoostingRegressor
from tqdm import tqdm

from diffusion.shapes import Chosen, LesionShapes, drawn_mask
from evaluation.lesions.detector import LEAST, held_out_scores
from evaluation.lesions.shape_figures import NAMED, SHAPE_FIGURES, shape_figures
from evaluation.statistics.agreement import auroc, partial_spearman, patient_interval, spearman
from evaluation.statistics.distances import wasserstein_per_feature
from foundation.atomic import write_atomically
from foundation.config import ExistingFolder, launch, parse_config
from imaging.dataset.nodules import load_nodules
from imaging.dataset.rows import SPLITS
from imaging.dataset.shape_files import NoduleShape, read_nodule_shapes, shapes_by_split

RATED = ("lobulation", "spiculation")
FOLDS, RESAMPLES = 5, 1000
REAL, OTHERS, PROCEDURAL = "real, drawn", "real, other patients", "procedural"
GRID = 3 * (1.0,)
EVEN_MM = (6.0, 20.0)  # diameters of requests beyond those of the validation patients; smaller ones show no character


@dataclass(frozen=True)
class ShapesConfig:
    """What to judge.

    Attributes:
        data: Folder of outlines, as for scripts/prepare_shapes.py.
        nodules: Prepared dataset, which says whose shapes are held out, and has masks at half maximum.
        out: Folder for figures.json, figures.md and shapes.png.
        pairs: Prepared dataset of what a paired pipeline made; null judges none.
        lesions: Held-out shapes that are looked at, at most; drawn at random.
        regressor_lesions: Shapes that the regressor is trained on, at most.
        seed: Of everything random.
    """

    data: ExistingFolder
    nodules: ExistingFolder
    out: Path
    pairs: ExistingFolder | None = None
    lesions: int = 300
    regressor_lesions: int = 900
    seed: int = 0


@dataclass(frozen=True)
class Masks:
    """Figures of masks, (N, F); their patients; what was requested and what readers said, (N, 2) as `RATED`."""

    figures: np.ndarray
    patients: list[str]
    requested: np.ndarray
    rated: np.ndarray


def main(config: ShapesConfig) -> None:
    """Draw, measure, judge, write."""
    rng = np.random.default_rng(config.seed)
    known = {
        patient: split
        for split in SPLITS
        if (config.nodules / split).is_dir()
        for patient in load_nodules(config.nodules, split)["patient_id"]
    }
    by_split = shapes_by_split(read_nodule_shapes(config.data), known)
    own = by_split["train"]
    held_out = some(by_split["validation"], config.lesions, rng)
    shapes = LesionShapes.of_nodules(own)
    real = measured(held_out)
    requests = [{name: shape.ratings[name] for name in RATED} for shape in held_out]
    diameters = real.figures[:, 0].tolist()
    sets = {
        PROCEDURAL: drawn(None, own, diameters, requests, config.seed),
        REAL: drawn(shapes, own, diameters, requests, config.seed),
        OTHERS: untouched(shapes, own, diameters, requests, config.seed),
    }
    report: dict[str, Any] = {
        "held_out": [len(held_out), len({shape.patient_id for shape in held_out})],
        "own": [len(own), len({shape.patient_id for shape in own})],
        "two_sample": {name: told_apart(real, masks, config.seed) for name, masks in sets.items()},
    }
    at_half = half_maximum(config.nodules, config.lesions, rng)
    asked = drawn(shapes, own, at_half.figures[:, 0].tolist(), ratings_of(at_half), config.seed + 1)
    if min(len(at_half.figures), len(asked.figures)) >= LEAST:
        report["two_sample"]["real, drawn, against outlines at half maximum"] = told_apart(at_half, asked, config.seed)
    if config.pairs is not None:
        learned = masks_of(load_nodules(config.pairs, "validation"))
        report["two_sample"]["learned, against outlines at half maximum"] = told_apart(at_half, learned, config.seed)
        sets |= {"outlines at half maximum": rated(at_half), "learned": rated(learned)}
    even_mm = np.exp(rng.uniform(*np.log(EVEN_MM), len(held_out))).tolist()
    for number, name in enumerate(RATED):
        even = [{name: float(value)} for value in rng.uniform(1, 5, len(held_out))]
        sets[f"real, drawn, {name} alone"] = drawn(shapes, own, even_mm, even, config.seed + 2 + number)
    regressor_set = measured(some(own, config.regressor_lesions, rng))
    report["obedience"] = obedience(regressor_set, real, sets, config.seed)
    text = markdown(report)
    config.out.mkdir(parents=True, exist_ok=True)
    save_picture(config.out / "shapes.png", shapes, config.seed)
    write_atomically(config.out / "figures.json", lambda path: path.write_text(json.dumps(report, indent=1)))
    write_atomically(config.out / "figures.md", lambda path: path.write_text(text))
    print(text)


def some(shapes: Sequence[NoduleShape], count: int, rng: np.random.Generator) -> list[NoduleShape]:
    """At most so many, at random."""
    return [shapes[int(index)] for index in np.sort(rng.permutation(len(shapes))[:count])]


def measured(shapes: Sequence[NoduleShape]) -> Masks:
    """Real shapes as a pipeline would draw them, but as they are: neither turned, mirrored nor scaled."""
    component = LesionShapes.of_nodules(shapes)
    masks = [plain(component, number) for number in range(len(shapes))]
    ratings = np.array([[shape.ratings[name] for name in RATED] for shape in shapes])
    return Masks(figures_of(masks), [shape.patient_id for shape in shapes], ratings, ratings)


def plain(shapes: LesionShapes, number: int) -> np.ndarray:
    """A shape in its own place."""
    edge = int(max(shapes.extent[number].tolist())) + 12
    return shapes.mask(Chosen(number, 1.0, 0.0, (False, False)), 3 * (edge,), GRID, 3 * (edge / 2,))


def drawn(
    shapes: LesionShapes | None,
    own: Sequence[NoduleShape],
    diameters: Sequence[float],
    requests: Sequence[dict[str, float]],
    seed: int,
) -> Masks:
    """What a call without a mask draws; a procedural shape has no patient."""
    masks, patients, kept, rated = [], [], [], []
    for number, (diameter_mm, request) in enumerate(zip(diameters, requests, strict=True)):
        edge = int(4 * diameter_mm) + 16
        try:
            place = (3 * (edge,), GRID, 3 * (edge / 2,), diameter_mm, request, 1000 * seed + number, shapes)
            mask, record = drawn_mask(*place)
        except ValueError:
            continue  # larger than any shape that there is
        masks.append(mask)
        patients.append(own[record["number"]].patient_id if shapes is not None else f"procedural {number}")
        kept.append([request.get(name, np.nan) for name in RATED])
        rated.append([record[name] if shapes is not None else np.nan for name in RATED])
    return Masks(figures_of(masks), patients, np.array(kept), np.array(rated))


def untouched(
    shapes: LesionShapes,
    own: Sequence[NoduleShape],
    diameters: Sequence[float],
    requests: Sequence[dict[str, float]],
    seed: int,
) -> Masks:
    """The shapes that would be drawn, without being turned, mirrored and scaled: real against real."""
    masks, patients, kept, rated = [], [], [], []
    for number, (diameter_mm, request) in enumerate(zip(diameters, requests, strict=True)):
        try:
            chosen = shapes.choose(diameter_mm, request, np.random.default_rng(1000 * seed + number))
        except ValueError:
            continue
        masks.append(plain(shapes, chosen.number))
        patients.append(own[chosen.number].patient_id)
        kept.append([request[name] for name in RATED])
        rated.append([own[chosen.number].ratings[name] for name in RATED])
    return Masks(figures_of(masks), patients, np.array(kept), np.array(rated))


def half_maximum(nodules: Path, count: int, rng: np.random.Generator) -> Masks:
    """The masks of the prepared dataset's validation split, at 1 mm."""
    rows = load_nodules(nodules, "validation")
    return masks_of(rows.select(np.sort(rng.permutation(len(rows))[:count])))


def masks_of(rows: Dataset) -> Masks:
    """The masks of a prepared dataset at 1 mm; requested is what readers said of the nodule."""
    ratings = np.array([[np.nan if row[name] is None else row[name] for name in RATED] for row in rows], float)
    return Masks(
        figures_of([np.asarray(row["lesion_mask"]) for row in rows]), list(rows["patient_id"]), ratings, ratings
    )


def rated(masks: Masks) -> Masks:
    """Those with all ratings."""
    known = np.isfinite(masks.requested).all(1)
    patients = [name for name, one in zip(masks.patients, known, strict=True) if one]
    return Masks(masks.figures[known], patients, masks.requested[known], masks.rated[known])


def ratings_of(masks: Masks) -> list[dict[str, float]]:
    """The ratings that are known, as requests."""
    return [
        {name: float(np.clip(value, 1, 5)) for name, value in zip(RATED, row, strict=True) if np.isfinite(value)}
        for row in masks.requested
    ]


def figures_of(masks: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([shape_figures(mask) for mask in tqdm(masks, leave=False)])


def told_apart(real: Masks, made: Masks, seed: int) -> dict[str, Any]:
    """The two-sample test, folds by patient; and distances of single figures in standard deviations of the real."""
    figures = np.concatenate([real.figures, made.figures])
    is_made = np.arange(len(figures)) >= len(real.figures)
    patients = [*real.patients, *made.patients]
    scores = held_out_scores(figures, is_made, patients, seed)
    interval = patient_interval(
        lambda rows: auroc(scores[rows], is_made[rows]), patients, RESAMPLES, np.random.default_rng(seed)
    )
    alone = {}
    for column, name in enumerate(SHAPE_FIGURES):
        values = figures[:, column]
        known = np.isfinite(values)
        alone[name] = auroc(values[known], is_made[known])
    named = [masks.figures[np.isfinite(masks.figures[:, : len(NAMED)]).all(1), : len(NAMED)] for masks in (real, made)]
    apart = wasserstein_per_feature(*named)
    telling = sorted(alone, key=lambda name: -abs(alone[name] - 0.5))[:3]
    return {
        "lesions": len(made.figures),
        "auroc": auroc(scores, is_made),
        "interval": interval,
        "telling": {name: alone[name] for name in telling},
        "distance": dict(zip(NAMED, (apart / named[0].std(0)).tolist(), strict=True)),
    }


def obedience(training: Masks, real: Masks, sets: dict[str, Masks], seed: int) -> dict[str, Any]:
    """Rank correlations of requests with a regressor that has not seen the patient whose shape it judges."""
    patients = np.unique(training.patients)
    fold_of = {name: fold % FOLDS for fold, name in enumerate(np.random.default_rng(seed).permutation(patients))}
    folds = np.array([fold_of[patient] for patient in training.patients])
    found: dict[str, Any] = {"ceiling": {}, **{name: {} for name in sets}}
    for column, rating in enumerate(RATED):
        models = [
            HistGradientBoostingRegressor(
                max_iter=80, learning_rate=0.08, max_leaf_nodes=8, min_samples_leaf=10, random_state=seed
            ).fit(training.figures[folds != fold], training.requested[folds != fold, column])
            for fold in range(FOLDS)
        ]

        def said(masks: Masks, models: list[Any] = models) -> np.ndarray:
            every = np.stack([model.predict(masks.figures) for model in models])
            own = [fold_of.get(patient) for patient in masks.patients]  # None: seen by no model
            return np.array(
                [every[:, row].mean() if fold is None else every[fold, row] for row, fold in enumerate(own)]
            )

        for name, masks in (("ceiling", real), *sets.items()):
            if np.isfinite(masks.requested[:, column]).all():
                found[name][rating] = correlated(masks, column, said(masks), seed)
    return found


def correlated(masks: Masks, column: int, said: np.ndarray, seed: int) -> dict[str, Any]:
    """Rank correlations of requests, regressor and readers, and the mean answer to low and to high requests."""
    requested, rated, diameter_mm = masks.requested[:, column], masks.rated[:, column], masks.figures[:, 0]
    interval = patient_interval(
        lambda rows: spearman(requested[rows], said[rows]), masks.patients, RESAMPLES, np.random.default_rng(seed)
    )
    known = bool(np.isfinite(rated).all())
    low, high = (float(said[rows].mean()) if rows.any() else None for rows in (requested <= 2, requested >= 4))
    return {
        "regressor": spearman(requested, said),
        "interval": interval,
        "regressor_at_equal_diameter": partial_spearman(requested, said, diameter_mm),
        "readers": spearman(requested, rated) if known else None,
        "regressor_with_readers": spearman(rated, said) if known else None,
        "low": low,
        "high": high,
    }


def save_picture(path: Path, shapes: LesionShapes, seed: int, columns: int = 10) -> None:
    """Middle slices of shapes of 16 mm: real and procedural, smooth and spiculated; no image of a patient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns, 4.3))
    axes = figure.subplots(4, columns)
    for row, (kind, spiculation) in enumerate((kind, value) for kind in ("real", "procedural") for value in (1.0, 5.0)):
        for column in range(columns):
            request = {"spiculation": spiculation, "lobulation": spiculation}
            own = shapes if kind == "real" else None
            mask, _ = drawn_mask((60,) * 3, (0.7,) * 3, (30,) * 3, 16.0, request, seed + column, own)
            axes[row, column].imshow(mask[30], cmap="gray_r", vmin=0, vmax=1.3)
            axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(f"{kind}, {spiculation:g}", fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=80)


def markdown(report: dict[str, Any]) -> str:
    """Both tables."""
    lines = [
        f"{report['held_out'][0]} shapes of {report['held_out'][1]} validation patients; drawn from {report['own'][0]} "
        f"shapes of {report['own'][1]} training patients.",
        "",
        f"| drawn | shapes | AUROC | {' | '.join(NAMED)} | most telling |",
        "|---|---:|---|" + "---:|" * len(NAMED) + "---|",
    ]
    for name, row in report["two_sample"].items():
        low, high = row["interval"] or (np.nan, np.nan)
        telling = ", ".join(f"{figure} {value:.2f}" for figure, value in row["telling"].items())
        cells = [f"{row['distance'][figure]:.2f}" for figure in NAMED]
        auroc_text = f"{row['auroc']:.2f} ({low:.2f} … {high:.2f})"
        lines.append(f"| {name} | {row['lesions']} | {auroc_text} | {' | '.join(cells)} | {telling} |")
    lines += [
        "",
        "| shapes | request | with the regressor | at equal diameter | with the readers | regressor with readers | "
        "regressor says at 1 to 2 | at 4 to 5 |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    names = ("regressor_at_equal_diameter", "readers", "regressor_with_readers", "low", "high")
    for name, row in report["obedience"].items():
        for rating, one in row.items():
            low, high = one["interval"] or (np.nan, np.nan)
            rest = [f"{one[key]:.2f}" if one[key] is not None else "–" for key in names]
            value = f"{one['regressor']:.2f} ({low:.2f} … {high:.2f})"
            lines.append(f"| {name} | {rating} | {value} | {' | '.join(rest)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    launch(main, parse_config(ShapesConfig))
