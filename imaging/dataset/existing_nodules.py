"""Nodules that are in a scan already: the files that name them, and their labels on the scan's grid.

A file is a label image on the scan's grid, with the scan's name, or of the scan's series the LIDC XML, a DICOM
segmentation or a DICOM structure set.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.files.ct import READ_SUFFIXES, find_dicom_slices, read_instances
from imaging.files.dicom_nodules import annotated_series, is_dicom_annotation, read_dicom_nodules
from imaging.files.scan_folder import find_scans
from imaging.files.walk import files_below
from imaging.geometry import point_of_index
from imaging.lidc.consensus import ReaderMask, agree, group_marks, rasterise
from imaging.lidc.scan_nodules import slice_finder
from imaging.lidc.scans import Scan, annotated_scan, pair_annotations, series_uid_of
from imaging.lidc.xml import read_annotation

NONE_KNOWN = "none known"  # of a scan that is taken without a file


class ExistingNodules(NamedTuple):
    """The nodules of a scan.

    Attributes:
        labels: (D, H, W) of the scan, 0 and n in the n-th nodule.
        sources: What names each: its label, or the readers' marks.
        readers: How many marked each; None where the file does not say.
    """

    labels: np.ndarray
    sources: list[str]
    readers: list[int | None]


def scans_with_existing(root: Path, masks: Path) -> tuple[list[Path], dict[Path, Path]]:
    """The scans below a folder, without those among the masks, and the file that names the nodules of each.

    Args:
        root: Folder of scans.
        masks: As for :func:`pair_existing`; it may be the same folder.
    Raises: ValueError: As :func:`pair_existing` and `imaging.files.scan_folder.find_scans`.
    """
    scans = find_scans(root)
    if masks.resolve() not in (root.resolve(), *root.resolve().parents):
        scans = [path for path in scans if not path.resolve().is_relative_to(masks.resolve())]
    return scans, pair_existing(masks, root, scans)


def pair_existing(masks: Path, root: Path, scans: Sequence[Path]) -> dict[Path, Path]:
    """The file that names the nodules of each scan, for the scans that have one.

    Args:
        masks: A folder, or one file: then that of the only scan, or of the scan whose name it has.
        root: Folder that the scans lie below.
        scans: From `imaging.files.scan_folder.find_scans`. None of them is taken for a mask.
    Returns: Scan -> file, by the path below the folder without its ending (`patients/a.nii.gz` names the nodules of
        `patients/a.mha` and of the DICOM folder `patients/a`), by the name alone where it is the only one, and for
        DICOM by the series that the file names.
    Raises: ValueError: If two files name nodules of one series, or a DICOM file among them cannot be read.
    """
    real_scans = {scan.resolve() for scan in scans}
    files = [masks] if masks.is_file() else [path for path in files_below(masks) if path.resolve() not in real_scans]
    files = [path for path in files if _stem(path) is not None]
    if masks.is_file() and len(scans) == 1:
        return {scans[0]: masks} if files else {}
    below = masks.parent if masks.is_file() else masks
    by_path = {str(path.relative_to(below).parent / str(_stem(path))): path for path in files}
    named = [_stem(path) for path in files]
    by_name = {name: path for name, path in zip(named, files, strict=True) if named.count(name) == 1}
    names = [_scan_name(scan) for scan in scans]
    by_series, _ = pair_annotations([path for path in files if path.suffix.lower() == ".xml"])
    for path in files:
        uid = annotated_series(path) if path.suffix.lower() == ".dcm" else None
        if uid in by_series:
            raise ValueError(
                f"{path} and {by_series[uid]}: both name nodules of the series {uid}; leave one of them in "
                "--existing-masks"
            )
        if uid is not None:
            by_series[uid] = path
    pairs: dict[Path, Path | None] = {}
    for scan, name in zip(scans, names, strict=True):
        pairs[scan] = by_path.get(str(scan.relative_to(root).parent / name))
        if pairs[scan] is None and names.count(name) == 1:
            pairs[scan] = by_name.get(name)
        if pairs[scan] is None and by_series and scan.is_dir():
            uids = map(series_uid_of, sorted(scan.glob("*.dcm")))
            pairs[scan] = next((by_series[uid] for uid in uids if uid in by_series), None)
    return {scan: path for scan, path in pairs.items() if path is not None}


def read_existing(path: Path, scan: Path, ct: sitk.Image) -> ExistingNodules:
    """Read the nodules of a scan.

    Of LIDC's readers, half of those who marked a nodule decide its voxels, and where they share none any of them does.
    Marks below 3 mm have no outline and are not read.

    Args:
        path: From :func:`pair_existing`.
        scan: The scan's file or DICOM folder.
        ct: The scan as `read_ct` gives it.
    Raises: ValueError: Naming the file, if it cannot be read or is of another scan.
    """
    if path.suffix.lower() == ".xml":
        return _of_readers(path, scan, ct)
    if path.suffix.lower() == ".dcm":
        labels, names = read_dicom_nodules(path, ct)
    else:
        labels = read_instances(path, ct)
        names = [f"nodule {number + 1}" for number in range(int(labels.max()))]
    return ExistingNodules(labels, [f"{path.name}: {name}" for name in names], [None] * len(names))


def existing_rows(nodules: ExistingNodules, ct: sitk.Image, first_label: int) -> Iterator[dict[str, Any]]:
    """The manifest's row of each nodule; their labels begin with `first_label`."""
    voxel_mm3 = float(np.prod(ct.GetSpacing()))
    for index, box in enumerate(ndimage.find_objects(nodules.labels)):
        inside = np.argwhere(nodules.labels[box] == index + 1)
        center = inside.mean(axis=0) + [along.start for along in box]
        yield {
            "source": nodules.sources[index],
            "accepted": False,
            "label": first_label + index,
            "readers": nodules.readers[index],
            "center_zyx": center.tolist(),
            "center_mm": list(point_of_index(ct, center.tolist())),
            "box_zyx": [*(along.start for along in box), *(along.stop for along in box)],
            "volume_mm3": len(inside) * voxel_mm3,
        }


