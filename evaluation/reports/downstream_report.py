"""The report of `scripts/evaluate_downstream.py`: a table and a learning curve for each task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from evaluation.downstream.comparison import ArmFigure, Interval
from evaluation.downstream.tasks import TASKS
from evaluation.reports.report import report_document, save_report
from foundation.document import Block, Paragraph, Picture, Table

READING = (
    "Arms: real lesions alone; with classical augmentation; half a batch copies of real lesions pasted into other "
    "lung; half a batch synthetic lesions, also with classical augmentation; synthetic lesions alone. All have the "
    "same number of steps and samples.",
    "The share is that of the real training patients that a network may see. The generator of the synthetic lesions "
    "was trained on its own training patients, whatever the share: that is what a user of a trained pipeline has.",
    "Intervals of 95 % from a bootstrap over patients and seeds. The gain is against real lesions alone at the same "
    "share, with the same resamples for both.",
)


def save_downstream_report(
    out: Path, figures: Sequence[ArmFigure], opening: str, missing: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """Write report.html, report.md, report.json and the curves into `out`.

    Args:
        out: Folder, there already.
        figures: From `arm_figures`.
        opening: A sentence on what was compared.
        missing: A sentence for each cell that is not done.
        settings: Of the run.
    """
    sections: dict[str, list[Block]] = {}
    for task in dict.fromkeys(row.task for row in figures):
        own = [row for row in figures if row.task == task]
        picture = out / f"{task}.png"
        draw_curves(picture, own)
        table = [
            [
                row.arm.replace("_", " "),
                f"{row.fraction:.0%}",
                str(row.seeds),
                shown(row.figure),
                shown(row.gain, sign=True),
            ]
            for row in own
        ]
        header = ["trained on", "share of real patients", "seeds", TASKS[task].name, "gain"]
        sections[task.capitalize()] = [
            Table(header, table),
            Picture(picture.name, f"{TASKS[task].name} over the share"),
        ]
    blocks = report_document("Downstream", [Paragraph(opening)], sections, missing, READING, settings)
    content = {"figures": [vars(row) for row in figures], "settings": dict(settings), "left_out": list(missing)}
    save_report(out, "Downstream", blocks, content)


def shown(interval: Interval | None, sign: bool = False) -> str:
    """A value with its interval, as text."""
    if interval is None:
        return "–"
    value, low, high = (format(number, "+.3f" if sign else ".3f") for number in interval)
    return f"{value} ({low} … {high})"


def draw_curves(path: Path, figures: Sequence[ArmFigure]) -> None:
    """The figure of each arm over the share of real patients, with intervals; an arm of one share is a line across."""
    figure, axes = plt.subplots(figsize=(6, 4))
    shares = sorted({row.fraction for row in figures})
    for number, arm in enumerate(dict.fromkeys(row.arm for row in figures)):
        rows = sorted((row for row in figures if row.arm == arm), key=lambda row: row.fraction)
        values = [row.figure[0] for row in rows]
        errors = [[row.figure[0] - row.figure[1] for row in rows], [row.figure[2] - row.figure[0] for row in rows]]
        if len(rows) == 1 and len(shares) > 1:
            axes.axhline(values[0], color=f"C{number}", linestyle="--", label=arm.replace("_", " "))
            continue
        at = [row.fraction * (1 + 0.02 * number) for row in rows]  # beside each other
        axes.errorbar(at, values, yerr=errors, color=f"C{number}", marker="o", capsize=2, label=arm.replace("_", " "))
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("share of the real training patients")
    axes.set_ylabel(TASKS[figures[0].task].name)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
