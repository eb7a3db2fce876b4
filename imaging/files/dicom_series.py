"""A CT that was changed, written as a derived series of the DICOM series that it was read from."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from foundation.atomic import write_atomically
from foundation.text_files import reason_of
from imaging.files.dicom_check import BoundedFile, check_dicom
from imaging.files.dicom_identity import EMPTY, copied_header, made_uid

SYNTHESIZING = ("109100", "Synthesizing Equipment")  # DICOM PS3.16, context group 7005
SOURCE_IMAGE = ("121322", "Source image for image processing operation")  # context group 7202
MANUFACTURER = "lesion-diffusion"


class Derivation(NamedTuple):
    """How a derived series says what it is.

    Attributes:
        series: Its description, at most 64 characters.
        comment: For everyone who looks at an image.
        model: What made it, as the model name of the contributing equipment.
    """

    series: str = "Synthetic lesion"
    comment: str = "Synthetic: contains a lesion that is not the patient's; not for diagnosis"
    model: str = "LesionInpaintPipeline"


LESION = Derivation()
TRANSLATION = Derivation(
    "Translated CT",
    "Synthetic: translated by a network to another kernel, dose or scanner; not for diagnosis",
    "Translator",
)
SERIES_NUMBER_STEP = 1000  # from the source's series to the derived one
SAME_PLACE_MM = 0.01
_OF_OTHERS = ("Manufacturer", "PatientPosition", "PositionReferenceIndicator", "AcquisitionNumber", "KVP")
REQUIRED = ("PatientName", "PatientID", *EMPTY, *_OF_OTHERS)


def read_headers(files: Sequence[str | Path], ct: sitk.Image) -> list[Dataset]:
    """The headers of a series, in the order of the slices of the image that was read from it.

    Args:
        files: One file per slice, in any order.
        ct: What `imaging.files.ct.read_dicom_slices` made of them.
    Returns: One dataset per slice, without pixels.
    Raises: ValueError: If the files are not the slices of `ct`.
    """
    headers = [_read_header(file) for file in files]
    orientation = np.array(headers[0].ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    headers.sort(key=lambda header: float(np.dot(np.array(header.ImagePositionPatient, float), normal)))
    size = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    if size != ct.GetSize():
        raise ValueError(f"{files[0]} and {len(files) - 1} more are {size} voxels (x, y, z), the CT {ct.GetSize()}")
    slice_mm = ct.GetSpacing()[2]
    for index in (0, len(headers) - 1):
        place = np.array(headers[index].ImagePositionPatient, float)
        apart_mm = float(np.linalg.norm(place - ct.TransformIndexToPhysicalPoint((0, 0, index))))
        if apart_mm > max(SAME_PLACE_MM, 0.1 * slice_mm):
            name = getattr(headers[index], "filename", index)
            raise ValueError(
                f"{name}: its slice lies {apart_mm:.2f} mm from the CT's; expected the series that the CT was read from"
            )
    return headers


def _read_header(file: str | Path) -> Dataset:
    """A header without pixels; its place and size are there and are numbers."""
    check_dicom(Path(file))
    try:
        with BoundedFile(Path(file)) as opened:
            header: Dataset = pydicom.dcmread(opened, stop_before_pixels=True)
        for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6)):
            if np.array(header[keyword].value, float).shape != (count,):
                raise ValueError(f"{keyword} {header[keyword].value}, expected {count} numbers")
        int(header.Rows), int(header.Columns)
        return header
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ValueError(f"{file}: its DICOM header cannot be read ({reason_of(error)})") from error


def on_stored_steps(ct: sitk.Image, headers: Sequence[Dataset]) -> sitk.Image:
    """The nearest CT that the series can hold: HU at its steps (rescale slope) and within its range (bits stored).

    What was read from the series is on its steps already, and stays as it is, to the bit.

    Args:
        ct: Scan in HU, on the grid of the series.
        headers: From :func:`read_headers`.
    Returns: The same image where all fits, else a new one of the same geometry; float32 where steps are no whole HU.
    """
    voxels = sitk.GetArrayViewFromImage(ct)
    if _fits(voxels, headers):
        return ct
    if not all(number.is_integer() for header in headers for number in _rescale(header)):
        voxels = voxels.astype(np.float32)
    nearest = np.empty_like(voxels)
    for place, ct_hu, header in zip(nearest, voxels, headers, strict=True):
        place[:] = _hu(_stored(ct_hu, header), header, voxels.dtype)
    image = sitk.GetImageFromArray(nearest)
    image.CopyInformation(ct)
    return image


def write_dicom_series(
    ct: sitk.Image,
    headers: Sequence[Dataset],
    folder: Path,
    description: str,
    keep_patient: bool = False,
    model_sha256: str | None = None,
    derivation: Derivation = LESION,
) -> list[Dataset]:
    """Write one uncompressed file per slice, `slice_0001.dcm` and so on, as a derived series that says it is synthetic.

    Geometry, frame of reference, rescale and pixel representation are the source's, so every voxel that was not changed
    has the value it had in the source's file. UIDs depend on the source, the voxels and the arguments alone: the same
    call writes the same bytes. The folder appears complete or not at all.

    Args:
        ct: The changed scan, HU, on the grid of the series and on its steps (:func:`on_stored_steps`).
        headers: Of the source, from :func:`read_headers`.
        folder: Where to write; replaced if it exists.
        description: What was done, for DerivationDescription; at most 1024 characters. It must not name the patient.
        keep_patient: Copy the patient, the study and all else that stays true; the new series is then one more in the
            source's study and refers to its slices. Otherwise see `imaging.files.dicom_identity`.
        model_sha256: Hash of the weights, written as the serial number of the contributing equipment.
        derivation: What the series says it is.
    Returns: The new headers, in the order of the slices, without pixels.
    Raises: ValueError: If the number of slices differs, or a value is not one that the series can hold.
    """
    voxels = sitk.GetArrayViewFromImage(ct)
    if len(headers) != len(voxels):
        raise ValueError(f"{len(headers)} headers for {len(voxels)} slices, expected one for each")
    digest = hashlib.sha256(voxels.data).hexdigest()
    source_uid = str(headers[0].SeriesInstanceUID)
    series_uid = made_uid("series", source_uid, digest, description, str(keep_patient), str(model_sha256))
    numbers = [header.get("InstanceNumber") for header in headers]
    numbered = None not in numbers and len(set(numbers)) == len(numbers)
    derived = []
    for index, source in enumerate(headers):
        header = copied_header(source, keep_patient)
        _say_derived(header, source, description, keep_patient, model_sha256, derivation)
        header.SeriesInstanceUID = series_uid
        header.SOPInstanceUID = made_uid("slice", series_uid, str(index))
        header.InstanceNumber = numbers[index] if numbered else index + 1
        derived.append(header)

    def write(temporary: Path) -> None:
        temporary.mkdir()
        for index, (header, ct_hu) in enumerate(zip(derived, voxels, strict=True)):
            _write_slice(header, ct_hu, temporary / f"slice_{index + 1:04d}.dcm")

    write_atomically(folder, write)
    return derived


def _equipment_item(description: str, model: str, model_sha256: str | None) -> Dataset:
    """An item of ContributingEquipmentSequence: this project, as the equipment that synthesized."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [_code_item(*SYNTHESIZING)]
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, model
    item.SoftwareVersions = version("lesion-diffusion")
    if model_sha256:
        item.DeviceSerialNumber = model_sha256
    item.ContributionDescription = description
    return item