def _of_readers(path: Path, scan: Path, ct: sitk.Image) -> ExistingNodules:
    reading = read_annotation(path)
    if scan.is_dir():
        known, image = annotated_scan(find_dicom_slices(scan), path), ct
        if known.scan_id != reading.series_uid:
            raise ValueError(f"{path}: of the series {reading.series_uid}, expected that of {scan}, {known.scan_id}")
    else:  # pixel coordinates are those of the usual axial slice
        known, image = Scan(scan.name, "", (scan,), path), sitk.DICOMOrient(ct, "LPS")
        if not np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-3):
            raise ValueError(f"{scan}: oblique axes, expected axial slices for {path}")
    masks: list[ReaderMask] = []
    unusable = [*reading.unusable]
    find_slice, shape = slice_finder(image, known), image.GetSize()[::-1]
    for mark in reading.marks:
        try:
            masks.append(rasterise(mark, find_slice, shape)[0])
        except ValueError as error:
            unusable.append((mark.nodule_id, str(error)))
    if reading.marks and not masks:
        raise ValueError(f"{path}: none of its {len(reading.marks)} marks lies in {scan} ({unusable[-1][1]})")
    for name, reason in unusable:
        print(f"note: {path}: {name} is not among the labels: {reason}")
    labels = np.zeros(shape, np.uint16)
    groups = group_marks(masks)
    for number, group in enumerate(groups, 1):
        nodule = agree(group)
        mask = nodule.mask if nodule.mask.any() else agree(group, "union").mask
        box = tuple(slice(start, start + size) for start, size in zip(nodule.start, mask.shape, strict=True))
        labels[box][mask] = number
    if not scan.is_dir():
        oriented = sitk.GetImageFromArray(labels)
        oriented.CopyInformation(image)
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(ct.GetDirection())
        labels = sitk.GetArrayFromImage(sitk.DICOMOrient(oriented, code))
    marks = [", ".join(member.mark.nodule_id for member in group) for group in groups]
    return ExistingNodules(labels, [f"{path.name}: {names}" for names in marks], [len(group) for group in groups])


def _stem(path: Path) -> str | None:
    """A file's name without its ending; None where it names no nodules."""
    if path.name.lower().endswith(".dcm"):
        return path.stem if is_dicom_annotation(path) else None
    endings = (*READ_SUFFIXES, ".xml")
    return next((path.name[: -len(ending)] for ending in endings if path.name.lower().endswith(ending)), None)


def _scan_name(scan: Path) -> str:
    return scan.name if scan.is_dir() else str(_stem(scan))
