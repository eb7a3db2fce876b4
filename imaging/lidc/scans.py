"""Find LIDC-IDRI scans in a folder as downloaded: DICOM series and annotation files, in any layout, paired by UID."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
from pydicom.errors import InvalidDicomError

from foundation.text_files import reason_of
from imaging.files.csv_table import read_frame, text_columns
from imaging.files.dicom_check import BoundedFile, check_dicom
from imaging.files.walk import files_below
from imaging.lidc.xml import Reading, read_annotation

HEADER_TAGS = (
    "PatientID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Modality",
    "Manufacturer",
    "SliceThickness",
    "ImagePositionPatient",
)
CHUNK = 200  # files a worker reads at a time


@dataclass(frozen=True)
class Scan:
    """One CT with its annotation; nothing of it is read yet.

    Attributes:
        scan_id: Series instance UID, or the file's name for a CT that is no DICOM.
        patient_id: As in the header or the table.
        files: The slices of a DICOM series, or the one file of another format.
        annotation: LIDC XML file.
        manufacturer: From the header; empty if unknown.
        slice_thickness_mm: From the header; None if unknown.
        is_dicom: Whether the files are a DICOM series.
        slice_positions: SOP instance UID -> position (x, y, z) in mm of the slice's first voxel, from the headers.
    """

    scan_id: str
    patient_id: str
    files: tuple[Path, ...]
    annotation: Path
    manufacturer: str = ""
    slice_thickness_mm: float | None = None
    is_dicom: bool = False
    slice_positions: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the dataset, and why.

    Attributes:
        kind: "file", "annotation", "scan", "mark" (one reader's), "outline" (one slice of a mark) or "nodule".
        patient_id: Empty if unknown.
        scan_id: As in `Scan`; empty if unknown.
        item: The file, the reader's mark or the nodule.
        reason: One sentence.
    """

    kind: str
    patient_id: str
    scan_id: str
    item: str
    reason: str


Mapper = Callable[[Callable[[Any], Any], Sequence[Any], str], Iterable[Any]]


