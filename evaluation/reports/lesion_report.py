"""The results of one evaluation, and the report made of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.lesions.detector import SIZES, Detection
from evaluation.lesions.method_tests import PairedTest
from evaluation.lesions.pair_comparison import PairedRow
from evaluation.lesions.set_comparison import DistanceRow, FloorRow
from evaluation.lesions.spreads import SpreadRow
from evaluation.reports.report import report_document, save_report
from foundation.document import Block, Bullets, Paragraph, Picture, Table

TITLE = "Evaluation of synthetic lesions"
NONE = "–"
SOURCE_COLUMNS = ("GLCM WD", "GLRLM WD", "Gabor WD", "FID", "Fréchet 3D")
READING = (
    "WD: Wasserstein distance of each feature's two distributions; the mean over features, their standard deviation "
    "in brackets. Standardised: each feature divided by its standard deviation over the real lesions, because raw "
    "means are ruled by the one feature with the largest unit.",
    "Set vs real: the patients are split in halves again and again, and the synthetic lesions of one half (one "
    "sample of each mask, drawn anew) are held against the real lesions of the other. Real vs real: the real lesions "
    "of the one half against those of the other, in the same splits, so at the same sizes. Their ratio is 1 for a "
    "perfect generator; its 95 % interval comes from leaving out one patient at a time.",
    "p (farther): the real lesion and the samples of each patient change roles at random; how often is set vs real "
    "then as far above real vs real? Blind to lesions that are too much alike, whose ratio may be below 1. "
    "p (differs): the same exchange, with the distance of the two whole sets, which sees too little spread as well. "
    "Where no patient is in both sets, patients change sets instead, and there is no p (farther). These p-values are "
    "not adjusted for the number of distances.",
    "≠ 1 marks a ratio whose interval does not hold 1: such a set is farther from real lesions, or nearer, than real "
    "lesions are from each other, beyond chance.",
    "Detector: AUROC of a classifier that tells a set from the real lesions in the same masks, on patients that it has "
    "not seen; 0.5 is a perfect generator. Brackets: 95 % interval over patients. What gives it away: the figures that "
    "tell most by themselves; more or less is of synthetic lesions. Controls are real lesions with a known fault. "
    "Between real lesions, half of the patients are called synthetic; brackets: 95 % of 20 halves.",
    "Gabor: 8 frequencies (0.05 to 0.4 per voxel) x 8 orientations in three planes, foreground only. GLCM and GLRLM: "
    "pyradiomics, HU clipped to -1150 ... 350. FID: Inception-v3 on the three central slices, foreground only; KID is "
    "its counterpart without small-sample bias and may be negative. Fréchet 3D and KID 3D: the same in the features of "
    "a 3D network of this project that saw training nodules only.",
    "Copies: root mean square difference over the union of two masks, centroids aligned, 1 mm smoothing. Suspect is "
    "what is closer than half the distance of the closest two real patients. p (closer): one-sided Mann-Whitney.",
    "Paired figures: foreground only, CT mapped from -1150 ... 350 HU to [-1, 1] (LPIPS: 32 mm slices with context). "
    "Texture error: mean over features of |synthetic - real| / real spread. Seam: how much the CT jumps at the mask's "
    "border beyond the slopes on both sides.",
)


@dataclass(frozen=True)
class SetSummary:
    """One set of lesions as it was read; `spacing_mm` are its distinct (z, y, x)."""

    label: str
    path: str
    split: str
    lesions: int
    patients: int
    spacing_mm: list[list[float]]  # the distinct (z, y, x)


@dataclass(frozen=True)
class CopyCheck:
    """Of one method; distances in ct_norm units, see `evaluation.lesions.memorisation`."""

    method: str
    lesions: int
    median: float
    test_median: float
    threshold: float
    p_closer: float
    duplicates: list[tuple[str, str, float]]  # synthetic lesion, training lesion, distance


@dataclass(frozen=True)
class Diversity:
    """Of one method; `variety` and `seed_variety` in units of the mean distance between real lesions."""

    method: str
    variety: float | None
    seed_masks: int
    seed_spread: float | None
    seed_variety: float | None


@dataclass
class Results:
    """Everything the report prints, in the order of its sections."""

    settings: dict[str, Any]
    test_openings: str | None = None  # from `evaluation.lesions.openings`
    sets: list[SetSummary] = field(default_factory=list)
    distances: list[DistanceRow] = field(default_factory=list)
    floors: list[FloorRow] = field(default_factory=list)
    real_against_real: tuple[float, float, float] | None = None
    detections: list[Detection] = field(default_factory=list)
    spreads: list[SpreadRow] = field(default_factory=list)
    pairs: list[PairedRow] = field(default_factory=list)
    tests: list[PairedTest] = field(default_factory=list)
    copies: list[CopyCheck] = field(default_factory=list)
    diversity: list[Diversity] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)  # section -> pictures
    left_out: list[str] = field(default_factory=list)


def write_report(results: Results, out: Path) -> None:
    """Write report.json, report.md and report.html into `out`, where the pictures lie already.

    Raises: ValueError: If a figure is NaN or infinite; none may reach a report unnoticed.
    """
    save_report(out, TITLE, report_blocks(results), dataclasses.asdict(results))


def report_blocks(results: Results) -> list[Block]:
    """The report's sections; those without content are left out, except the list of what is missing."""
    sections: dict[str, list[Block]] = {
        "Summary": [_source_table(results)] if results.distances else [],
        "Detector": _detector_blocks(results),
        "Distances to the real set": [distance_table(results.distances)] if results.distances else [],
        "Real vs real by number of lesions": [_floor_table(results.floors)] if results.floors else [],
        "Medians and quartiles": [spread_table(results.spreads)] if results.spreads else [],
        "Paired figures": [pair_table(results.pairs)] if results.pairs else [],
        "Tests between methods": [_test_table(results.tests)] if results.tests else [],
        "Copies of training lesions": _copy_blocks(results.copies),
        "Diversity": [_diversity_table(results.diversity)] if results.diversity else [],
        "Pictures": [],
    }
    for section, pictures in results.pictures.items():
        sections[section] += pictures
    opening: list[Block] = [_sets_table(results.sets)]
    if results.test_openings:
        opening.append(Paragraph(results.test_openings))
    return report_document(TITLE, opening, sections, results.left_out, READING, results.settings)


