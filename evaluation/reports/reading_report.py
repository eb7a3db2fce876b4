"""The report of a reading study: figures by reader and pooled, agreement, groups, and the most missed cases."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from sklearn.metrics import roc_curve

from evaluation.lesions.lesion_sets import centre_slices
from evaluation.reading.answers import COLUMNS
from evaluation.reading.figures import (
    Figure,
    Read,
    accuracy_over_patients,
    agreement_between,
    agreement_within,
    groups,
    most_missed,
    proportion,
    reader_figures,
)
from evaluation.reading.study import KeyCase, Study
from evaluation.reports.figures import COLOURS, DPI
from evaluation.reports.report import report_document, save_report
from foundation.document import Block, Paragraph, Picture, Table
from imaging.window import to_norm

TITLE = "Reading study"
AIM = 0.30  # at most this share of synthetic lesions should be recognised
SHOWN = 6  # most missed cases of each class
NAMES = {
    "recognised": "synthetic called synthetic (sensitivity)",
    "specificity": "real called real (specificity)",
    "false_alarms": "real called synthetic",
    "difference": "recognised minus false alarms",
    "accuracy": "accuracy",
    "auroc": "AUROC of the confidence",
}
TRUTH = ("real", "lesion", "patient", "diameter_mm", "texture", "mean_hu")
READING = (
    "Only first showings count. Training cases are left out, and repeats serve the agreement within a reader.",
    "The positive class is synthetic. A perfect generator has an accuracy and an AUROC of 0.5, and a difference of 0.",
    f"The aim is that less than {AIM:.0%} of the synthetic lesions are called synthetic. Read this share beside that "
    "of the real lesions: a reader who calls everything real recognises nothing.",
    "Intervals of shares are exact (Clopper–Pearson, 95 %). The pooled ones take all answers as independent. Readers "
    "see the same cases, so they are too narrow; the interval of the accuracy over patients is not.",
    "The AUROC uses the confidence as a scale from certainly real to certainly synthetic. Its interval is a bootstrap "
    "over patients.",
    "Kappa: 1 is full agreement, 0 is agreement by chance. Among readers who all guess it is near 0.",
    "A group of few lesions has a wide interval. A difference between groups means little where intervals overlap.",
)


def save_reading_report(
    out: Path,
    study: Study,
    reads: Sequence[Read],
    left: Mapping[str, int],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Write report.html, report.md, report.json, the pictures, and `answers.csv` with the truth beside each answer.

    Args:
        out: Folder; made if missing.
        study: Whose volumes are drawn.
        reads: All answers.
        left: Reader -> cases that are not answered yet.
        settings: Of the run.
        seed: Of the bootstraps.
    Raises: ValueError: If a reader has not read a real and a synthetic case.
    """
    first = [read for read in reads if read.answer.kind == "first"]
    by_reader = {reader: [read for read in first if read.answer.reader == reader] for reader in left}
    repeats = {reader: _of(reads, reader, "repeat") for reader in left}
    columns: dict[str, dict[str, Figure]] = {}
    for reader, own in by_reader.items():
        if len({read.truth.real for read in own}) < 2:
            raise ValueError(
                f"{reader} has not yet read a real and a synthetic case; wait, or remove this reader's lines"
            )
        columns[reader] = reader_figures(own, seed)
    if len(by_reader) > 1:
        columns["pooled"] = reader_figures(first, seed)
    between = agreement_between(by_reader) if len(by_reader) > 1 else {}
    within = {reader: agreement_within(by_reader[reader], repeats[reader]) for reader in left}
    seconds = {reader: _quartiles([read.answer.seconds for read in own]) for reader, own in by_reader.items()}
    over_patients = accuracy_over_patients(first, seed)

    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    draw_roc(pictures / "roc.png", by_reader)
    sections: dict[str, list[Block]] = {
        "Summary": [_summary(columns), Paragraph(_verdict(columns, over_patients))],
        "ROC curves": [Picture("pictures/roc.png", "By reader, from the confidence; the diagonal is guessing.")],
        "Agreement": _agreement(between, within),
        "Confidence": [_confidence(first)],
        "Time": [_times(by_reader, seconds)],
    }
    for kind, of in groups(first).items():
        sections[f"By {kind}"] = [_groups(kind, of)]
    sections["Most missed cases"] = _missed(pictures, study, first)
    readers, cases = len(left), len({read.truth.case for read in first})
    opening = [Paragraph(f"Readers: {readers}. Lesions that they called real or synthetic: {cases}.")]
    gaps = [f"{reader}: {count} cases are not answered yet." for reader, count in left.items() if count]
    content = {
        "figures": columns,
        "accuracy_over_patients": over_patients,
        "agreement_between": between,
        "agreement_within": within,
        "seconds": seconds,
        "settings": dict(settings),
    }
    _save_answers(out / "answers.csv", reads)
    save_report(out, TITLE, report_document(TITLE, opening, sections, gaps, READING, settings), content)


def draw_roc(path: Path, by_reader: Mapping[str, Sequence[Read]]) -> None:
    """The ROC curve of each reader."""
    figure = Canvas(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle=":")
    for index, (reader, reads) in enumerate(by_reader.items()):
        truth = [not read.truth.real for read in reads]
        false, true, _ = roc_curve(truth, [read.score for read in reads], drop_intermediate=False)
        axes.plot(false, true, "o-", ms=3, color=COLOURS[index % len(COLOURS)], label=reader)
    axes.set(xlabel="real called synthetic", ylabel="synthetic called synthetic", aspect="equal")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=DPI)


