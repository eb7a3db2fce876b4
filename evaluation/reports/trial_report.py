"""The report of `scripts/virtual_trial.py`: a detector's sensitivity over each factor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from evaluation.downstream.virtual_trial import sensitivity
from evaluation.reports.report import report_document, save_report
from foundation.document import Block, Paragraph, Picture, Table

TITLES = {
    "base": "base",
    "diameter_mm": "diameter [mm]",
    "mean_hu": "requested mean HU",
    "texture": "texture, 1 ground glass to 5 solid",
    "wall_mm": "distance to the lung's wall [mm]",
}
READING = (
    "Each lesion keeps its shape, its place and its noise. One factor is changed at a time, the others stay at the "
    "base. Under the factor wall_mm the place changes.",
    "A lesion is found if a candidate of at least the threshold lies within its radius, or within 3 mm of its centre.",
    "Intervals of 95 % over the lesions (Clopper–Pearson). Lesions of one scan share its image quality.",
)
Scores = list[dict[str, Any]]  # of one lesion: factor, level, score


def save_trial_report(out: Path, lesions: Sequence[Scores], threshold: float, settings: Mapping[str, Any]) -> None:
    """Write report.html, report.md, report.json and the curves into `out`.

    Args:
        out: Folder, there already.
        lesions: Scores of each lesion under the same conditions, in one order.
        threshold: From which a lesion counts as found.
        settings: Of the run.
    """
    rows = []
    for number, condition in enumerate(lesions[0]):
        scores = [lesion[number]["score"] for lesion in lesions]
        rows.append(
            {"factor": condition["factor"], "level": condition["level"], "found": sensitivity(scores, threshold)}
        )
    draw_curves(out / "sensitivity.png", rows)
    table = [
        [TITLES[row["factor"]], f"{row['level']:g}", "{:.2f} ({:.2f} … {:.2f})".format(*row["found"])] for row in rows
    ]
    content: list[Block] = [
        Picture("sensitivity.png", "Sensitivity over each factor; the dotted line is the base."),
        Table(["factor", "level", "sensitivity"], table),
    ]
    opening = f"{len(lesions)} virtual lesions, threshold {threshold:g}."
    blocks = report_document("Virtual trial", [Paragraph(opening)], {"Sensitivity": content}, [], READING, settings)
    save_report(out, "Virtual trial", blocks, {"rows": rows, "lesions": list(lesions), "settings": dict(settings)})


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One panel per factor: sensitivity with intervals over its levels."""
    base = next(row for row in rows if row["factor"] == "base")
    factors = list(dict.fromkeys(row["factor"] for row in rows if row["factor"] != "base"))
    figure, panels = plt.subplots(1, len(factors), figsize=(3.2 * len(factors), 3), sharey=True, squeeze=False)
    for axes, factor in zip(panels[0], factors, strict=True):
        own = sorted((row for row in rows if row["factor"] == factor), key=lambda row: row["level"])
        values = [row["found"][0] for row in own]
        errors = [
            [row["found"][0] - row["found"][1] for row in own],
            [row["found"][2] - row["found"][0] for row in own],
        ]
        axes.errorbar([row["level"] for row in own], values, yerr=errors, marker="o", capsize=3)
        axes.axhline(base["found"][0], color="grey", linestyle=":")
        axes.set_xlabel(TITLES[factor])
        axes.set_ylim(-0.03, 1.03)
    panels[0][0].set_ylabel("sensitivity")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
