"""Small, valid DICOM CT series and structure sets for tests, written with pydicom: no library that reads them."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, RTStructureSetStorage, generate_uid
from skimage.measure import find_contours

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_dicom_series(
    folder: Path,
    ct_hu: np.ndarray,
    spacing_mm: Sequence[float] = (2.5, 0.7, 0.7),
    *,
    origin_xyz_mm: Sequence[float] = (-100.0, -80.0, 40.0),
    orientation: Sequence[float] = AXIAL,
    modality: str = "CT",
    description: str = "made series",
    series_uid: str | None = None,
    study_uid: str | None = None,
    left_out: Collection[int] = (),
    doubled: Collection[int] = (),
    shift_per_slice_mm: Sequence[float] = (0.0, 0.0, 0.0),
    slope: float = 1.0,
    intercept: float = -1024.0,
    image_type: str = "AXIAL",
    colour: bool = False,
    unsigned_bits: int | None = None,
    compressed: bool = False,
    **tags: Any,
) -> str:
    """Write one file per slice, named so that their order is not the slices' order.

    Args:
        folder: Where to write; created.
        ct_hu: (D, H, W), HU; stored as round((HU - intercept) / slope) in signed 16 bits.
        spacing_mm: (z, y, x).
        origin_xyz_mm: Position of the first slice's first voxel.
        orientation: Direction cosines of the rows and the columns (ImageOrientationPatient).
        modality, description, series_uid, study_uid: As in the header; UIDs are made up if None.
        left_out: Slice indices that are not written.
        doubled: Slice indices that are written twice.
        shift_per_slice_mm: Added to the position of each further slice, as a tilted gantry does.
        slope, intercept: Rescale slope and intercept.
        image_type: Third value of ImageType; "LOCALIZER" for a scout.
        colour: Write RGB instead of grey values.
        unsigned_bits: Store in so many unsigned bits of 16.
        compressed: Write as lossless JPEG-LS.
        tags: Further header entries by DICOM keyword, the same in all slices.
    Returns: SeriesInstanceUID.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series_uid, study_uid = series_uid or generate_uid(), study_uid or generate_uid()
    frame_uid = generate_uid()
    rows, columns = np.array(orientation[:3]), np.array(orientation[3:])
    step = np.cross(rows, columns) * spacing_mm[0] + np.array(shift_per_slice_mm)
    stored = np.rint((np.asarray(ct_hu, np.float64) - intercept) / slope)
    stored = stored.astype(np.uint16 if unsigned_bits else np.int16)
    written = [(index, copy) for index in range(len(stored)) for copy in range(1 + (index in doubled))]
    for index, copy in written:
        if index in left_out:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        name = folder / f"{(7 * index) % 101:03d}_{index}_{copy}_{series_uid[-6:]}.dcm"
        header = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        header.StudyInstanceUID, header.SeriesInstanceUID = study_uid, series_uid
        header.FrameOfReferenceUID = frame_uid
        header.PatientName, header.PatientID = "Made^Up", "made-up"
        header.PatientBirthDate, header.PatientSex = "", "O"
        header.StudyDate, header.StudyTime, header.StudyID = "20200102", "030405", "1"
        header.AccessionNumber, header.ReferringPhysicianName = "", ""
        header.Manufacturer = "Nobody"
        header.Modality, header.SeriesDescription = modality, description
        header.SeriesNumber, header.InstanceNumber = 3, index + 1
        header.ImageType = ["ORIGINAL", "PRIMARY", image_type]
        header.ImagePositionPatient = [f"{x:.6f}" for x in np.array(origin_xyz_mm) + index * step]
        header.ImageOrientationPatient = [f"{x:.8f}" for x in orientation]
        header.PixelSpacing = [f"{x:.6f}" for x in spacing_mm[1:]]
        header.SliceThickness = f"{spacing_mm[0]:.6f}"
        header.Rows, header.Columns = stored.shape[1:]
        header.RescaleSlope, header.RescaleIntercept, header.RescaleType = slope, intercept, "HU"
        if colour:
            header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0
            header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
            header.PixelData = np.repeat(stored[index, ..., None] % 256, 3, -1).astype(np.uint8).tobytes()
        else:
            header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
            bits = unsigned_bits or 16
            header.BitsAllocated, header.BitsStored, header.HighBit = 16, bits, bits - 1
            header.PixelRepresentation = 0 if unsigned_bits else 1
            header.PixelData = stored[index].tobytes()
        for keyword, value in tags.items():
            setattr(header, keyword, value)
        if compressed:
            header.compress(JPEGLSLossless)
        header.save_as(name, enforce_file_format=True)
    return series_uid


def write_structure_set(
    path: Path, series_uid: str, structures: dict[str, list[np.ndarray]], kind: str = "CLOSED_PLANAR"
) -> Path:
    """Write a structure set (RTSTRUCT) with contours as they are given.

    Args:
        path: File; folders are made.
        series_uid: SeriesInstanceUID of the CT.
        structures: Name -> contours, (N, 3) x y z in mm each.
        kind: ContourGeometricType.
    Returns: `path`.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID, dataset.Modality = generate_uid(), "RTSTRUCT"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, study.RTReferencedSeriesSequence = series_uid, [series]
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), 1):
        structure, drawn = Dataset(), Dataset()
        structure.ROINumber, structure.ROIName, drawn.ReferencedROINumber = number, name, number
        drawn.ContourSequence = []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{value:.6f}" for value in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(structure)
        dataset.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return path


def contours_of(mask: np.ndarray, image: sitk.Image) -> list[np.ndarray]:
    """Contours, holes among them, that enclose the centres of a mask's voxels slice by slice, for
    `write_structure_set`."""
    contours = []
    for z, plane in enumerate(mask):
        for outline in find_contours(np.pad(plane, 1).astype(float), 0.5):
            points = [image.TransformContinuousIndexToPhysicalPoint((x - 1, y - 1, z)) for y, x in outline.tolist()]
            contours.append(np.array(points))
    return contours
