"""The scans of a folder."""

from pathlib import Path

from imaging.files.ct import READ_SUFFIXES
from imaging.files.dicom_nodules import is_dicom_annotation
from imaging.files.walk import files_below


def find_scans(root: Path) -> list[Path]:
    """Every scan at any depth below a folder, in order; linked folders are followed (`imaging.files.walk`).

    Args:
        root: The folder.
    Returns: NIfTI and MetaImage files, and folders that hold `.dcm` files other than segmentations and structure sets.
    Raises: ValueError: If there is none.
    """
    files = list(files_below(root))
    series: set[Path] = set()
    for path in files:
        if path.name.endswith(".dcm") and path.parent not in series and not is_dicom_annotation(path):
            series.add(path.parent)
    images = {path for path in files if path.name.lower().endswith(READ_SUFFIXES)}
    if not series | images:
        raise ValueError(f"{root}: no DICOM series, no NIfTI and no MetaImage file below it; check --scans")
    return sorted(series | images)