def number(value: float | None) -> str:
    """Three significant digits, no exponent for everyday sizes."""
    if value is None:
        return NONE
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _spread(value: float | None, std: float | None) -> str:
    return number(value) + (f" ({number(std)})" if std is not None else "")


def _sets_table(sets: Sequence[SetSummary]) -> Table:
    rows = []
    for one in sets:
        spacings = "; ".join(" x ".join(f"{s:g}" for s in spacing) for spacing in one.spacing_mm[:3])
        spacings += f"; {len(one.spacing_mm) - 3} more" if len(one.spacing_mm) > 3 else ""
        rows.append([one.label, one.path, one.split, str(one.lesions), str(one.patients), spacings])
    return Table(["set", "folder", "split", "lesions", "patients", "spacing z, y, x [mm]"], rows)


def _source_table(results: Results) -> Table:
    """The distances of Table 1 of the texture-loss proposal, and ours, each set with its own real vs real below."""
    metrics = [m for m in SOURCE_COLUMNS if any(row.metric == m for row in results.distances)]
    rows = []
    for method in dict.fromkeys(row.method for row in results.distances):
        found = {row.metric: row for row in results.distances if row.method == method}
        cells = [_spread(found[m].value, found[m].std) if m in found else NONE for m in metrics]
        rows.append([method, *cells])
        sizes = next((row.floor.sizes for row in found.values() if row.floor), None)
        if sizes:
            floor_cells = [_floor_cell(found[m].floor if m in found else None) for m in metrics]
            rows.append([f"real vs real beside {method}, {sizes[0]} : {sizes[1]}", *floor_cells])
    return Table(["set", *metrics], rows)


def _floor_cell(floor: FloorRow | None) -> str:
    return NONE if floor is None else _spread(floor.mean, floor.std)


def distance_table(distances: Sequence[DistanceRow]) -> Table:
    """Every distance of every set beside real vs real in the same splits, with its ratio and tests."""
    header = ["distance", "set", "set vs real (std)", "real vs real", "95 % of splits", "sizes", "ratio"]
    rows = []
    for metric in dict.fromkeys(row.metric for row in distances):
        for row in [row for row in distances if row.metric == metric]:
            cells = [metric, row.method, _spread(row.value, row.std)]
            if row.floor is None:
                cells += [NONE] * 3
            else:
                cells += [
                    number(row.floor.mean),
                    f"{number(row.floor.low)} … {number(row.floor.high)}",
                    f"{row.floor.sizes[0]} : {row.floor.sizes[1]}",
                ]
            interval = NONE if row.ratio is None else f"{number(row.low)} … {number(row.high)}"
            ratio = ratio_cell(row.ratio, row.low, row.high)
            rows.append([*cells, ratio, interval, number(row.p_farther), number(row.p_differs)])
    return Table([*header, "95 % interval", "p (farther)", "p (differs)"], rows)


