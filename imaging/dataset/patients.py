"""Whose scan it is, so that a patient is never in two splits."""

import hashlib
from pathlib import Path

from foundation.text_files import read_csv
from imaging.lidc.scans import patient_id_of

CODE = 12  # digits


def patient_of(scan: Path, root: Path) -> str:
    """The patient of a scan: a code of the DICOM PatientID, or for other files the scan itself.

    Args:
        scan: File or DICOM folder.
        root: Folder of scans that it lies below.
    Returns: A hash of the PatientID, so that the identifier itself does not travel; or the scan's path below the root.
    """
    for path in sorted(scan.glob("*.dcm")) if scan.is_dir() else ():
        identifier = patient_id_of(path)
        if identifier:
            return hashlib.sha256(f"patient/{identifier}".encode()).hexdigest()[:CODE]
    return str(scan.relative_to(root))


def read_patients(path: Path) -> dict[str, str]:
    """Scan -> patient, from a CSV table with the columns scan and patient.

    Args:
        path: Of the table; a scan is named by its path below the folder of scans.
    Raises: ValueError: Naming the file, if it is no such table, a cell is empty, or a scan has two patients.
    """
    columns, rows = read_csv(path)
    if not {"scan", "patient"} <= set(columns):
        shown = " ".join(", ".join(columns).split())
        raise ValueError(f"{path}: columns {shown[:200] or 'none'}, expected scan and patient")
    patients: dict[str, str] = {}
    for line, row in rows:
        scan, patient = row.get("scan", "").strip(), row.get("patient", "").strip()
        if not (scan and patient):
            raise ValueError(f"{path}, line {line}: scan {scan!r} of patient {patient!r}, expected a name of each")
        if patients.setdefault(scan, patient) != patient:
            raise ValueError(f"{path}, line {line}: scan {scan} is of {patients[scan]} and of {patient}; keep one")
    return patients
