"""Nodule volumes as laboratories keep them: MATLAB files with `TDM_VOI` (CT) and `Seg_VOI` (mask), or NumPy pairs.

Such files hold voxels without geometry or unit, so a table and two declarations must say what they are: spacing and
patient by nodule, and for all of them the meaning of the numbers and the order of the axes. Declarations are checked
against the voxels.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from foundation.text_files import reason_of
from imaging.dataset.crop import crop_nodule
from imaging.dataset.nodules import AIR_HU, RATINGS
from imaging.files.csv_table import read_frame, text_columns
from imaging.files.matlab import read_matlab
from imaging.option_types import Axes, Intensity
from imaging.window import WINDOW_LEVEL, WINDOW_WIDTH, to_hu

CT_NAME, MASK_NAME = "TDM_VOI", "Seg_VOI"
SPACING_COLUMNS = ("spacing_z_mm", "spacing_y_mm", "spacing_x_mm")
COLUMNS = ("nodule", "patient_id", "ct", *SPACING_COLUMNS)
# Range of the stored numbers for a window that was already applied.
RANGES: dict[str, tuple[float, float]] = {"signed_unit": (-1.0, 1.0), "unit": (0.0, 1.0), "byte": (0.0, 255.0)}
AIRY_HU = -300.0  # every crop of a lung nodule has voxels below


def read_lab_table(path: Path) -> list[dict[str, Any]]:
    """Read the table of nodules; opens no volume.

    Columns: `nodule`, `patient_id`, `ct` (a `.mat`, or a `.npy` with its mask in the column `mask`),
    `spacing_z_mm`, `spacing_y_mm`, `spacing_x_mm`; optionally `split` and any of the dataset's ratings. Paths are
    relative to the table.

    Returns: One mapping per nodule with `nodule_id`, `patient_id`, `ct`, `mask`, `spacing_mm`, `split` (None where
        not given) and the ratings.
    Raises: ValueError: If the table cannot be read, lacks a column, a nodule comes twice, or a spacing is not positive.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a CSV table with the columns {', '.join(COLUMNS)}")
    table = read_frame(path, ("nodule", "patient_id", "ct", "mask", "split"), COLUMNS)
    wrong = text_columns(table, (*SPACING_COLUMNS, *RATINGS))
    if wrong:
        raise ValueError(f"{path}: columns {', '.join(wrong)} hold text, expected numbers")
    doubled = table["nodule"][table["nodule"].duplicated()].unique()
    if len(doubled):
        raise ValueError(f"{path}: nodules {', '.join(map(str, doubled))} come twice, expected one row each")
    rows = []
    for line, record in enumerate(table.to_dict("records"), start=2):
        given = {name: None if pd.isna(value) else value for name, value in record.items()}
        absent = [name for name in COLUMNS if given[name] is None]
        if absent:
            raise ValueError(f"{path}: line {line} has no {', '.join(absent)}")
        row = {name: given.get(name) for name in ("patient_id", "split", *RATINGS)}
        spacing_mm = tuple(float(record[name]) for name in SPACING_COLUMNS)
        if not all(0 < spacing < math.inf for spacing in spacing_mm):
            raise ValueError(f"{path}: line {line} has the spacing {spacing_mm} mm, expected three positive numbers")
        row |= {"nodule_id": given["nodule"], "spacing_mm": spacing_mm}
        row |= {"ct": path.parent / str(given["ct"]), "mask": None}
        if given.get("mask") is not None:
            row["mask"] = path.parent / str(given["mask"])
        rows.append(row)
    return rows