def draw_cases(path: Path, study: Study, cases: Sequence[KeyCase]) -> None:
    """The three planes through the centre of each case, two cases a row, lung window."""
    rows = (len(cases) + 1) // 2
    figure = Canvas(figsize=(11, 1.95 * rows), layout="constrained")
    grid = figure.subplots(rows, 6, squeeze=False)
    depth, height, width = study.spacing_mm
    for axes in grid.flat:
        axes.set_axis_off()
    for place, case in enumerate(cases):
        row, half = divmod(place, 2)
        volume = to_norm(np.asarray(study.volumes[case.case - 1]))
        aspects = (height / width, depth / width, depth / height)
        for plane, (image, aspect) in enumerate(zip(centre_slices(volume), aspects, strict=True)):
            axes = grid[row, 3 * half + plane]
            upright = image if plane == 0 else image[::-1]  # the head is up
            axes.imshow(upright, cmap="gray", vmin=-1, vmax=1, aspect=aspect, interpolation="bicubic")
        grid[row, 3 * half].set_title(f"case {case.case}", fontsize=9, loc="left")
    figure.savefig(path, dpi=DPI)


def _of(reads: Sequence[Read], reader: str, kind: str) -> list[Read]:
    return [read for read in reads if read.answer.reader == reader and read.answer.kind == kind]


def _summary(columns: Mapping[str, Mapping[str, Figure]]) -> Table:
    rows = [[title, *(shown(column[name]) for column in columns.values())] for name, title in NAMES.items()]
    return Table(["", *columns], rows)


def _verdict(columns: Mapping[str, Mapping[str, Figure]], over_patients: tuple[float, float]) -> str:
    name, last = list(columns.items())[-1]
    who, accuracy = "All readers together" if name == "pooled" else name, last["accuracy"][0]
    share, low, high = last["recognised"]
    compared = "below" if high < AIM else "above" if low > AIM else "not clearly below or above"
    return (
        f"{who} recognised {share:.0%} ({low:.0%} … {high:.0%}) of the synthetic lesions. This is {compared} the aim "
        f"of {AIM:.0%}. The accuracy is {accuracy:.2f}, with an interval over patients of {over_patients[0]:.2f} … "
        f"{over_patients[1]:.2f}."
    )


def _agreement(
    between: Mapping[str, tuple[float | None, int]],
    within: Mapping[str, tuple[Figure, float | None, int] | None],
) -> list[Block]:
    blocks: list[Block] = []
    if between:
        rows = [[name, number(kappa), str(cases)] for name, (kappa, cases) in between.items()]
        blocks.append(Table(["between readers", "kappa", "cases"], rows))
    rows = [[name, shown(f[0]), number(f[1]), str(f[2])] for name, f in within.items() if f is not None]
    if rows:
        blocks.append(Table(["a reader's repeats", "equal answers", "kappa (Cohen)", "cases"], rows))
    return blocks


def _confidence(first: Sequence[Read]) -> Table:
    rows = []
    for level in range(1, 6):
        own = [read for read in first if read.answer.confidence == level]
        accuracy = shown(proportion(sum(not read.wrong for read in own), len(own))) if own else "–"
        rows.append([str(level), str(len(own)), accuracy])
    return Table(["confidence", "answers", "accuracy"], rows)


def _times(by_reader: Mapping[str, Sequence[Read]], seconds: Mapping[str, tuple[float, float, float]]) -> Table:
    rows = []
    for reader, reads in by_reader.items():
        of = {wrong: [r.answer.seconds for r in reads if r.wrong == wrong] for wrong in (False, True)}
        low, median, high = seconds[reader]
        halves = [f"{np.median(of[wrong]):.1f}" if of[wrong] else "–" for wrong in (False, True)]
        rows.append([reader, f"{median:.1f} ({low:.1f} … {high:.1f})", *halves])
    return Table(["seconds a case, median", "all (quartiles)", "right answers", "wrong answers"], rows)


def _groups(kind: str, of: Mapping[str, Sequence[Read]]) -> Table:
    rows = []
    for name, members in of.items():
        cells = []
        for real in (False, True):
            called = [read.called_synthetic != real for read in members if read.truth.real == real]
            cells += [shown(proportion(sum(called), len(called))), str(len(called))] if called else ["–", "0"]
        rows.append([name, *cells])
    return Table([kind, "synthetic called synthetic", "answers", "real called real", "answers"], rows)


def _missed(pictures: Path, study: Study, first: Sequence[Read]) -> list[Block]:
    blocks: list[Block] = []
    for real, title in ((False, "synthetic lesions called real"), (True, "real lesions called synthetic")):
        rows = most_missed(first, real, SHOWN)
        if not rows:
            blocks.append(Paragraph(f"There are no {title}."))
            continue
        name = f"missed_{'real' if real else 'synthetic'}.png"
        draw_cases(pictures / name, study, [case for case, *_ in rows])
        caption = f"The {title} most often: axial, coronal and sagittal plane, -1150 … 350 HU."
        cells = [
            [str(case.case), case.lesion, number(case.diameter_mm, 1), f"{wrong} of {all_}", f"{confidence:.1f}"]
            for case, wrong, all_, confidence in rows
        ]
        header = ["case", "lesion", "diameter, mm", "readers who were wrong", "their confidence"]
        blocks += [Picture(f"pictures/{name}", caption), Table(header, cells)]
    return blocks


def _save_answers(path: Path, reads: Sequence[Read]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *TRUTH])
        for read in reads:
            truth = asdict(read.truth)
            writer.writerow([*astuple(read.answer), *(truth[name] for name in TRUTH)])


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def shown(figure: Figure) -> str:
    """Value and interval."""
    return f"{figure[0]:.2f} ({figure[1]:.2f} … {figure[2]:.2f})"


def number(value: float | None, digits: int = 2) -> str:
    """The number; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
