"""What a synthesis writes for one scan: its rows, and the scan with its lesions, whole or as crops."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import SimpleITK as sitk

from imaging.boxes import point_box
from imaging.dataset.manifest import write_rows
from imaging.files.ct import write_ct

ROWS = "lesions.parquet"
CROP_MM = 64.0  # edge of a crop


def write_synthetic_scan(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    ct: sitk.Image | None,
    labels: sitk.Image | None,
    write: Literal["scans", "crops", "both"] = "scans",
) -> None:
    """Write the rows of a scan's samples, and images where one of them was accepted.

    Args:
        folder: To be made. `lesions.parquet`; of scans `ct.nii.gz` and `lesions.nii.gz`, of crops
            `LESION_ct.nii.gz` and `LESION_mask.nii.gz` for each lesion, all on the scan's grid.
        rows: As for `imaging.dataset.manifest.write_rows`.
        ct: The scan with its lesions; None where it could not be read.
        labels: n where the n-th lesion is, and further values in the scan's own nodules; None likewise. The mask of a
            crop holds its one lesion.
        write: Which images.
    Raises: ValueError: As `write_rows`.
    """
    folder.mkdir()
    accepted = [row for row in rows if row["accepted"]]
    if ct is not None and labels is not None and accepted:
        if write != "crops":
            write_ct(ct, folder / "ct.nii.gz")
            write_ct(labels, folder / "lesions.nii.gz")
        for row in accepted if write != "scans" else []:
            box = point_box(ct.GetSize()[::-1], row["center_zyx"], CROP_MM / 2, ct.GetSpacing()[::-1])[::-1]
            write_ct(ct[box], folder / f"{row['lesion']:07d}_ct.nii.gz")
            write_ct(labels[box] == row["label"], folder / f"{row['lesion']:07d}_mask.nii.gz")
    write_rows(rows, folder / ROWS)
