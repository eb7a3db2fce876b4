"""A folder of nodules as NIfTI pairs: `<nodule>_ct.nii.gz`, `<nodule>_mask.nii.gz` and a table `nodules.csv`.

What more is known of LIDC-IDRI's nodules lies beside them where it is there: `<nodule>_readers.nii.gz` (bit k is set
where reader k outlined), `readers.csv` (each reader's ratings) and `patients.csv` (who a nodule's patient truly is).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import SimpleITK as sitk

from imaging.dataset.crop import crop_nodule
from imaging.dataset.nodules import RATINGS
from imaging.dataset.outlined import half_maximum_image
from imaging.dataset.rows import SPLITS
from imaging.files.csv_table import read_frame, text_columns
from imaging.files.ct import read_agreement, read_ct, read_mask
from imaging.lesions.composition import solid_part
from imaging.option_types import PairOutline

PATIENT_COLUMNS = ("patient_id", "patient_id_approx")
TEXTS = ("nodule", *PATIENT_COLUMNS, "split")
EXTRA_TYPES = {"i": "int64", "f": "float32"}  # by NumPy kind; all else is a string


@dataclass(frozen=True)
class NoduleTable:
    """The rows of `nodules.csv` as metadata of dataset rows, and the types of the columns beyond the fixed ones."""

    rows: list[dict[str, Any]]
    extra: dict[str, str]


def read_nodule_table(folder: Path, source: str) -> NoduleTable:
    """Read and check `nodules.csv` and that each of its nodules has both files; opens no image.

    Columns: `nodule`, `patient_id` (or `patient_id_approx`), `split`; any of `RATINGS` and `diameter_mm`, empty where
    unknown; all others are kept as extra columns (int64, float32 or string). `readers.csv` (columns `nodule` and any of
    `RATINGS`, a row for each reader) replaces a nodule's ratings by its readers' means. `patients.csv` (`nodule`,
    `patient_id`, `confirmed`) replaces the patient where `confirmed` is 1.

    Args:
        folder: Folder with the table and the pairs.
        source: Name stored as the rows' `source`.
    Returns: One mapping per nodule, in the table's order.
    Raises: ValueError: With every problem found, one per line.
    """
    path = folder / "nodules.csv"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a folder with nodules.csv and the NIfTI pairs")
    table = read_frame(path, TEXTS, ("nodule", "split"))
    patient = next((name for name in PATIENT_COLUMNS if name in table), "patient_id")
    if patient not in table:
        raise ValueError(f"{path}: lacks the column {patient}; it has {', '.join(table.columns)}")
    if "nodule_id" in table:
        raise ValueError(f"{path}: has the columns nodule and nodule_id; remove one")
    table = table.rename(columns={"nodule": "nodule_id", patient: "patient_id"})
    problems = _table_problems(folder, table)
    if problems:
        raise ValueError(f"{path}: {len(problems)} problems\n" + "\n".join(problems))

    ratings = _mean_ratings(folder / "readers.csv")
    patients = _true_patients(folder / "patients.csv")
    numbers = [name for name in ("diameter_mm", *RATINGS) if name in table]
    fixed = {"nodule_id", "patient_id", "split", *numbers}
    extra = {name: EXTRA_TYPES.get(table[name].dtype.kind, "string") for name in table if name not in fixed}
    rows = []
    for given in table.to_dict("records"):
        row: dict[str, Any] = {"source": source}
        for name, value in given.items():
            row[name] = None if pd.isna(value) else str(value) if extra.get(name) == "string" else value
        row["patient_id"] = patients.get(row["nodule_id"], row["patient_id"])
        rows.append(row | ratings.get(row["nodule_id"], {}))
    return NoduleTable(rows, extra)


def read_nodule_pair(
    folder: Path,
    row: dict[str, Any],
    crop_size: int,
    spacing_mm: float | None,
    fill_hu: float | None = None,
    outline: PairOutline = "half_maximum",
) -> tuple[dict[str, Any], bool, str | None]:
    """Read one nodule's pair and crop it: a complete row of the prepared dataset, with its solid part.

    Args:
        folder: Folder with the pairs.
        row: Metadata of `read_nodule_table`.
        crop_size: Edge of the crop, voxels.
        spacing_mm: Isotropic spacing of the crop; None keeps the file's own grid.
        fill_hu: As `crop_nodule`.
        outline: "union" takes the mask file as it is, and the table's diameter where it gives one. "consensus" is what
            at least half of the readers in `<nodule>_readers.nii.gz` outlined, or the mask file where there is none or
            they share no voxel; "half_maximum" redraws its border (`imaging.dataset.outlined`).
    Returns: The row, with `solid_mask` and `slice_mm` beside the fixed columns; whether the whole lesion lies inside
        the crop; and why the border at half maximum was not taken, None if it was or was not asked for.
    Raises: ValueError: Naming the file, if one of them cannot be read, they do not fit, or the mask is empty.
    """
    ct_image = read_ct(folder / f"{row['nodule_id']}_ct.nii.gz", crop=True)
    mask_path = folder / f"{row['nodule_id']}_mask.nii.gz"
    mask_image = read_mask(mask_path, ct_image)
    texture, fallback = row.get("texture"), None
    try:
        if outline != "union":
            mask_image = _agreement(folder / f"{row['nodule_id']}_readers.nii.gz", ct_image, mask_image)
        if outline == "half_maximum":
            mask_image, found = half_maximum_image(ct_image, mask_image, texture)
            fallback = found.fallback
        elif outline == "consensus":
            mask_image = mask_image >= 0.5
        columns, _, whole = crop_nodule(ct_image, mask_image, crop_size, spacing_mm, fill_hu)
    except ValueError as error:
        raise ValueError(f"{mask_path}: {error}") from error
    columns["slice_mm"] = ct_image.GetSpacing()[2]
    columns["solid_mask"] = solid_part(columns["ct_hu"], columns["lesion_mask"], texture, columns["spacing_mm"])
    if outline == "union" and row.get("diameter_mm") is not None:
        columns["diameter_mm"] = row["diameter_mm"]
    return row | columns, whole, fallback


def _agreement(path: Path, ct_image: sitk.Image, mask_image: sitk.Image) -> sitk.Image:
    """Share of the readers who outlined each voxel, float32; the mask where half of them agree on none."""
    if not path.is_file():
        return sitk.Cast(mask_image > 0, sitk.sitkFloat32)
    share_image = read_agreement(path, ct_image)
    agreed = (sitk.GetArrayViewFromImage(share_image) >= 0.5).any()
    return share_image if agreed else sitk.Cast(mask_image > 0, sitk.sitkFloat32)


def _mean_ratings(path: Path) -> dict[str, dict[str, float]]:
    """Nodule -> mean of each rating over its readers; empty where there is no such file."""
    if not path.is_file():
        return {}
    table = read_frame(path, TEXTS, ("nodule",))
    names = [name for name in RATINGS if name in table]
    wrong = text_columns(table, names)
    if wrong:
        raise ValueError(f"{path}: columns {', '.join(wrong)}: expected numbers")
    means = table.groupby("nodule")[names].mean()
    return {
        str(nodule): {name: float(value) for name, value in row.items() if not pd.isna(value)}
        for nodule, row in zip(means.index, means.to_dict("records"), strict=True)
    }


def _true_patients(path: Path) -> dict[str, str]:
    """Nodule -> its patient, of the confirmed rows; empty where there is no such file."""
    if not path.is_file():
        return {}
    table = read_frame(path, TEXTS, ("nodule", "patient_id", "confirmed"))
    table = table[pd.to_numeric(table["confirmed"], errors="coerce") == 1].dropna(subset=["nodule", "patient_id"])
    return dict(zip(table["nodule"], table["patient_id"], strict=True))


def _table_problems(folder: Path, table: pd.DataFrame) -> list[str]:
    problems = []
    if table.empty:
        problems.append("no row")
    for line, row in enumerate(table.itertuples(), start=2):
        name = f"line {line}" if pd.isna(row.nodule_id) else str(row.nodule_id)
        for column in ("nodule_id", "patient_id", "split"):
            if pd.isna(getattr(row, column)):
                problems.append(f"{name}: no {column.removesuffix('_id')}")
        if not pd.isna(row.split) and row.split not in SPLITS:
            problems.append(f"{name}: split {row.split!r}, expected one of {', '.join(map(repr, SPLITS))}")
        if not pd.isna(row.nodule_id):
            files = (folder / f"{row.nodule_id}_{kind}.nii.gz" for kind in ("ct", "mask"))
            problems += [f"{file.name}: no such file in {folder}" for file in files if not file.is_file()]
    doubled = table["nodule_id"][table["nodule_id"].duplicated()].dropna().unique()
    problems += [f"{name}: in the table more than once" for name in doubled]
    for patient, splits in table.groupby("patient_id")["split"]:
        if splits.nunique() > 1:
            problems.append(f"patient {patient}: in both splits; keep all nodules of a patient in one")
    for column in ("diameter_mm", *RATINGS):
        if column in table and not pd.api.types.is_numeric_dtype(table[column]):
            problems.append(f"column {column}: expected numbers")
    if "diameter_mm" in table and pd.api.types.is_numeric_dtype(table["diameter_mm"]):
        wrong = table["nodule_id"][table["diameter_mm"] <= 0]
        problems += [f"{name}: diameter_mm is not positive" for name in wrong]
    return problems
