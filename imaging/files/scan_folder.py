"""The scans of a folder."""

from pathlib import Path

from imaging.files.ct import READ_SUFFIXES


def find_scans(root: Path) -> list[Path]:
    """Every scan at any depth below a folder, in order.

    Args:
        root: The folder.
    Returns: Folders that hold `.dcm` files, and NIfTI and MetaImage files; none is opened.
    Raises: ValueError: If there is none.
    """
    series = {path.parent for path in root.rglob("*.dcm")}
    files = {path for path in root.rglob("*") if path.name.lower().endswith(READ_SUFFIXES)}
    if not series | files:
        raise ValueError(f"{root}: no DICOM series, no NIfTI and no MetaImage file below it; check --scans")
    return sorted(series | files)
