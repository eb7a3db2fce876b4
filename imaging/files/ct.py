"""CT files in and out: a DICOM series folder, NIfTI or MetaImage <-> a `SimpleITK.Image` in Hounsfield units."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from isal import igzip_threaded

from foundation.atomic import write_atomically
from imaging.files.declared_size import check_declared_size
from imaging.files.dicom_check import check_dicom
from imaging.files.hounsfield import check_hu
from imaging.files.metaimage_check import check_metaimage
from imaging.files.nifti_check import check_nifti
from imaging.files.walk import walk
from imaging.geometry import check_same_grid
from imaging.lesions.mask import binary_mask, numbered_nodules

READ_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
WRITE_SUFFIXES = (".nii.gz", ".nii", ".mha")
GAP_TOLERANCE = 0.1  # of the median slice distance; scanners round positions, a missing slice is off by 1
DUPLICATE_MM = 1e-3  # slices closer than this are the same position


def read_ct(path: str | Path, series_uid: str | None = None, crop: bool = False) -> sitk.Image:
    """Read a CT in Hounsfield units, with its geometry.

    The file's values are kept as they are, rescale slope and intercept applied by GDCM; in particular a scanner's
    padding (-2000 HU and the like) stays. The type is int16 where that loses nothing, float32 otherwise.

    Args:
        path: A `.nii.gz`, `.nii`, `.mha` or `.mhd` file, or a folder with a DICOM series, searched with the folders
            below it. Localizers and series of other modalities that lie beside the only CT are passed over.
        series_uid: SeriesInstanceUID; needed where there are several CT series.
        crop: Whether it is a part of a scan, for example around a nodule; see `imaging.files.hounsfield.check_hu`.
    Returns: 3D scalar image, int16 or float32, HU.
    Raises: ValueError: Naming the path, for whatever cannot be read as one regular CT volume: a missing path, no
        DICOM, several series, another modality, colour, 2D or 4D, missing, doubled or unequally spaced slices, a
        tilted gantry, an unreadable file, voxels that are not finite, values that are no Hounsfield units.
    Examples:
        >>> import tempfile
        >>> phantom = np.full((20, 40, 40), -1000, np.int16)  # air, z, y, x
        >>> phantom[5:15, 10:30, 10:30] = 40  # and a cube of soft tissue
        >>> image = sitk.GetImageFromArray(phantom)
        >>> image.SetSpacing((0.8, 0.8, 2.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sitk.WriteImage(image, f"{folder}/scan.nii.gz")
        ...     ct = read_ct(f"{folder}/scan.nii.gz")
        >>> ct.GetSize(), ct.GetPixelIDTypeAsString()  # size is x, y, z
        ((40, 40, 20), '16-bit signed integer')
        >>> ct[20, 20, 10], ct[0, 0, 0]
        (40, -1000)
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_dir():
        image = _read_slices(_choose_series(path, _find_series(path), series_uid))
    elif path.name.lower().endswith(READ_SUFFIXES):
        image = _read_file(path)
    else:
        raise ValueError(
            f"{path}: expected {', '.join(READ_SUFFIXES)}, or for DICOM the folder that holds the whole series"
        )
    _check_volume(path, image)
    check_hu(sitk.GetArrayViewFromImage(image), str(path), crop)
    return _as_hu_type(path, image)


def find_dicom_slices(folder: str | Path, series_uid: str | None = None) -> list[Path]:
    """The files of the CT series in a folder, as `read_ct` chooses it, for `read_dicom_slices`.

    Args:
        folder: With a DICOM series, searched with the folders below it.
        series_uid: SeriesInstanceUID; needed where there are several CT series.
    Returns: One file per slice, in no particular order.
    Raises: ValueError: If there is no such series, or another modality, or several and none named.
    """
    folder = Path(folder)
    return [Path(file) for file in _choose_series(folder, _find_series(folder), series_uid).files]


def read_dicom_slices(files: Sequence[str | Path]) -> sitk.Image:
    """Read one CT series given by its files, wherever they lie and in any order; else as `read_ct`.

    Args:
        files: All slices of one series, one file each.
    Returns: 3D scalar image, int16 or float32, HU; slices sorted by position.
    Raises: ValueError: As `read_ct`.
    """
    for file in files:
        check_dicom(Path(file))
    header = _header(str(files[0]))
    localizer = "LOCALIZER" in _tag(header, "0008|0008").upper()
    modality = _tag(header, "0008|0060") or "no modality"
    series = _Series(
        _tag(header, "0020|000e"), [str(file) for file in files], modality, _tag(header, "0008|103e"), localizer
    )
    if modality != "CT" or localizer:
        raise ValueError(f"{files[0]}: {'localizer' if localizer else f'modality {modality}'}, expected CT slices")
    image = _read_slices(series)
    _check_volume(Path(files[0]).parent, image)
    check_hu(sitk.GetArrayViewFromImage(image), str(Path(files[0]).parent))
    return _as_hu_type(Path(files[0]).parent, image)


def read_mask(path: str | Path, ct_image: sitk.Image | None = None) -> sitk.Image:
    """Read a lesion mask, by the rule of `imaging.lesions.mask.binary_mask`: 0 and one positive value.

    Args:
        path: A `.nii.gz`, `.nii`, `.mha` or `.mhd` file.
        ct_image: The CT that the mask belongs to; its geometry is checked and then taken over.
    Returns: 3D image, uint8, 0 and 1.
    Raises: ValueError: Naming the path, if it cannot be read as a 3D scalar image, is no mask or empty, or lies on
        another grid than the CT.
    """
    path = Path(path)
    if not path.is_file() or not path.name.lower().endswith(READ_SUFFIXES):
        raise ValueError(f"{path}: no such mask file, expected a file ending in {', '.join(READ_SUFFIXES)}")
    image = _read_file(path)
    _check_volume(path, image)
    mask_image = sitk.GetImageFromArray(binary_mask(sitk.GetArrayViewFromImage(image), str(path)))
    mask_image.CopyInformation(image)
    if not sitk.GetArrayViewFromImage(mask_image).any():
        raise ValueError(f"{path}: the mask is empty, expected at least one voxel above 0")
    if ct_image is not None:
        check_same_grid(mask_image, ct_image, str(path))
        mask_image.CopyInformation(ct_image)
    return mask_image


class _Labels(Sequence[sitk.Image]):
    """The masks of a label image, each made when it is asked for: all at once may take more memory than the scan."""

    def __init__(self, array: np.ndarray, count: int, ct_image: sitk.Image) -> None:
        self._array, self._count, self._ct_image = array, count, ct_image

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        label = range(1, self._count + 1)[index]
        mask = sitk.GetImageFromArray((self._array == label).astype(np.uint8))
        mask.CopyInformation(self._ct_image)
        return mask


def read_labels(path: str | Path, ct_image: sitk.Image) -> Sequence[sitk.Image]:
    """Read a label image as one mask for each label 1, 2, ...; a mask of one positive value is one lesion.

    Args:
        path: As `read_mask`.
        ct_image: The CT that it belongs to.
    Returns: uint8 images of 0 and 1, on the grid of the CT.
    Raises: ValueError: As `read_mask`, or if labels are no whole numbers from 1 on without a gap.
    """
    path = Path(path)
    if not path.is_file() or not path.name.lower().endswith(READ_SUFFIXES):
        return [read_mask(path, ct_image)]
    image = _read_file(path)
    _check_volume(path, image)
    array = sitk.GetArrayFromImage(image)
    values = np.unique(array)
    labels = values[values != 0]
    if len(labels) < 2:
        return [read_mask(path, ct_image)]
    if not np.array_equal(labels, np.arange(1, len(labels) + 1)):
        shown = ", ".join(f"{label:g}" for label in labels[:5]) + (", ..." if len(labels) > 5 else "")
        raise ValueError(f"{path}: labels {shown}, expected one lesion for each of 1, 2, ... without a gap")
    check_same_grid(image, ct_image, str(path))
    return _Labels(array, len(labels), ct_image)


def read_instances(path: str | Path, ct_image: sitk.Image) -> np.ndarray:
    """Read a label image, which may be empty, as numbered nodules (`imaging.lesions.mask.numbered_nodules`).

    Args:
        path: As `read_mask`.
        ct_image: The CT that it belongs to.
    Returns: uint16 (D, H, W) of the CT, 0 and n in the n-th nodule.
    Raises: ValueError: Naming the path, if it cannot be read, lies on another grid, or labels are no whole numbers
        above 0.
    """
    array = read_label_values(path, ct_image)
    try:
        return numbered_nodules(array)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_label_values(path: str | Path, ct_image: sitk.Image) -> np.ndarray:
    """Read a label image as it is.

    Args:
        path: As `read_mask`.
        ct_image: The CT that it belongs to.
    Returns: (D, H, W) of the CT.
    Raises: ValueError: Naming the path, if it cannot be read or lies on another grid.
    """
    path = Path(path)
    if not path.is_file() or not path.name.lower().endswith(READ_SUFFIXES):
        raise ValueError(f"{path}: no such label image, expected a file ending in {', '.join(READ_SUFFIXES)}")
    image = _read_file(path)
    _check_volume(path, image)
    check_same_grid(image, ct_image, str(path))
    return sitk.GetArrayFromImage(image)


def read_agreement(path: str | Path, ct_image: sitk.Image) -> sitk.Image:
    """Share of the readers who outlined each voxel, from an image whose bit k is set where reader k outlined.

    Readers without any voxel do not count.

    Args:
        path: As `read_mask`.
        ct_image: The CT that it belongs to.
    Returns: float32 image from 0 to 1, on the grid of the CT; all 0 where no reader outlined anything.
    Raises: ValueError: Naming the path, if it cannot be read, lies on another grid, or has values that are no bits.
    """
    image = _read_file(Path(path))
    _check_volume(Path(path), image)
    check_same_grid(image, ct_image, str(path))
    values = sitk.GetArrayViewFromImage(image)
    bits = values.astype(np.int64)
    if not (bits == values).all() or bits.min() < 0:
        raise ValueError(
            f"{path}: values from {values.min()} to {values.max()}, expected whole numbers, a bit a reader"
        )
    outlines = [bits >> reader & 1 for reader in range(int(bits.max()).bit_length())]
    share = np.mean([outline for outline in outlines if outline.any()] or [bits], axis=0)
    share_image = sitk.GetImageFromArray(share.astype(np.float32))
    share_image.CopyInformation(ct_image)
    return share_image


def write_ct(image: sitk.Image, path: str | Path) -> None:
    """Write an image as NIfTI or MetaImage, keeping pixel type and geometry (NIfTI stores it in float32).

    Parent folders are created. The file appears complete or not at all.

    Args:
        image: 3D image.
        path: File ending in `.nii.gz`, `.nii` or `.mha`.
    Raises: ValueError: For another ending.
    """
    path = Path(path)
    suffix = next((suffix for suffix in WRITE_SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"{path}: cannot write this type, expected {', '.join(WRITE_SUFFIXES)}")

    def write(temporary: Path) -> None:
        if suffix != ".nii.gz":
            sitk.WriteImage(image, str(temporary), useCompression=suffix == ".mha")
            return
        plain = temporary.with_name(temporary.name[: -len(".gz")])
        try:
            sitk.WriteImage(image, str(plain))
            _compress(plain, temporary)
        finally:
            plain.unlink(missing_ok=True)

    write_atomically(path, write)


def _compress(source: Path, target: Path) -> None:
    """Compress a file as gzip does, on all cores. CT is mostly noise: a level above 1 makes it little smaller."""
    threads = os.cpu_count() or 1
    with source.open("rb") as plain, igzip_threaded.open(target, "wb", compresslevel=1, threads=threads) as compressed:
        shutil.copyfileobj(plain, compressed, 2**20)


@dataclass(frozen=True)
class _Series:
    """A DICOM series: its files, and what the header of the first says."""

    uid: str
    files: list[str]
    modality: str
    description: str
    is_localizer: bool

    def __str__(self) -> str:
        return f"{self.uid} ({self.modality}, {self.description or 'no description'}, {len(self.files)} slices)"


def _read_file(path: Path) -> sitk.Image:
    (check_nifti if path.name.lower().endswith(NIFTI_SUFFIXES) else check_metaimage)(path)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: cannot be read as an image ({_last_line(error)}); is it complete?") from error


def _header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"{file}: cannot be read as DICOM ({_last_line(error)}); is it complete?") from error
    return reader


def _tag(reader: sitk.ImageFileReader, tag: str) -> str:
    return reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""


def _find_series(folder: Path) -> list[_Series]:
    """All image series in a folder and the folders below it, a series' files joined across folders."""
    files: dict[str, list[str]] = {}
    for path, names in walk(folder):
        parent = str(path)
        left = {str(path / name) for name in names}
        for file in sorted(left):
            check_dicom(Path(file))
        try:
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(parent) if names else ():
                files.setdefault(uid, []).extend(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(parent, uid))
                left -= set(files[uid])
        except RuntimeError as error:
            raise ValueError(
                f"{parent}: DICOM files that cannot be read ({_last_line(error)}); are they complete?"
            ) from error
        broken = sorted(file for file in left if _claims_to_be_ct(file))  # GDCM passes over them in silence
        if broken:
            raise ValueError(f"{broken[0]}: CT slice that cannot be read ({len(broken)} such files); is it complete?")
    series = []
    for uid, names_of_series in sorted(files.items()):
        header = _header(names_of_series[0])
        localizer = "LOCALIZER" in _tag(header, "0008|0008").upper()
        modality = _tag(header, "0008|0060") or "no modality"
        series.append(_Series(uid, names_of_series, modality, _tag(header, "0008|103e"), localizer))
    return series


def _claims_to_be_ct(file: str) -> bool:
    """Whether a file begins as a DICOM file of the class CT Image Storage."""
    with open(file, "rb") as stream:
        start = stream.read(1024)
    return start[128:132] == b"DICM" and b"1.2.840.10008.5.1.4.1.1.2\0" in start


def _choose_series(folder: Path, found: list[_Series], uid: str | None) -> _Series:
    if not found:
        raise ValueError(f"{folder}: no DICOM image series here or in the folders below")
    listing = "; ".join(map(str, found))
    if uid is not None:
        chosen = [series for series in found if series.uid == uid]
        if not chosen:
            raise ValueError(f"{folder}: no series {uid}; found: {listing}")
    else:
        chosen = [series for series in found if series.modality == "CT"]
        chosen = [series for series in chosen if not series.is_localizer] or chosen or found
        if len(chosen) > 1:
            listing = "; ".join(map(str, chosen))
            raise ValueError(f"{folder}: {len(chosen)} series, name one as series_uid: {listing}")
    if chosen[0].modality != "CT":
        raise ValueError(f"{folder}: modality {chosen[0].modality}, expected CT; found: {listing}")
    return chosen[0]


def _read_slices(series: _Series) -> sitk.Image:
    """Sort a series by position, refuse what is not one regular grid, and read it."""
    headers = [_header(file) for file in series.files]
    where = Path(series.files[0]).parent
    for header in headers:
        name = header.GetFileName()
        samples = _tag(header, "0028|0002") or "1"
        if samples != "1":
            raise ValueError(f"{name}: colour image ({samples} samples per pixel), expected grey CT slices")
        if _tag(header, "0028|1053") and not _numbers(header, "0028|1053").all():
            raise ValueError(f"{name}: rescale slope 0, expected the factor from stored values to HU; export it again")
        if header.GetDimension() > 2 and header.GetSize()[2] > 1:
            raise ValueError(f"{name}: multi-frame DICOM, expected one file per slice; convert it to NIfTI first")
        if not _tag(header, "0020|0032") or not _tag(header, "0020|0037"):
            raise ValueError(f"{name}: no position or orientation in the header; the slice cannot be placed")
        for tag, count in (("0020|0032", 3), ("0020|0037", 6)):
            if len(_numbers(header, tag)) != count or not np.isfinite(_numbers(header, tag)).all():
                raise ValueError(f"{name}: DICOM tag ({tag.replace('|', ',')}) is not {count} finite numbers")
    if len(headers) < 2:
        raise ValueError(f"{where}: series {series} is a single slice, expected a volume of at least 2 slices")

    first = headers[0]
    check_declared_size(f"{where}: series {series}", (*first.GetSize()[:2], len(headers)))
    orientation = _numbers(first, "0020|0037")
    for header in headers[1:]:
        same = np.allclose(_numbers(header, "0020|0037"), orientation, atol=1e-4)
        if not same or header.GetSize()[:2] != first.GetSize()[:2]:
            raise ValueError(
                f"{header.GetFileName()}: {header.GetSize()[:2]} pixels oriented along "
                f"{_tag(header, '0020|0037')}, but {first.GetFileName()} has {first.GetSize()[:2]} along "
                f"{_tag(first, '0020|0037')}; keep only the slices of one volume"
            )
    normal = np.cross(orientation[:3], orientation[3:])
    origins = np.array([_numbers(header, "0020|0032") for header in headers])
    along = origins @ normal
    order = np.argsort(along, kind="stable")
    _check_positions(where, series, along[order], [series.files[i] for i in order])
    sideways = (origins - origins[order[0]]) - np.outer(along - along[order[0]], normal)
    drift = np.linalg.norm(sideways, axis=1).max()
    if drift > 0.5 * min(first.GetSpacing()[:2]):
        raise ValueError(
            f"{where}: slices shift sideways by {drift:.2f} mm along the series {series}, as with a tilted gantry; "
            "expected a stack perpendicular to its slices; resample it first"
        )
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([series.files[i] for i in order])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(f"{where}: series {series} cannot be read ({_last_line(error)})") from error
    slice_mm = float(along.max() - along.min()) / (len(along) - 1)  # the mean, so that rounding does not add up
    image.SetSpacing((*image.GetSpacing()[:2], slice_mm))
    return image


def _check_positions(where: Path, series: _Series, along_mm: np.ndarray, files: Sequence[str]) -> None:
    """Refuse doubled positions and gaps; `along_mm` are sorted positions along the slices' normal."""
    gaps = np.diff(along_mm)
    doubled = np.flatnonzero(gaps < DUPLICATE_MM)
    if len(doubled):
        named = ", ".join(
            f"{along_mm[i]:.2f} mm ({Path(files[i]).name}, {Path(files[i + 1]).name})" for i in doubled[:5]
        )
        raise ValueError(
            f"{where}: series {series} has {len(doubled)} doubled slice positions: {named}; remove one of each"
        )
    usual = float(np.median(gaps))
    wrong = np.flatnonzero(np.abs(gaps - usual) > GAP_TOLERANCE * usual)
    if len(wrong):
        named = ", ".join(f"{along_mm[i]:.2f} to {along_mm[i + 1]:.2f} mm ({gaps[i]:.2f} mm)" for i in wrong[:5])
        raise ValueError(
            f"{where}: series {series} has missing or unequally spaced slices: {len(wrong)} distances differ from "
            f"{usual:.2f} mm: {named}; complete the series or resample it"
        )


def _check_volume(path: Path, image: sitk.Image) -> None:
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise ValueError(f"{path}: {image.GetPixelIDTypeAsString()} voxels (colour), expected one number per voxel")
    if image.GetDimension() != 3:
        raise ValueError(f"{path}: {image.GetDimension()}D image of size {image.GetSize()}, expected a 3D volume")
    voxels = sitk.GetArrayViewFromImage(image)
    if np.issubdtype(voxels.dtype, np.floating):
        count = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
        if count:
            raise ValueError(f"{path}: {count} voxels are NaN or infinite, expected finite values; fill them first")


def _as_hu_type(path: Path, image: sitk.Image) -> sitk.Image:
    """int16 where that is exact, float32 otherwise."""
    if image.GetPixelID() == sitk.sitkInt16:
        return image
    voxels = sitk.GetArrayViewFromImage(image)
    limits = np.iinfo(np.int16)
    exact = limits.min <= voxels.min() and voxels.max() <= limits.max and np.array_equal(voxels, np.trunc(voxels))
    return sitk.Cast(image, sitk.sitkInt16 if exact else sitk.sitkFloat32)


def _numbers(reader: sitk.ImageFileReader, tag: str) -> np.ndarray:
    try:
        return np.array([float(part) for part in _tag(reader, tag).split("\\")])
    except ValueError as error:
        raise ValueError(
            f"{reader.GetFileName()}: DICOM tag ({tag.replace('|', ',')}) is not a list of numbers"
        ) from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
