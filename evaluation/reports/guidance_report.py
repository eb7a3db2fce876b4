"""The results of asking for lesions of a character, and the report made of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.guided.cost import FRECHET, TEXTURE_DISTANCES, CostRow, goal_sentences, is_beyond
from evaluation.guided.judge_figures import JudgeRow
from evaluation.guided.requested_vs_achieved import ClassRow, LeakRow, RankRow
from evaluation.lesions.set_comparison import DistanceRow
from evaluation.reports.lesion_report import NONE, number
from evaluation.reports.report import report_document, save_report
from foundation.document import Block, Bullets, Heading, Paragraph, Picture, Table
from imaging.lesions.measured_attributes import MEASURED

TITLE = "Lesions of the character requested"
READING = (
    "Every mask gets a lesion for each requested value at each scale, all from the same noise. The unconditional "
    "lesion has that noise and no request. Scales: cfg is classifier-free guidance of the denoiser's own attributes (0 "
    "requests nothing, 1 is the plain conditional network); classifier is the gradient of classifiers on noisy "
    "latents; both sweeps the two together; hu is the share of the decoded lesion's missing HU that a late step adds.",
    "The judge is no convolutional network, has seen no latent and no noise, and was trained on real nodules alone: "
    "small networks on measured figures of the finished image. What it says is what the mask's volume tells plus what "
    "the image adds. Large nodules are mostly malignant, so volume alone tells real ones well; but lesions requested "
    "as benign and as malignant share their masks, so only what the image adds can follow: at equal size is that part.",
    "The judge's AUROC of real lesions at equal size is over pairs of a malignant and a benign lesion of like volume. "
    "Even perfect lesions would not exceed it if requested once; more than that is exaggeration, which may be wanted.",
    "Whole verdict: the same with what volume tells, which differs between masks but not between the two lesions of a "
    "mask, and so acts as noise. Within the mask: how often the malignant lesion of a mask is judged the more "
    "malignant. As requested: the share whose image speaks for the requested class at its volume.",
    "Rank correlation: of requested and judged rating (what the image adds), or requested and achieved HU inside the "
    "mask, over all lesions and, in the next column, within each mask. HU beyond the CT window cannot be made.",
    "Distances: all values of a request together, against real lesions of other patients, beside real vs real in the "
    "same splits; their ratio is 1 for a perfect generator. In range: not above 97.5 % of the splits of real vs real; "
    "with few lesions that range is wide and the hurdle low. See the report of scripts/evaluate.py.",
    "Leakage: mean change of what was judged (the image's part) or measured, against the same noise unconditional, in "
    "standard deviations of the real lesions. Ratings go together in real nodules (spiculated ones are malignant), so "
    "some leakage is right.",
)


@dataclass
class GuidanceResults:
    """Everything the report prints.

    Attributes:
        settings: Of the run.
        kind: Of guidance.
        masks, patients, samples: Of the sets.
        test_openings: From `evaluation.lesions.openings`.
        judge: The judge on real lesions that it was not trained on.
        classes, ranks, leaks, costs: By request and scale.
        changed_outside, outside, sets: Voxels changed where nothing was to be painted, of how many, in how many sets.
        pictures: Section -> pictures.
        left_out: A sentence for each thing that could not be done.
    """

    settings: dict[str, Any]
    kind: str
    masks: int = 0
    patients: int = 0
    samples: int = 1
    test_openings: str | None = None
    judge: list[JudgeRow] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)
    ranks: list[RankRow] = field(default_factory=list)
    leaks: list[LeakRow] = field(default_factory=list)
    costs: list[CostRow] = field(default_factory=list)
    changed_outside: int = 0
    outside: int = 0
    sets: int = 0
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def write_guidance_report(results: GuidanceResults, out: Path) -> None:
    """Write report.json, report.md and report.html into `out`, where the pictures lie already.

    Raises: ValueError: If a figure is NaN or infinite; none may reach a report unnoticed.
    """
    save_report(out, TITLE, report_blocks(results), dataclasses.asdict(results))


def report_blocks(results: GuidanceResults) -> list[Block]:
    """The report's sections; those without content are left out, except the list of what is missing."""
    sections: dict[str, list[Block]] = {
        "Summary": _summary(results),
        "The judge on real lesions": [_judge_table(results.judge)] if results.judge else [],
        "Benign and malignant": [_class_table(results.classes)] if results.classes else [],
        "Graded requests": _rank_tables(results.ranks),
        "What it costs": _cost_blocks(results.costs),
        "Leakage": [_leak_table(results.leaks)] if results.leaks else [],
        "Pictures": [],
    }
    for section, pictures in results.pictures.items():
        sections[section] += pictures
    size = f"{results.masks} masks of {results.patients} patients, {results.samples} lesion(s) for each value"
    opening: list[Block] = [Paragraph(f"Guidance of kind {results.kind!r}; {size}, {results.sets} sets in all.")]
    if results.test_openings:
        opening.append(Paragraph(results.test_openings))
    return report_document(TITLE, opening, sections, results.left_out, READING, results.settings)


