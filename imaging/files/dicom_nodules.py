"""Nodules that a DICOM segmentation (SEG) or structure set (RTSTRUCT) names, on the grid of the CT that they are of.

highdicom decodes the segments. A contour of a structure set encloses the voxels whose centres it encloses, and one
inside another cuts a hole (DICOM PS3.3, section C.8.8.6.3).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage
from skimage.draw import polygon

from foundation.text_files import reason_of
from imaging.files.dicom_check import BoundedFile, check_dicom
from imaging.lesions.mask import numbered_nodules

LABEL_MAPS = "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation Storage
SEGMENTATIONS = (SegmentationStorage, LABEL_MAPS)
SOP_CLASS = b"\2\0\2\0UI"  # of the element that says what a file holds, in its first bytes
NODULE_NAME = re.compile(r"nodul|lesion|mass\b|tumou?r|neoplas|cancer|carcinom|metasta|gtv", re.IGNORECASE)
OFF_GRID = 0.25  # voxels; positions in headers are rounded
MOST_STRUCTURES = 1000


def is_dicom_annotation(path: Path) -> bool:
    """Whether a file begins as a DICOM segmentation or structure set; not more than its beginning is read."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError:  # a link that leads nowhere
        return False
    at = start.find(SOP_CLASS)
    if start[128:132] != b"DICM" or at < 0:
        return False
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    uid = start[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")
    return uid in (*SEGMENTATIONS, RTStructureSetStorage)


def annotated_series(path: Path) -> str | None:
    """SeriesInstanceUID of the CT that a segmentation or structure set refers to; None where it names none.

    Raises: ValueError: Naming the file, if it cannot be read.
    """
    dataset = _read(path, stop_before_pixels=True)
    try:
        if dataset.SOPClassUID in SEGMENTATIONS:
            return str(dataset.ReferencedSeriesSequence[0].SeriesInstanceUID)
        study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        return str(study.RTReferencedSeriesSequence[0].SeriesInstanceUID)
    except (AttributeError, IndexError):
        return None


def read_dicom_nodules(path: Path, ct: sitk.Image) -> tuple[np.ndarray, list[str]]:
    """The nodules of a segmentation or structure set.

    Structures count that are named as a nodule (`NODULE_NAME`), by their label or by their type. Each is a nodule; one
    alone may hold many, as the one label of a mask may. Where two overlap, the first keeps the voxels.

    Args:
        path: A file that `is_dicom_annotation` finds.
        ct: The CT that it is of.
    Returns: uint16 (D, H, W) of the CT, 0 and n in the n-th nodule; and the name of each nodule.
    Raises: ValueError: Naming the file, if it cannot be read, is of another grid or place, or names structures and none
        of them as a nodule.
    """
    dataset = _read(path)
    is_segmentation = dataset.SOPClassUID in SEGMENTATIONS
    try:
        names = _segment_names(dataset) if is_segmentation else _structure_names(dataset)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ValueError(f"{path}: its list of structures cannot be read ({reason_of(error)})") from error
    if len(names) > MOST_STRUCTURES:
        raise ValueError(f"{path}: {len(names)} structures, expected at most {MOST_STRUCTURES}; is it the right file?")
    chosen = {number: name for number, (name, said) in names.items() if NODULE_NAME.search(f"{name} {said}")}
    others = [name for number, (name, _) in names.items() if number not in chosen]
    if others and not chosen:
        raise ValueError(
            f"{path}: none of its structures is named as a nodule ({', '.join(others[:5])}); rename those that are, "
            "for example to Nodule 1"
        )
    if others:
        print(f"note: {path}: not taken as nodules: {', '.join(others)}")
    labels = np.zeros(ct.GetSize()[::-1], np.uint16)
    kept: list[str] = []
    try:
        for name, voxels in (_segments if is_segmentation else _structures)(dataset, chosen, ct):
            new = voxels[labels[tuple(voxels.T)] == 0]
            if len(new):
                kept.append(name)
                labels[tuple(new.T)] = len(kept)
            else:
                print(f"note: {path}: {name} has no voxel of its own and is not among the labels")
    except Exception as error:  # highdicom and pydicom raise many kinds on damaged files
        said = str(error) if isinstance(error, _OtherGridError) else f"cannot be read ({reason_of(error)})"
        raise ValueError(f"{path}: {said}") from error
    if len(kept) != 1:
        return labels, kept
    labels = numbered_nodules(labels)
    count = int(labels.max())
    return labels, kept if count == 1 else [f"{kept[0]}, part {part}" for part in range(1, count + 1)]


class _OtherGridError(ValueError):
    """What is read does not lie on the grid of the CT."""


def _read(path: Path, stop_before_pixels: bool = False) -> Dataset:
    check_dicom(path, lengths=False)
    try:
        with BoundedFile(path) as opened:
            dataset = pydicom.dcmread(opened, stop_before_pixels=stop_before_pixels)
        _ = dataset.SOPClassUID  # missing in a damaged file
        return dataset
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ValueError(f"{path}: cannot be read as DICOM ({reason_of(error)}); is it complete?") from error


def _segment_names(dataset: Dataset) -> dict[int, tuple[str, str]]:
    """Segment -> its label, and what else is said of it."""
    return {
        int(item.SegmentNumber): (
            str(item.SegmentLabel),
            f"{item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning} {item.get('SegmentDescription', '')}",
        )
        for item in dataset.SegmentSequence
    }


def _structure_names(dataset: Dataset) -> dict[int, tuple[str, str]]:
    """Structure (ROI) -> its name, and what else is said of it."""
    said = {
        int(item.ReferencedROINumber): f"{item.get('RTROIInterpretedType', '')} {item.get('ROIObservationLabel', '')}"
        for item in dataset.get("RTROIObservationsSequence") or ()
    }
    structures = dataset.get("StructureSetROISequence") or ()
    return {int(item.ROINumber): (str(item.ROIName), said.get(int(item.ROINumber), "")) for item in structures}


def _segments(dataset: Dataset, chosen: dict[int, str], ct: sitk.Image) -> Iterator[tuple[str, np.ndarray]]:
    """Name and voxels, (N, 3) z y x, of each segment."""
    import highdicom as hd

    segmentation = hd.seg.Segmentation.from_dataset(dataset, copy=False)
    geometry = segmentation.get_volume_geometry()
    if geometry is None:
        raise _OtherGridError("its frames are no regular volume; write them on the CT's grid")
    if np.prod(geometry.spatial_shape, dtype=float) > np.prod(ct.GetSize(), dtype=float):
        raise _OtherGridError(f"spans {geometry.spatial_shape} voxels, more than the CT; is it of another scan?")
    for number, name in chosen.items():
        volume = segmentation.get_volume(segment_numbers=[number])
        affine, inside = volume.affine, np.argwhere(volume.array[..., 0] >= 0.5)
        steps = np.abs(
            _index_of_points(ct, affine[:3, :3].T + affine[:3, 3]) - _index_of_points(ct, affine[None, :3, 3])
        )
        used = steps[[extent > 1 for extent in volume.spatial_shape]]  # one slice has no distance to the next
        if (np.abs(used - np.rint(used)) > 0.05).any() or (np.rint(used).sum(axis=1) != 1).any():
            raise _OtherGridError(f"{name} lies on another grid than the CT; resample it to the CT's slices and pixels")
        yield name, _on_grid(ct, inside @ affine[:3, :3].T + affine[:3, 3], name)


def _structures(dataset: Dataset, chosen: dict[int, str], ct: sitk.Image) -> Iterator[tuple[str, np.ndarray]]:
    """Name and voxels, (N, 3) z y x, of each structure."""
    shape = ct.GetSize()[::-1]
    contours = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or ()}
    for number, name in chosen.items():
        planes: dict[int, np.ndarray] = {}
        for contour in contours[number].get("ContourSequence", ()) if number in contours else ():
            if contour.ContourGeometricType != "CLOSED_PLANAR":
                continue  # a point, or a line
            place = _index_of_points(ct, np.array(contour.ContourData, float).reshape(-1, 3))
            index = round(float(place[:, 0].mean()))
            if np.abs(place[:, 0] - index).max() > OFF_GRID:
                raise _OtherGridError(
                    f"{name} has a contour that lies between slices of the CT, expected one in a slice"
                )
            if not 0 <= index < shape[0]:
                raise _OtherGridError(f"{name} has a contour beyond the slices of the CT")
            if place.min() < -1 or (place.max(axis=0) > shape).any():
                raise _OtherGridError(f"{name} has a contour that leaves the CT")
            plane = planes.setdefault(index, np.zeros(shape[1:], bool))
            rows, columns = polygon(place[:, 1], place[:, 2], plane.shape)
            plane[rows, columns] ^= True
        found = [np.insert(np.argwhere(plane), 0, index, axis=1) for index, plane in sorted(planes.items())]
        yield name, np.concatenate([np.empty((0, 3), int), *found])


def _index_of_points(ct: sitk.Image, points_xyz_mm: np.ndarray) -> np.ndarray:
    """Fractional voxel indices (z, y, x) of physical points, (N, 3) each."""
    direction = np.reshape(ct.GetDirection(), (3, 3))
    index = (points_xyz_mm - np.array(ct.GetOrigin())) @ np.linalg.inv(direction).T / np.array(ct.GetSpacing())
    return index[:, ::-1]


def _on_grid(ct: sitk.Image, points_xyz_mm: np.ndarray, name: str) -> np.ndarray:
    """The voxels at these points, (N, 3) z y x."""
    place = _index_of_points(ct, points_xyz_mm)
    voxels = np.rint(place).astype(int)
    if len(place) and np.abs(place - voxels).max() > OFF_GRID:
        raise _OtherGridError(f"{name} lies between the voxels of the CT; resample it to the CT's grid")
    if (voxels < 0).any() or (voxels >= ct.GetSize()[::-1]).any():
        raise _OtherGridError(f"{name} leaves the CT; is it of another scan?")
    return voxels