def _code_item(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _say_derived(
    header: Dataset,
    source: Dataset,
    description: str,
    keep_patient: bool,
    model_sha256: str | None,
    derivation: Derivation,
) -> None:
    """All that tells the derived image from its source, but for its UIDs and pixels."""
    header.ImageType = ["DERIVED", *list(header.get("ImageType", ["", "PRIMARY", "AXIAL"]))[1:]]
    header.DerivationDescription = description
    theirs = f"; {source.get('SeriesDescription', '')}" if keep_patient and "SeriesDescription" in source else ""
    header.SeriesDescription = (derivation.series + theirs)[:64]
    header.SeriesNumber = int(source.get("SeriesNumber") or 0) + SERIES_NUMBER_STEP
    header.ImageComments = derivation.comment
    earlier = list(header.get("ContributingEquipmentSequence", []))
    header.ContributingEquipmentSequence = [*earlier, _equipment_item(description, derivation.model, model_sha256)]
    if keep_patient:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        item.SpatialLocationsPreserved = "YES"
        item.PurposeOfReferenceCodeSequence = [_code_item(*SOURCE_IMAGE)]
        header.SourceImageSequence = [item]
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = made_uid("frame", str(source.SeriesInstanceUID))
    if not header.get("BodyPartExamined"):
        header.BodyPartExamined = "CHEST"
    for keyword in REQUIRED:  # type 2: there, if only empty
        if keyword not in header:
            setattr(header, keyword, None)
    header.BitsAllocated, header.HighBit = _dtype(source).itemsize * 8, int(source.BitsStored) - 1
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            _set_stored(header, keyword)


def _set_stored(header: Dataset, keyword: str) -> None:
    """Give a stored value the type of the pixels; many files have 63536 where the pixels have -2000."""
    signed = int(header.PixelRepresentation) == 1
    value, span = int(header[keyword].value), 2 ** int(header.BitsAllocated)
    value = (value + span // 2) % span - span // 2 if signed else value % span
    header.add_new(header[keyword].tag, "SS" if signed else "US", value)


def _write_slice(header: Dataset, ct_hu: np.ndarray, path: Path) -> None:
    stored = _stored(ct_hu, header)
    if not np.array_equal(_hu(stored, header, ct_hu.dtype), ct_hu):
        raise ValueError(f"{path.name}: HU that its stored values cannot hold; pass the CT through on_stored_steps")
    image = Dataset()
    image.update(header)
    if stored.dtype.itemsize == 1:
        image.add_new("PixelData", "OB", stored.tobytes() + b"\0" * (stored.size % 2))
    else:
        image.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)


def _dtype(header: Dataset) -> np.dtype:
    signed = int(header.PixelRepresentation) == 1
    return np.dtype(f"{'i' if signed else 'u'}{max(1, -(-int(header.BitsAllocated) // 8))}")


def _range(header: Dataset) -> tuple[int, int]:
    bits, signed = int(header.BitsStored), int(header.PixelRepresentation) == 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _rescale(header: Dataset) -> tuple[float, float]:
    return float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)


def _stored(ct_hu: np.ndarray, header: Dataset) -> np.ndarray:
    """The stored values that come nearest to HU."""
    slope, intercept = _rescale(header)
    return np.clip(np.rint((ct_hu.astype(np.float64) - intercept) / slope), *_range(header)).astype(_dtype(header))


def _hu(stored: np.ndarray, header: Dataset, dtype: np.dtype) -> np.ndarray:
    slope, intercept = _rescale(header)
    return (stored * slope + intercept).astype(dtype)


def _fits(voxels: np.ndarray, headers: Sequence[Dataset]) -> bool:
    """Whether whole HU are stored one to one and all are in range: the usual case, seen at a glance."""
    if not np.issubdtype(voxels.dtype, np.integer):
        return False
    low, high = int(voxels.min()), int(voxels.max())
    for header in headers:
        (slope, intercept), (first, last) = _rescale(header), _range(header)
        if slope != 1 or not intercept.is_integer() or low < first + intercept or high > last + intercept:
            return False
    return True