def _detector_blocks(results: Results) -> list[Block]:
    if not results.detections:
        return []
    rows = []
    if results.real_against_real is not None:
        rows.append(["real, other patients", NONE, _with_interval(*results.real_against_real), *4 * [NONE], ""])
    for found in results.detections:
        by_diameter = {text: f"{value:.2f} ({pairs})" for text, pairs, value in found.by_diameter}
        rows.append(
            [
                found.label,
                str(found.pairs),
                _with_interval(found.auroc, found.low, found.high),
                *(by_diameter.get(text, NONE) for text, _, _ in SIZES),
                NONE if found.network is None else _with_interval(*found.network),
                ", ".join(
                    f"{'more' if alone > 0.5 else 'less'} {name} {max(alone, 1 - alone):.2f}"
                    for name, alone in found.telltales[:3]
                ),
            ]
        )
    header = ["set", "masks", "AUROC by figures", *(text for text, _, _ in SIZES), "by network", "what gives it away"]
    return [Table(header, rows)]


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.2f}" + ("" if low is None else f" [{low:.2f} … {high:.2f}]")


def spread_table(spreads: Sequence[SpreadRow]) -> Table:
    """Median and quartiles of each figure, a row for each set."""
    labels = list(dict.fromkeys(row.label for row in spreads))
    figures = list(dict.fromkeys(row.figure for row in spreads))
    found = {(row.label, row.figure): row for row in spreads}
    rows = []
    for label in labels:
        cells = [found.get((label, figure)) for figure in figures]
        rows.append(
            [label] + [NONE if c is None else f"{number(c.median)} [{number(c.low)} … {number(c.high)}]" for c in cells]
        )
    return Table(["median [quartiles]", *figures], rows)


def ratio_cell(ratio: float | None, low: float | None, high: float | None) -> str:
    """A ratio to real vs real, marked where its interval does not hold 1."""
    if ratio is None or low is None or high is None:
        return NONE
    return number(ratio) + ("" if low <= 1 <= high else " ≠ 1")


def _floor_table(floors: Sequence[FloorRow]) -> Table:
    sizes = sorted({row.sizes for row in floors})
    rows = []
    for metric in dict.fromkeys(row.metric for row in floors):
        found = {row.sizes: row for row in floors if row.metric == metric}
        cells = [
            f"{number(found[s].mean)} [{number(found[s].low)} … {number(found[s].high)}]" if s in found else NONE
            for s in sizes
        ]
        rows.append([metric, *cells])
    return Table(["mean [95 % of splits]", *(f"{n} : {m}" for n, m in sizes)], rows)


def pair_table(pairs: Sequence[PairedRow]) -> Table:
    """Every paired figure of every set, with its interval."""
    rows = [
        [
            *(p.metric, p.method, str(p.pairs), number(p.mean), number(p.std), f"{number(p.low)} … {number(p.high)}"),
            f"{number(p.median)} [{number(p.quartiles[0])} … {number(p.quartiles[1])}]",
        ]
        for metric in dict.fromkeys(row.metric for row in pairs)
        for p in pairs
        if p.metric == metric
    ]
    return Table(["figure", "set", "pairs", "mean", "std", "95 % interval", "median [quartiles]"], rows)


def _test_table(tests: Sequence[PairedTest]) -> Table:
    rows = [
        [t.metric, f"{t.first} − {t.second}", str(t.patients), number(t.difference), number(t.p), number(t.p_holm)]
        for t in tests
    ]
    return Table(["figure", "difference", "patients", "value", "p", "p (Holm)"], rows)


def _copy_blocks(copies: Sequence[CopyCheck]) -> list[Block]:
    if not copies:
        return []
    rows = []
    for c in copies:
        numbers = [number(value) for value in (c.median, c.test_median, c.p_closer, c.threshold)]
        rows.append([c.method, *numbers, f"{len(c.duplicates)} of {c.lesions}"])
    header = ["set", "nearest training lesion, median", "of real test lesions", "p (closer)"]
    blocks: list[Block] = [Table([*header, "suspect below", "suspected copies"], rows)]
    for c in copies:
        if c.duplicates:
            listed = [f"{c.method}: {made} copies {train} (distance {number(d)})" for made, train, d in c.duplicates]
            blocks.append(Bullets(listed))
    return blocks


def _diversity_table(rows: Sequence[Diversity]) -> Table:
    header = ["set", "variety of lesions / real", "masks with seeds", "voxel spread over seeds [ct_norm]"]
    cells = [
        [r.method, number(r.variety), str(r.seed_masks), number(r.seed_spread), number(r.seed_variety)] for r in rows
    ]
    return Table([*header, "variety of seeds / real"], cells)
