"""A page to look a prepared dataset over: nodules in three planes with contours, histograms, and what was left out."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from foundation.document import Block, Heading, Paragraph, Picture, Table, to_html
from imaging.dataset.card import DatasetSummary
from imaging.dataset.nodules import AIR_HU, read_nodule
from imaging.lidc.scans import LeftOut
from imaging.semantic_map import LABELS

LABEL_COLOURS = ("#000000", "#8c6d31", "#e7969c", "#f7f7f7", "#3182bd", "#31a354", "#fdae6b", "#d62728")
ROWS_OF_SHEET = 4
LEFT_OUT_SHOWN = 2000  # rows of the page's table; the CSV has all


def qc_page(
    title: str,
    splits: Sequence[Dataset],
    summary: DatasetSummary,
    left_out: Sequence[LeftOut],
    window: tuple[float, float],
    shown: int = 24,
    seed: int = 0,
) -> str:
    """One HTML page without outside references.

    Args:
        title: Heading.
        splits: Splits of the prepared dataset, opened.
        summary: All its rows counted.
        left_out: Everything that is not in it.
        window: Display window (width, level), HU.
        shown: Number of nodules on the contact sheet, drawn at random.
        seed: Of that drawing.
    """
    places = [(split, index) for split in splits for index in range(len(split))]
    chosen = np.random.default_rng(seed).permutation(len(places))[:shown]
    nodules = [read_nodule(*places[i]) for i in sorted(chosen)]
    by_kind = Counter(entry.kind for entry in left_out)
    counts = ", ".join(f"{number} {kind}s" for kind, number in sorted(by_kind.items())) or "nothing"
    rows = [(e.kind, e.patient_id, e.scan_id, e.item, e.reason) for e in left_out[:LEFT_OUT_SHOWN]]
    note = f" The first {LEFT_OUT_SHOWN} are shown; left_out.csv has all." if len(left_out) > LEFT_OUT_SHOWN else ""
    sheets = [nodules[i : i + 2 * ROWS_OF_SHEET] for i in range(0, len(nodules), 2 * ROWS_OF_SHEET)]
    key = (
        "Axial, coronal and sagittal plane through the lesion's centre; red: its outline, blue: the scan's end. "
        "Beside them the axial plane of the semantic map, if there is one."
    )
    blocks: list[Block] = [
        Heading(title, 1),
        Paragraph(f"{len(places)} nodules of {len({row['patient_id'] for row in summary.rows})} patients."),
        Heading(f"{len(nodules)} nodules drawn at random"),
        Paragraph(key),
        *(_picture(contact_sheet(sheet, window), "Nodules drawn at random.") for sheet in sheets),
        Heading("Histograms"),
        _picture(histograms(summary), "All nodules of the dataset."),
        Heading(f"Left out: {counts}"),
        Paragraph(f"Outlines are single slices of a mark that is used.{note}"),
        Table(("kind", "patient", "scan", "item", "reason"), rows, words=True),
    ]
    return to_html(blocks, title, Path())


def contact_sheet(nodules: Sequence[dict], window: tuple[float, float]) -> Figure:
    """Two nodules a row: three planes through the lesion's centre, and the semantic map.

    Args:
        nodules: From `read_nodule`.
        window: Display window (width, level), HU.
    """
    panels = 4 if any(nodule.get("semantic_map") is not None for nodule in nodules) else 3
    lines = (len(nodules) + 1) // 2
    figure = Figure(figsize=(4.4 * panels, 2.4 * lines), layout="constrained")
    axes = figure.subplots(lines, 2 * panels, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, nodule in enumerate(nodules):
        row = axes[number // 2][(number % 2) * panels : (number % 2 + 1) * panels]
        centre = np.rint(np.argwhere(nodule["lesion_mask"]).mean(axis=0)).astype(int)
        spacing = nodule["spacing_mm"]
        for plane in range(3):
            others = [axis for axis in range(3) if axis != plane]
            cut = {
                name: nodule[name].take(centre[plane], axis=plane) for name in ("ct_hu", "lesion_mask", "valid_mask")
            }
            _draw_plane(row[plane], cut, window, float(spacing[others[0]] / spacing[others[1]]), upside=plane != 0)
        malignancy = "" if np.isnan(nodule["malignancy"]) else f", malignancy {nodule['malignancy']:.2g}"
        caption = f"{nodule['nodule_id']} ({nodule['split']}), {nodule['diameter_mm']:.1f} mm{malignancy}"
        row[0].set_title(caption, fontsize=7, loc="left")
        if panels == 4 and nodule.get("semantic_map") is not None:
            labels = nodule["semantic_map"][centre[0]]
            colours = ListedColormap(LABEL_COLOURS)
            row[3].imshow(labels, cmap=colours, vmin=-0.5, vmax=len(LABELS) - 0.5, interpolation="nearest")
    return figure


def _draw_plane(axis, cut: dict[str, np.ndarray], window: tuple[float, float], aspect: float, upside: bool) -> None:
    width, level = window
    limits = {"vmin": level - width / 2, "vmax": level + width / 2}
    origin = "lower" if upside else "upper"
    axis.imshow(cut["ct_hu"], cmap="gray", aspect=aspect, origin=origin, **limits)
    for name, colour in (("lesion_mask", "red"), ("valid_mask", "deepskyblue")):
        if cut[name].min() != cut[name].max():
            axis.contour(cut[name], levels=[0.5], colors=colour, linewidths=0.8, origin=None)


def histograms(summary: DatasetSummary) -> Figure:
    """Diameter, malignancy, readers, slice distance, and the HU around and inside lesions."""
    figure = Figure(figsize=(14, 6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    titles = {"diameter_mm": "diameter, mm", "malignancy": "mean malignancy"}
    titles |= {"readers": "readers", "slice_mm": "slice distance of the scan, mm"}
    for axis, (column, title) in zip(axes, titles.items(), strict=False):
        values = summary.column(column)
        bins = {"malignancy": np.arange(0.875, 5.25, 0.25), "readers": np.arange(0.5, 6)}.get(column, 30)
        axis.hist(values, bins=bins, color="#4c78a8")
        axis.set_title(f"{title} ({len(values)} nodules)", fontsize=10)
    for axis, counts, title in (
        (axes[4], summary.hu_counts, "HU around the lesion"),
        (axes[5], summary.lesion_hu_counts, "HU in the lesion"),
    ):
        shown = counts[: 1424 // 16 * 16].reshape(-1, 16).sum(axis=1)
        axis.stairs(shown, np.arange(len(shown) + 1) * 16 + AIR_HU, fill=True, color="#4c78a8")
        axis.set_title(f"{title}, to 400 ({counts.sum():,} voxels)", fontsize=10)
    return figure


def _picture(figure: Figure, caption: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return Picture("", caption, buffer.getvalue())