def read_lab_nodule(
    row: dict[str, Any],
    crop_size: int,
    spacing_mm: float | None,
    intensity: Intensity,
    axes: Axes = "zyx",
    width: float = WINDOW_WIDTH,
    level: float = WINDOW_LEVEL,
) -> dict[str, Any]:
    """One row of the table as the array columns of the prepared dataset.

    Args:
        row: From `read_lab_table`.
        crop_size: Edge of the crop, voxels.
        spacing_mm: Isotropic spacing of the crop; None keeps the file's.
        intensity, width, level: See `lab_to_hu`.
        axes: Order of the axes of `.npy` files; MATLAB's is always row, column, slice.
    Returns: The columns of `crop_nodule`.
    Raises: ValueError: Naming the file, if it cannot be read, is no 3D pair of equal shape, holds no lesion, or its
        numbers contradict the declared intensity.
    """
    ct_path: Path = row["ct"]
    if ct_path.suffix.lower() == ".mat":
        ct, mask = read_mat(ct_path)
    elif ct_path.suffix.lower() == ".npy":
        if row["mask"] is None:
            raise ValueError(f"{ct_path}: a .npy volume needs the path of its mask in the column `mask`")
        order = tuple(axes.index(axis) for axis in "zyx")
        ct, mask = (_as_3d(read_npy(path), path).transpose(order) for path in (ct_path, row["mask"]))
    else:
        raise ValueError(f"{ct_path}: expected .mat or .npy; NIfTI pairs have their own command, prepare_nodules")
    if ct.shape != mask.shape:
        raise ValueError(f"{ct_path}: CT of shape {ct.shape} and mask of shape {mask.shape}, expected equal shapes")
    try:
        ct_hu = lab_to_hu(ct, intensity, width, level)
        images = [sitk.GetImageFromArray(array) for array in (ct_hu, (mask > 0).astype(np.uint8))]
        for image in images:
            image.SetSpacing([float(s) for s in reversed(row["spacing_mm"])])
        return crop_nodule(images[0], images[1], crop_size, spacing_mm)[0]
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{ct_path}: {error}") from error


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """CT and mask of a MATLAB file, version 5 to 7 or 7.3 (HDF5), as (z, y, x).

    MATLAB stores row, column, slice, that is y, x, z. The two variables may lie in the file itself or in one struct.

    Raises: ValueError: If the file cannot be read or lacks a variable.
    """
    found = read_matlab(path, (CT_NAME, MASK_NAME))
    lacking = [name for name in (CT_NAME, MASK_NAME) if name not in found]
    if lacking:
        raise ValueError(f"{path}: lacks {' and '.join(lacking)}, expected {CT_NAME} (CT) and {MASK_NAME} (mask)")
    ct, mask = (_as_3d(found[name], path).transpose(2, 0, 1) for name in (CT_NAME, MASK_NAME))
    return ct, mask


def read_npy(path: Path) -> np.ndarray:
    """A NumPy array without pickled objects. Raises ValueError, naming the file, if it is none."""
    try:
        return np.lib.format.open_memmap(path, mode="r")  # takes no memory for a size that the file only declares
    except Exception as error:  # NumPy raises many kinds on a damaged header
        raise ValueError(f"{path}: cannot be read as a plain NumPy array ({reason_of(error)})") from error


def lab_to_hu(ct: np.ndarray, intensity: Intensity, width: float = WINDOW_WIDTH, level: float = WINDOW_LEVEL):
    """Voxels as HU, from what they are declared to be; the declaration is checked.

    Args:
        ct: (D, H, W), any number type.
        intensity: "hu", or the range to which a CT window was mapped: "signed_unit" [-1, 1], "unit" [0, 1], "byte"
            [0, 255].
        width, level: That window, HU; not used for "hu".
    Returns: float32 (D, H, W), HU, at least -1024.
    Raises: ValueError: If the numbers are not finite or contradict the declaration.
    """
    ct = np.asarray(ct, dtype=np.float32)
    if not np.isfinite(ct).all():
        raise ValueError("NaN or infinite voxels, expected finite numbers")
    low, high = float(ct.min()), float(ct.max())
    if intensity == "hu":
        if low > AIRY_HU:
            raise ValueError(
                f"declared as HU, but the values span {low:g} to {high:g}; expected some below {AIRY_HU:g} (lung). "
                f"Was a window applied? Then declare {', '.join(RANGES)}"
            )
        return np.maximum(ct, AIR_HU)
    if intensity not in RANGES:
        raise ValueError(f"intensity {intensity!r}, expected hu, {', '.join(RANGES)}")
    first, last = RANGES[intensity]
    slack = 1e-3 * (last - first)
    narrower = {"signed_unit": low >= 0.0, "unit": False, "byte": high <= 1.0}[intensity]
    if low < first - slack or high > last + slack or narrower:
        raise ValueError(
            f"declared as {intensity} ({first:g} to {last:g}), but the values span {low:g} to {high:g}; "
            f"declare one of hu, {', '.join(RANGES)} that fits"
        )
    ct_norm = (ct - first) / (last - first) * 2 - 1
    return np.maximum(to_hu(ct_norm, width, level), AIR_HU).astype(np.float32)


def _as_3d(array: Any, path: Path) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 3 or array.dtype.kind not in "biuf" or array.size == 0:
        raise ValueError(
            f"{path}: array of shape {array.shape} and type {array.dtype}, expected a 3D volume of numbers"
        )
    return array
