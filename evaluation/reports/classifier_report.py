"""The report of a guide's classifiers on held-out nodules: tables, one picture, and how to read them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.reports.figures import COLOURS, DPI
from evaluation.reports.report import report_document, save_report
from evaluation.statistics.attribute_figures import AttributeFigures, Interval
from foundation.document import Block, Paragraph, Picture, Table

TITLE = "Attribute classifiers on held-out nodules"
PICTURE = "by_noise_level.png"
READING = (
    "AUROC: how often a malignant nodule is given a higher probability than a benign one; 0.5 is guessing. Spearman: "
    "rank correlation of the told with the readers' rating; 0 is guessing.",
    "The control is the same network trained on labels that were shuffled among the training nodules; its figure is "
    "the mean over several shuffles.",
    "Intervals are 95 % bootstraps over patients. The summary is the mean over the noise levels that are guided; an "
    "attribute is guided only if the summary's interval lies above guessing and the lead over the control above 0.",
    "At equal size: AUROC among pairs of like volume, rank correlation with the volume held. A mask fixes the size, "
    "and what a classifier knows from that has no gradient: where it tells nothing at equal size, guiding changes "
    "lesions without making them what is requested.",
    "Samples were drawn with balanced ratings, readers' ratings are skewed: so the plain MAE is worse than that of "
    "always saying the commonest rating, and MAE by rating, in which each rating counts the same, is the fairer one.",
)


def save_classifier_report(
    out: Path, figures: Mapping[str, AttributeFigures], refused: Mapping[str, str], settings: Mapping[str, Any]
) -> None:
    """Write report.json, report.md, report.html and the picture.

    Args:
        out: Folder; made if missing.
        figures: Of each attribute.
        refused: Attributes that the guide does not guide -> the reason.
        settings: Of the run.
    """
    out.mkdir(parents=True, exist_ok=True)
    draw_levels(out / PICTURE, figures)
    sections: dict[str, list[Block]] = {"Summary": [_summary(figures, refused)]}
    caption = (
        "Upper row: the deciding figure by noise level with its interval, the control in grey, guessing dotted. Lower "
        "row, at each noise level: the share that is malignant of those that are called so with a probability, and the "
        "mean of what is said of each rating."
    )
    sections["By noise level"] = [Picture(PICTURE, caption), *(_levels(name, f) for name, f in figures.items())]
    opening = [Paragraph("What the guide's classifiers tell of nodules of patients that they were not trained on.")]
    blocks = report_document(TITLE, opening, sections, [], READING, settings)
    content = {
        "figures": {name: asdict(f) for name, f in figures.items()},
        "refused": dict(refused),
        "settings": dict(settings),
    }
    save_report(out, TITLE, blocks, content)


def draw_levels(path: Path, figures: Mapping[str, AttributeFigures]) -> None:
    """A column for each attribute: its figure by noise level above, its calibration at each level below."""
    figure = Figure(figsize=(3.6 * len(figures), 6.2), layout="constrained")
    grid = figure.subplots(2, len(figures), squeeze=False)
    for column, (name, one) in enumerate(figures.items()):
        upper, lower = grid[0, column], grid[1, column]
        if one.control_levels:
            _band(upper, one.control_levels, one.measure, COLOURS[5], "label-shuffled control")
        _band(upper, one.levels, one.measure, COLOURS[0], "classifier")
        upper.axhline(one.chance, color="black", linewidth=0.8, linestyle=":")
        upper.set(title=f"{name} (n = {one.nodules})", xlabel="timestep (0 clean)", ylabel=one.measure)
        upper.set_ylim(*((0.2, 1.0) if one.measure == "AUROC" else (-0.5, 1.0)))
        _calibration(lower, one)
    grid[0, 0].legend(frameon=False, fontsize=8)
    grid[1, 0].legend(frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _band(axes: Axes, levels: Mapping[str, Mapping[str, Interval]], measure: str, colour: str, label: str) -> None:
    told = [(int(t), f[measure]) for t, f in levels.items()]
    told = [(t, figure) for t, figure in told if figure.value is not None and figure.low is not None]
    rows = np.array([[t, figure.value, figure.low, figure.high] for t, figure in told], float).reshape(-1, 4).T
    axes.plot(rows[0], rows[1], "o-", ms=3, color=colour, label=label)
    axes.fill_between(rows[0], rows[2], rows[3], color=colour, alpha=0.2, linewidth=0)


def _calibration(axes: Axes, one: AttributeFigures) -> None:
    classes = one.measure == "AUROC"
    first, second = ("probability said", "share found") if classes else ("readers' rating", "mean rating said")
    limits = (0, 1) if classes else (1, 5)
    axes.plot(limits, limits, color="black", linewidth=0.8, linestyle=":")
    for index, (t, rows) in enumerate(one.reliability.items()):
        axes.plot([r[0] for r in rows], [r[1] for r in rows], "o-", ms=3, label=f"t = {t}", color=COLOURS[index % 6])
    axes.set(xlabel=first, ylabel=second)


def _summary(figures: Mapping[str, AttributeFigures], refused: Mapping[str, str]) -> Table:
    rows = [
        [
            f"{name}, {one.measure}",
            str(one.nodules),
            shown(one.summary),
            shown(one.at_equal_size),
            shown(one.control),
            shown(one.ahead),
            "no" if name in refused else "yes",
        ]
        for name, one in figures.items()
    ]
    return Table(["attribute", "nodules", "classifier", "at equal size", "control", "lead", "guided"], rows)


def _levels(name: str, one: AttributeFigures) -> Table:
    measures = list(next(iter(one.levels.values())))
    rows = []
    for t, figures in one.levels.items():
        control = one.control_levels.get(t) or {}
        beside = {m: [shown(interval)] for m, interval in control.items()}
        rows.append([f"{name}, t = {t}", *(cell for m in measures for cell in (shown(figures[m]), *beside.get(m, [])))])
    told = next(iter(one.control_levels.values()), {})
    return Table(["noise level", *(cell for m in measures for cell in (m, *["control"] * (m in told)))], rows)


def shown(figure: Interval | None) -> str:
    """Value and interval; a dash where there is none."""
    if figure is None or figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f}"
    return f"{figure.value:.2f} ({figure.low:.2f} … {figure.high:.2f})"