def _summary(results: GuidanceResults) -> list[Block]:
    goals = goal_sentences(results.classes, results.ranks, results.costs)
    goals.append(
        f"Outside what was to be painted, {results.changed_outside} of {results.outside} voxels changed, over all sets."
    )
    return [Bullets(goals)]


def _range(low: float | None, high: float | None, digits: int = 2) -> str:
    return NONE if low is None or high is None else f"{low:.{digits}f} … {high:.{digits}f}"


def _figure(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return NONE
    return f"{value:.2f}" + (f" ({_range(low, high)})" if low is not None else "")


def _judge_table(rows: Sequence[JudgeRow]) -> Table:
    header = ["judged", "lesions", "n", "figure", "judge (95 %)", "volume alone", "at equal size (95 %)"]
    cells = [
        [
            row.attribute,
            row.lesions_of,
            str(row.lesions),
            row.measure,
            _figure(row.value, row.low, row.high),
            _figure(row.size_only),
            _figure(row.equal_size, row.equal_low, row.equal_high),
            _figure(row.size_at_equal_size),
        ]
        for row in rows
    ]
    return Table([*header, "volume alone, at equal size"], cells)


def _class_table(rows: Sequence[ClassRow]) -> Table:
    header = [
        "scale",
        "of each",
        "judge's AUROC at equal size (95 %)",
        "whole verdict (95 %)",
        "within the mask (95 %)",
    ]
    cells = [
        [
            f"{row.scale:g}",
            str(row.lesions),
            _figure(row.equal_size, row.equal_low, row.equal_high),
            _figure(row.auroc, row.low, row.high),
            _figure(row.within_mask, row.within_low, row.within_high),
            f"{row.share_benign:.0%}",
            f"{row.share_malignant:.0%}",
        ]
        for row in rows
    ]
    return Table([*header, "benign as requested", "malignant as requested"], cells)


def _rank_tables(rows: Sequence[RankRow]) -> list[Block]:
    blocks: list[Block] = []
    for attribute in dict.fromkeys(row.attribute for row in rows):
        own = [row for row in rows if row.attribute == attribute]
        found = "achieved" if attribute in MEASURED else "judged"
        requested = sorted(own[0].means)
        header = ["scale", "rank correlation (95 %)", "within the mask", "slope"]
        header += ["mean error [HU]"] if attribute in MEASURED else []
        digits = 0 if attribute in MEASURED else 2
        cells = []
        for row in own:
            line = [f"{row.scale:g}", _figure(row.rho, row.low, row.high), _figure(row.within_mask), f"{row.slope:.2f}"]
            line += [number(row.error_hu)] if attribute in MEASURED else []
            cells.append([*line, *(f"{row.means[value]:.{digits}f}" for value in requested)])
        title = f"{attribute}: {found} by requested value"
        blocks += [Heading(title, 3), Table([*header, *(f"requested {value:g}" for value in requested)], cells)]
    return blocks


def _cost_blocks(costs: Sequence[CostRow]) -> list[Block]:
    blocks: list[Block] = []
    for attribute in dict.fromkeys(row.attribute for row in costs):
        own = [row for row in costs if row.attribute == attribute]
        metrics = list(dict.fromkeys(distance.metric for row in own for distance in row.distances))
        first = [m for m in (*TEXTURE_DISTANCES, FRECHET) if m in metrics]
        metrics = first + [metric for metric in metrics if metric not in first]
        rows = []
        for metric in metrics:
            found = [row.distance(metric) for row in own]
            floor = next((d.floor for d in found if d is not None and d.floor is not None), None)
            floor_cell = NONE if floor is None else f"{number(floor.mean)} ({number(floor.low)} … {number(floor.high)})"
            rows.append([metric, floor_cell, *map(_distance_cell, found)])
        header = ["distance", "real vs real (95 % of splits)", *(f"scale {row.scale:g}" for row in own)]
        blocks += [Heading(f"Lesions requested {attribute}, all values together", 3), Table(header, rows)]
        blocks.append(
            Paragraph(
                "ratio to real vs real in brackets with its 95 % interval; * is above the range or surely above 1."
            )
        )
    return blocks


def _distance_cell(row: DistanceRow | None) -> str:
    if row is None:
        return NONE
    if row.value is None:
        return f"{number(row.whole)} (whole sets)"
    ratio = "" if row.ratio is None else f" ({number(row.ratio)}; {number(row.low)} … {number(row.high)})"
    return number(row.value) + ratio + (" *" if is_beyond(row) else "")


def _leak_table(rows: Sequence[LeakRow]) -> Table:
    names = list(rows[0].changes)
    cells = [
        [f"{row.attribute} {row.value}", f"{row.scale:g}", *(f"{row.changes[name]:+.2f}" for name in names)]
        for row in rows
    ]
    return Table(["requested", "scale", *names], cells)