def plain_map(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> Iterable[Any]:
    """`map` with a title, for callers that want neither processes nor a progress bar."""
    return map(function, items)


def find_scans(
    dicom_root: Path, annotation_root: Path | None = None, mapper: Mapper = plain_map
) -> tuple[list[Scan], list[LeftOut]]:
    """Find the CT series below a folder that have a LIDC annotation.

    Args:
        dicom_root: Folder with DICOM files at any depth; files of other kinds are passed over.
        annotation_root: Folder with the XML files; None if they lie among the DICOM files.
        mapper: `mapper(function, items, title)` yields the results in order; may use processes and show progress.
    Returns: Scans ordered by patient and series; and all files, annotations and series that cannot be used.
    Raises: ValueError: If a folder does not exist or holds no DICOM file.
    """
    for root in filter(None, (dicom_root, annotation_root)):
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder, expected the LIDC-IDRI download")
    paths = sorted(files_below(dicom_root))
    is_xml = [path.suffix.lower() == ".xml" for path in paths]
    annotations = [path for path, xml in zip(paths, is_xml, strict=True) if xml]
    if annotation_root is not None:
        annotations = [path for path in sorted(files_below(annotation_root)) if path.suffix.lower() == ".xml"]
    others = [path for path, xml in zip(paths, is_xml, strict=True) if not xml]
    chunks = [others[start : start + CHUNK] for start in range(0, len(others), CHUNK)]
    headers: list[dict[str, Any]] = []
    left_out: list[LeftOut] = []
    for chunk, results in zip(chunks, mapper(_read_headers, chunks, "DICOM headers"), strict=True):
        for path, result in zip(chunk, results, strict=True):
            if isinstance(result, str):
                left_out.append(LeftOut("file", "", "", str(path), result))
            elif result is not None:
                headers.append(result)
    if not headers:
        raise ValueError(f"{dicom_root}: no DICOM file in this folder or below it")
    annotation_of, unusable = pair_annotations(annotations, mapper)
    scans, left = _group_series(headers, annotation_of)
    known = {header["SeriesInstanceUID"] for header in headers}
    for uid, path in annotation_of.items():
        if uid not in known:
            left_out.append(LeftOut("annotation", "", uid, str(path), "its CT series is not in the DICOM folder"))
    return scans, left_out + unusable + left


def series_uid_of(path: Path) -> str | None:
    """The series that a DICOM image belongs to; None for any other file."""
    header = _read_header(path)
    return header["SeriesInstanceUID"] if isinstance(header, dict) else None


def patient_id_of(path: Path) -> str | None:
    """PatientID of a DICOM image; None for any other file, and where it is empty."""
    header = _read_header(path)
    return header["PatientID"] or None if isinstance(header, dict) else None


def annotated_scan(files: Sequence[Path], annotation: Path) -> Scan:
    """A CT series given by its slices, with its annotation.

    Raises: ValueError: If the headers are not those of one CT series of one patient.
    """
    headers = [header for header in _read_headers(files) if isinstance(header, dict)]
    uids = {header["SeriesInstanceUID"] for header in headers}
    scans, left_out = _group_series(headers, dict.fromkeys(uids, annotation))
    if len(scans) != 1:
        reason = left_out[0].reason if left_out else f"{len(uids)} series"
        raise ValueError(f"{files[0].parent}: {reason}, expected one CT series")
    return scans[0]


def read_scan_table(path: Path) -> list[Scan]:
    """Scans that are no DICOM, from a table with the columns `ct`, `annotation`, `patient_id`.

    Such files have no UIDs, so the table pairs them, and slices are found by their z position. Paths are relative to
    the table. Optional columns: `manufacturer`, `slice_thickness_mm`.

    Raises: ValueError: If the table cannot be read, lacks a column or a value, or names a file that does not exist.
    """
    required = ("ct", "annotation", "patient_id")
    table = read_frame(path, required, required)
    if text_columns(table, ("slice_thickness_mm",)):
        raise ValueError(f"{path}: column slice_thickness_mm holds text, expected numbers")
    scans = []
    for line, row in enumerate(table.to_dict("records"), start=2):
        given = {name: value for name, value in row.items() if not pd.isna(value)}
        absent = [name for name in required if name not in given]
        if absent:
            raise ValueError(f"{path}: line {line} has no {', '.join(absent)}")
        ct, annotation = (path.parent / given[name] for name in ("ct", "annotation"))
        for file in (ct, annotation):
            if not file.exists():
                raise ValueError(f"{path}: line {line} names {file}, which does not exist")
        thickness = given.get("slice_thickness_mm")
        scans.append(
            Scan(
                ct.name,
                given["patient_id"],
                (ct,),
                annotation,
                str(given.get("manufacturer", "")),
                None if thickness is None else float(thickness),
            )
        )
    names = [(scan.patient_id, scan.scan_id) for scan in scans]
    doubled = sorted({f"{patient} {name}" for patient, name in names if names.count((patient, name)) > 1})
    if doubled:
        raise ValueError(f"{path}: {', '.join(doubled)} come twice; give a patient's files different names")
    return scans


def _read_headers(paths: Sequence[Path]) -> list[dict[str, Any] | str | None]:
    return [_read_header(path) for path in paths]


def _read_header(path: Path) -> dict[str, Any] | str | None:
    """Header fields; or the reason why a DICOM file cannot be used; or None for a file that is no DICOM image."""
    try:
        check_dicom(path, lengths=False)
        with BoundedFile(path) as opened:
            header = pydicom.dcmread(opened, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
        if "SeriesInstanceUID" not in header:
            return "a DICOM file without SeriesInstanceUID; is it complete?" if path.suffix.lower() == ".dcm" else None
        position = header.get("ImagePositionPatient")
        thickness = header.get("SliceThickness")
        return {
            "path": path,
            "position": None if not position else tuple(float(x) for x in position),
            "thickness_mm": None if thickness in (None, "") else float(thickness),
        } | {tag: str(header.get(tag) or "").strip() for tag in HEADER_TAGS[:5]}
    except InvalidDicomError:
        return "no DICOM file, in spite of its name" if path.suffix.lower() == ".dcm" else None
    except Exception as error:  # pydicom raises many kinds on damaged files
        return f"its DICOM header cannot be read ({reason_of(error)})"


def _series_of_annotation(path: Path) -> Reading | str:
    try:
        return read_annotation(path)
    except (ValueError, OSError) as error:
        return str(error)


def pair_annotations(paths: Sequence[Path], mapper: Mapper = plain_map) -> tuple[dict[str, Path], list[LeftOut]]:
    """Series UID -> file. Equal copies count once; different files for one series are all left out.

    Args:
        paths: XML files, of LIDC or not.
        mapper: As for `find_scans`.
    """
    usable: dict[str, list[tuple[Path, Reading]]] = {}
    left_out = []
    for path, reading in zip(paths, mapper(_series_of_annotation, paths, "annotations"), strict=True):
        if isinstance(reading, str):
            left_out.append(LeftOut("annotation", "", "", str(path), reading))
        else:
            usable.setdefault(reading.series_uid, []).append((path, reading))
    annotation_of = {}
    for uid, found in usable.items():
        first = found[0][1]
        if all(_same_reading(first, reading) for _, reading in found[1:]):
            annotation_of[uid] = found[0][0]
            left_out += [LeftOut("annotation", "", uid, str(path), f"copy of {found[0][0]}") for path, _ in found[1:]]
        else:
            names = ", ".join(str(path) for path, _ in found)
            left_out += [
                LeftOut("annotation", "", uid, str(path), f"contradicts another of the same series: {names}")
                for path, _ in found
            ]
    return annotation_of, left_out


def _same_reading(a: Reading, b: Reading) -> bool:
    def plain(reading: Reading) -> list[Any]:
        return [
            (mark.reader, mark.ratings, [(c.sop_uid, c.inclusion, c.points_xy.tolist()) for c in mark.contours])
            for mark in reading.marks
        ]

    return plain(a) == plain(b)


def _group_series(
    headers: Sequence[dict[str, Any]], annotation_of: dict[str, Path]
) -> tuple[list[Scan], list[LeftOut]]:
    series: dict[str, dict[str, dict[str, Any]]] = {}
    left_out = []
    for header in headers:
        slices = series.setdefault(header["SeriesInstanceUID"], {})
        first = slices.setdefault(header["SOPInstanceUID"], header)
        if first is not header:
            reason = f"copy of {first['path']} (same SOPInstanceUID)"
            left_out.append(
                LeftOut("file", header["PatientID"], header["SeriesInstanceUID"], str(header["path"]), reason)
            )
    scans = []
    for uid, slices in series.items():
        first = next(iter(slices.values()))
        patient, modality = first["PatientID"], first["Modality"]
        reason = ""
        if modality != "CT":
            reason = f"modality {modality or 'unknown'}, expected CT"
        elif not patient:
            reason = "no PatientID, so it cannot be kept in one split"
        elif len({header["PatientID"] for header in slices.values()}) > 1:
            reason = "its slices name different patients"
        elif uid not in annotation_of:
            reason = "no readable LIDC annotation (XML) names this series"
        if reason:
            left_out.append(LeftOut("scan", patient, uid, str(first["path"].parent), reason))
            continue
        positions = {sop: header["position"] for sop, header in slices.items() if header["position"] is not None}
        files = tuple(header["path"] for header in slices.values())
        thickness = max((h["thickness_mm"] for h in slices.values() if h["thickness_mm"] is not None), default=None)
        scans.append(Scan(uid, patient, files, annotation_of[uid], first["Manufacturer"], thickness, True, positions))
    return sorted(scans, key=lambda scan: (scan.patient_id, scan.scan_id)), left_out
