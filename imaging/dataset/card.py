"""What a prepared dataset holds, counted while it is written, and the dataset card that says so."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imaging.dataset.licence import LIDC_LICENCE, is_lidc
from imaging.dataset.nodules import AIR_HU, RATINGS
from imaging.dataset.rows import SPLITS

HIGHEST_HU = 3071
CITATION = """\
@article{armato2011lidc,
  author  = {Armato, Samuel G. and others},
  title   = {The Lung Image Database Consortium ({LIDC}) and Image Database Resource Initiative ({IDRI}): A
             completed reference database of lung nodules on {CT} scans},
  journal = {Medical Physics},
  volume  = {38},
  number  = {2},
  pages   = {915--931},
  year    = {2011},
  doi     = {10.1118/1.3528204}
}"""


@dataclass
class DatasetSummary:
    """Counts over the rows of a dataset, in the order in which they are written.

    Attributes:
        rows: One entry a nodule: its scalar columns.
        hu_counts: Voxels of each HU from -1024 to 3071 (or more) over the valid voxels outside lesions.
        lesion_hu_counts: The same inside lesions.
        digest: SHA-256 over ids, splits and voxels of all rows so far.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    hu_counts: np.ndarray = field(default_factory=lambda: np.zeros(HIGHEST_HU - AIR_HU + 1, np.int64))
    lesion_hu_counts: np.ndarray = field(default_factory=lambda: np.zeros(HIGHEST_HU - AIR_HU + 1, np.int64))
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of the prepared dataset."""
        arrays = {name: np.asarray(value) for name, value in row.items() if np.ndim(value) == 3}
        self.rows.append({name: value for name, value in row.items() if name not in arrays})
        self.digest.update(f"{row['nodule_id']}/{row['patient_id']}/{row['split']}".encode())
        for name in sorted(arrays):
            self.digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        bins = np.clip(arrays["ct_hu"], AIR_HU, HIGHEST_HU).astype(np.int64) - AIR_HU
        lesion = arrays["lesion_mask"] > 0
        around = (arrays["valid_mask"] > 0) & ~lesion
        for counts, where in ((self.hu_counts, around), (self.lesion_hu_counts, lesion)):
            counts += np.bincount(bins[where], minlength=len(counts))

    def column(self, name: str) -> np.ndarray:
        """Values of a number column as float64, without the rows that lack it."""
        return np.array([row[name] for row in self.rows if row.get(name) is not None], dtype=np.float64)


def hu_percentiles(counts: np.ndarray, percents: Sequence[float] = (1, 5, 25, 50, 75, 95, 99)) -> list[int]:
    """HU below which the given percentages of the counted voxels lie."""
    cumulated = np.cumsum(counts)
    return [int(np.searchsorted(cumulated, cumulated[-1] * percent / 100)) + AIR_HU for percent in percents]


def dataset_card(
    name: str,
    summary: DatasetSummary,
    settings: Mapping[str, Any] | None = None,
    label_table: str | None = None,
    left_out: Mapping[str, int] | None = None,
) -> str:
    """The card (README.md with the Hub's header) of a prepared dataset.

    Args:
        name: Title.
        summary: All rows counted.
        settings: Options of the preparation, in the order in which to show them; None if they are not known.
        label_table: From `label_policy.label_table`; None leaves it out.
        left_out: Kind -> number of things left out; None if it is not known.
    """
    lidc = [is_lidc([row["source"]], [row["patient_id"]]) for row in summary.rows]
    lines = [
        "---",
        f"license: {LIDC_LICENCE if all(lidc) else 'other'}",
        f"pretty_name: {name}",
        "tags: [medical, CT, lung nodule, 3D, inpainting]",
        f"size_categories: ['{_size_category(len(summary.rows))}']",
        "configs:",  # which files are which split, for Datasets and the Hub's viewer
        "- config_name: default",
        "  data_files:",
        *(f"  - {{split: {split}, path: {split}/*.arrow}}" for split in SPLITS if _has(summary, split)),
        "---",
        "",
        f"# {name}",
        "",
        "Crops of chest CT around lung nodules, one row a nodule, split by patient: CT in Hounsfield units (int16, at",
        "least -1024), lesion mask, mask of valid voxels (0 on padding outside the scan), the readers' mean ratings",
        "and, where asked for, a semantic map. Arrays are (z, y, x); spacing is (z, y, x) in mm.",
        "",
        "## Counts",
        "",
        *_count_table(summary),
        "",
        "## Labels",
        "",
        *(_label_lines(label_table) if label_table is not None else []),
        "Ratings of the nodules in this dataset:",
        "",
        "| rating | nodules | mean | standard deviation |",
        "|---|---|---|---|",
        *(_number_row(rating, summary.column(rating)) for rating in RATINGS),
        "",
        "## Geometry and intensity",
        "",
        "| quantity | nodules | mean | standard deviation | smallest | largest |",
        "|---|---|---|---|---|---|",
        *(
            _range_row(title, summary.column(column))
            for title, column in (
                ("diameter of the sphere of equal volume, mm", "diameter_mm"),
                ("volume, mm³", "volume_mm3"),
                ("slice distance of the scan, mm", "slice_mm"),
                ("readers", "readers"),
            )
        ),
        *_spacing_rows(summary),
        "",
        "| HU percentile | 1 | 5 | 25 | 50 | 75 | 95 | 99 |",
        "|---|---|---|---|---|---|---|---|",
        _percentile_row("around the lesion", summary.hu_counts),
        _percentile_row("in the lesion", summary.lesion_hu_counts),
        "",
        "## Preparation",
        "",
        *(f"- `{key}`: {value}" for key, value in (settings or {}).items()),
        *([""] if settings else []),
        *(_left_out_lines(left_out) if left_out is not None else []),
        f"SHA-256 over ids, splits and voxels, in the order of writing: `{summary.digest.hexdigest()}`",
        "",
        "## Licence and citation",
        "",
        *(_LIDC_LINES if any(lidc) else ["The rows' licence is not recorded; settle it before publishing them."]),
        "",
    ]
    return "\n".join(lines)


_LIDC_LINES = [
    "LIDC-IDRI is published by The Cancer Imaging Archive under CC BY 3.0",
    "(https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX); this derivative keeps that licence. Rows of another `source`",
    "are under the terms of that source. Please cite:",
    "",
    "```bibtex",
    CITATION,
    "```",
]


def _label_lines(label_table: str) -> list[str]:
    counted = "by the mean malignancy rating (1 to 5) of the readers who marked them:"
    return [f"Nodules before any label was left out, {counted}", "", label_table, ""]


def _left_out_lines(left_out: Mapping[str, int]) -> list[str]:
    listed = ", ".join(f"{number} x {kind}" for kind, number in sorted(left_out.items())) or "nothing"
    return [f"Left out, each with its reason in `left_out.csv`: {listed}.", ""]


def _has(summary: DatasetSummary, split: str) -> bool:
    return any(row["split"] == split for row in summary.rows)


def _count_table(summary: DatasetSummary) -> list[str]:
    lines = ["| split | source | nodules | patients | benign | malignant | no label |", "|---|---|---|---|---|---|---|"]
    groups = Counter((row["split"], row["source"]) for row in summary.rows)
    for split, source in sorted(groups, key=lambda key: (SPLITS.index(key[0]), key[1])):
        rows = [row for row in summary.rows if (row["split"], row["source"]) == (split, source)]
        labels = Counter(row.get("label") or "" for row in rows)
        patients = len({row["patient_id"] for row in rows})
        cells = (split, source, len(rows), patients, labels["benign"], labels["malignant"], labels[""])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _spacing_rows(summary: DatasetSummary) -> list[str]:
    spacing = np.array([row["spacing_mm"] for row in summary.rows], dtype=np.float64)
    return [_range_row(f"crop spacing {axis}, mm", spacing[:, i]) for i, axis in enumerate("zyx")]


def _number_row(name: str, values: np.ndarray) -> str:
    if not len(values):
        return f"| {name} | 0 | | |"
    return f"| {name} | {len(values)} | {values.mean():.2f} | {values.std():.2f} |"


def _range_row(name: str, values: np.ndarray) -> str:
    if not len(values):
        return f"| {name} | 0 | | | | |"
    numbers = (values.mean(), values.std(), values.min(), values.max())
    return f"| {name} | {len(values)} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |"


def _percentile_row(name: str, counts: np.ndarray) -> str:
    return f"| {name} | " + " | ".join(map(str, hu_percentiles(counts))) + " |"


def _size_category(count: int) -> str:
    return "n<1K" if count < 1_000 else "1K<n<10K" if count < 10_000 else "10K<n<100K"
