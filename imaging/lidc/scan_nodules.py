"""One LIDC scan -> the rows of its nodules, and the file that keeps them so that a later run need not do it again."""

import hashlib
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from foundation.atomic import write_atomically
from foundation.text_files import reason_of
from imaging.dataset.crop import crop_nodule
from imaging.dataset.nodules import AIR_HU
from imaging.dataset.outlined import half_maximum_image
from imaging.files.ct import read_ct, read_dicom_slices, write_ct
from imaging.geometry import index_of_point, point_of_index
from imaging.lesions.composition import solid_part
from imaging.lidc.consensus import MaskPolicy, Nodule, ReaderMask, agree, group_marks, rasterise
from imaging.lidc.scans import LeftOut, Scan
from imaging.lidc.xml import RATING_ELEMENTS, Contour, Reading, read_annotation
from imaging.semantic_map import label_lesion, lung_mask, semantic_map

MOST_UNPACKED = 2**29  # bytes of a result; a nodule of 64 voxels takes 1.6 MB, and few scans have more than 20
RESULT_VERSION = 2  # raise it when the rows change, so that results of older code are not read
ARRAYS = ("ct_hu", "lesion_mask", "solid_mask", "valid_mask", "spacing_mm", "semantic_map")
SLICE_TOLERANCE = 0.25  # of the slice distance: annotations round positions, and a neighbour is off by 1


@dataclass(frozen=True)
class ScanSettings:
    """What decides a scan's rows.

    Attributes:
        crop_size: Edge of the cubic crops, voxels.
        spacing_mm: Isotropic spacing of the crops; None keeps the scan's own.
        max_slice_mm: Scans with thicker slices, or slices further apart, are left out.
        max_hu: Higher values are lowered to it before resampling.
        mask_policy, consensus_level: See `imaging.lidc.consensus.agree`; "half_maximum" redraws the consensus' border
            (`imaging.dataset.outlined`), but not in `scan_maps`.
        min_readers: Nodules marked by fewer are left out.
        with_semantic_map: Add the semantic map of each crop, with the lung found on the whole scan.
        scan_maps: Folder for the semantic maps of whole scans; None writes none.
    """

    crop_size: int = 64
    spacing_mm: float | None = 1.0
    max_slice_mm: float = 2.5
    max_hu: int = 3071
    mask_policy: MaskPolicy = "half_maximum"
    consensus_level: float = 0.5
    min_readers: int = 1
    with_semantic_map: bool = True
    scan_maps: Path | None = None


@dataclass
class ScanResult:
    """What one scan gave: rows without their split, what was left out, and facts for the report."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def prepare_scan(scan: Scan, settings: ScanSettings) -> ScanResult:
    """Read a scan, group its readers' marks and crop its nodules.

    Never raises for bad data: whatever cannot be used is in `left_out` with its reason.
    """
    started = time.perf_counter()
    result = ScanResult(facts={"patient_id": scan.patient_id, "scan_id": scan.scan_id})
    try:
        reading = read_annotation(scan.annotation)
        result.facts |= {"manufacturer": scan.manufacturer, "readers": reading.readers, "marks": len(reading.marks)}
        result.facts |= {"small_nodules": reading.small_nodules, "non_nodules": reading.non_nodules}
        result.left_out += [_left_out("mark", scan, name, reason) for name, reason in reading.unusable]
        if not reading.marks:
            raise ValueError("no reader marked a nodule of 3 mm or more that can be used")
        image = _read_image(scan, settings)
        result.facts |= {"slices": image.GetDepth(), "spacing_mm": list(reversed(image.GetSpacing()))}
        _add_nodules(result, scan, settings, image, reading)
    except Exception as error:  # one bad scan must not stop a run over a thousand
        known = isinstance(error, ValueError)
        reason = str(error) if known else f"unexpected {type(error).__name__}: {error}"
        result.rows.clear()
        result.left_out.append(_left_out("scan", scan, str(scan.files[0].parent), reason))
    result.facts |= {"nodules": len(result.rows), "seconds": round(time.perf_counter() - started, 2)}
    return result


def slice_finder(image: sitk.Image, scan: Scan) -> Callable[[Contour], int]:
    """The function that gives a contour's z index: by the slice's UID, else by its z position.

    Its ValueError names a slice that the image does not have, or one whose first voxel is not the image's, so that
    pixel coordinates of the annotation would not be voxel indices.
    """
    origin = image.GetOrigin()
    depth = image.GetDepth()

    def slice_index(contour: Contour) -> int:
        position = scan.slice_positions.get(contour.sop_uid, (origin[0], origin[1], contour.z_mm))
        name = f"slice at z {contour.z_mm:g} mm ({contour.sop_uid or 'no UID'})"
        if not all(math.isfinite(x) for x in position):
            raise ValueError(f"{name} is not in the scan")
        z, y, x = index_of_point(image, position)
        if abs(z - round(z)) > SLICE_TOLERANCE or not 0 <= round(z) < depth:
            raise ValueError(f"{name} is not in the scan; it would be slice {z:.2f} of {depth}")
        if max(abs(x), abs(y)) > 0.5:
            raise ValueError(f"{name} is shifted by ({x:.1f}, {y:.1f}) pixels against the scan")
        return round(z)

    return slice_index


def _read_image(scan: Scan, settings: ScanSettings) -> sitk.Image:
    """The CT, its slices checked and its values clipped to [-1024, max_hu]."""
    if scan.slice_thickness_mm is not None and scan.slice_thickness_mm > settings.max_slice_mm + 1e-3:
        raise ValueError(_too_thick("slice thickness", scan.slice_thickness_mm, settings))
    if scan.is_dicom:
        image = read_dicom_slices(scan.files)
    else:
        # Without a DICOM header, pixel coordinates are taken to be those of the usual axial slice.
        image = sitk.DICOMOrient(read_ct(scan.files[0]), "LPS")
        direction = np.array(image.GetDirection())
        if not np.allclose(direction, np.eye(3).ravel(), atol=1e-3):
            raise ValueError(f"oblique axes {direction.round(3).tolist()}, expected axial slices")
    if image.GetSpacing()[2] > settings.max_slice_mm + 1e-3:
        raise ValueError(_too_thick("slice distance", image.GetSpacing()[2], settings))
    return sitk.Clamp(image, image.GetPixelID(), AIR_HU, settings.max_hu)


def _too_thick(name: str, value_mm: float, settings: ScanSettings) -> str:
    limit = settings.max_slice_mm
    return f"{name} {value_mm:g} mm, expected at most {limit:g} mm; pass --max-slice-mm {value_mm:g} to keep it"


def _add_nodules(result: ScanResult, scan: Scan, settings: ScanSettings, image: sitk.Image, reading: Reading) -> None:
    shape = image.GetSize()[::-1]
    find_slice = slice_finder(image, scan)
    masks: list[ReaderMask] = []
    for mark in reading.marks:
        try:
            mask, empty = rasterise(mark, find_slice, shape)
        except ValueError as error:
            result.left_out.append(_left_out("mark", scan, mark.nodule_id, str(error)))
            continue
        masks.append(mask)
        result.left_out += [_left_out("outline", scan, mark.nodule_id, reason) for reason in empty]
    if not masks:
        raise ValueError(f"none of its {len(reading.marks)} marks can be used")
    nodules = [agree(group, settings.mask_policy, settings.consensus_level) for group in group_marks(masks)]
    lung_image = None
    if settings.with_semantic_map or settings.scan_maps is not None:
        lung = lung_mask(sitk.GetArrayViewFromImage(image), image.GetSpacing()[::-1])
        lung_image = sitk.GetImageFromArray(lung.view(np.uint8))
        lung_image.CopyInformation(image)
    if settings.scan_maps is not None and lung_image is not None:
        _write_scan_map(settings.scan_maps, scan, image, lung_image, nodules)
    tag = hashlib.sha256(scan.scan_id.encode()).hexdigest()[:6]  # a patient may have two scans
    for number, nodule in enumerate(nodules, start=1):
        nodule_id = f"{scan.patient_id}-{tag}-{number}"
        marked_by = ", ".join(member.mark.nodule_id for member in nodule.readers)
        try:
            result.rows.append(_row(scan, settings, image, lung_image, nodule, nodule_id))
        except ValueError as error:
            result.left_out.append(_left_out("nodule", scan, f"{nodule_id} ({marked_by})", str(error)))


def _row(
    scan: Scan,
    settings: ScanSettings,
    image: sitk.Image,
    lung_image: sitk.Image | None,
    nodule: Nodule,
    nodule_id: str,
) -> dict[str, Any]:
    if len(nodule.readers) < settings.min_readers:
        raise ValueError(f"marked by {len(nodule.readers)} readers, expected at least {settings.min_readers}")
    if not nodule.mask.any():
        raise ValueError(
            f"its {len(nodule.readers)} readers share no voxel at consensus level {settings.consensus_level:g}"
        )
    mask_image = sitk.GetImageFromArray(nodule.mask.astype(np.uint8))
    mask_image.SetSpacing(image.GetSpacing())
    mask_image.SetDirection(image.GetDirection())
    mask_image.SetOrigin(point_of_index(image, nodule.start))
    fallback = None
    if settings.mask_policy == "half_maximum":
        mask_image, outline = half_maximum_image(image, mask_image, nodule.ratings["texture"])
        fallback = outline.fallback
    columns, grid, whole = crop_nodule(image, mask_image, settings.crop_size, settings.spacing_mm)
    columns["solid_mask"] = solid_part(
        columns["ct_hu"], columns["lesion_mask"], nodule.ratings["texture"], columns["spacing_mm"]
    )
    if lung_image is not None and settings.with_semantic_map:
        lung = sitk.Resample(lung_image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        columns["semantic_map"] = semantic_map(
            columns["ct_hu"], sitk.GetArrayFromImage(lung), columns["lesion_mask"], columns["solid_mask"]
        )
    reader_ratings = {name: [member.mark.ratings[name] for member in nodule.readers] for name in RATING_ELEMENTS}
    return (
        columns
        | nodule.ratings
        | {
            "nodule_id": nodule_id,
            "patient_id": scan.patient_id,
            "scan_id": scan.scan_id,
            "manufacturer": scan.manufacturer,
            "slice_mm": image.GetSpacing()[2],
            "readers": len(nodule.readers),
            "reader_ratings": json.dumps(reader_ratings),
            "whole_in_crop": whole,
            "outline_fallback": fallback,
        }
    )


def _write_scan_map(folder: Path, scan: Scan, image: sitk.Image, lung_image: sitk.Image, nodules: list[Nodule]) -> None:
    ct_hu = sitk.GetArrayViewFromImage(image)
    labels = semantic_map(ct_hu, sitk.GetArrayViewFromImage(lung_image))
    for nodule in nodules:
        box = tuple(slice(s, s + n) for s, n in zip(nodule.start, nodule.mask.shape, strict=True))
        solid = solid_part(ct_hu[box], nodule.mask, nodule.ratings["texture"], image.GetSpacing()[::-1])
        label_lesion(labels[box], nodule.mask, solid)
    labels_image = sitk.GetImageFromArray(labels)
    labels_image.CopyInformation(image)
    name = hashlib.sha256(scan.scan_id.encode()).hexdigest()[:6]
    write_ct(labels_image, folder / f"{scan.patient_id}-{name}_semantic.nii.gz")


def _left_out(kind: str, scan: Scan, item: str, reason: str) -> LeftOut:
    return LeftOut(kind, scan.patient_id, scan.scan_id, item, reason)


def result_path(folder: Path, scan: Scan, settings: ScanSettings) -> Path:
    """Where a scan's result is kept; another name as soon as a setting or one of its files changes."""
    parts = [str(RESULT_VERSION), json.dumps(asdict(settings), sort_keys=True, default=str)]
    for path in (*scan.files, scan.annotation):
        status = path.stat()
        parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return folder / f"{scan.patient_id.replace('/', '_')}-{digest}.npz"


def save_result(path: Path, result: ScanResult) -> None:
    """Write a result, complete or not at all."""
    meta = {
        "rows": [{k: v for k, v in row.items() if k not in ARRAYS} for row in result.rows],
        "left_out": [asdict(entry) for entry in result.left_out],
        "facts": result.facts,
    }
    arrays = {f"{name}_{i}": row[name] for i, row in enumerate(result.rows) for name in ARRAYS if name in row}
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, meta=np.array(json.dumps(meta)), **arrays))


def load_result(path: Path, with_arrays: bool = True) -> ScanResult:
    """Read what `save_result` wrote; without arrays it is fast, for counting.

    Raises: ValueError: If the file is damaged, or unpacks to more than a scan's nodules are.
    """
    with _opened(path) as file:
        meta = json.loads(str(file["meta"]))
        rows = [_with_arrays(file, row, i) if with_arrays else row for i, row in enumerate(meta["rows"])]
    return ScanResult(rows, [LeftOut(**entry) for entry in meta["left_out"]], meta["facts"])


def load_row(path: Path, index: int) -> dict[str, Any]:
    """One row of what `save_result` wrote, with its arrays. Raises ValueError as :func:`load_result`."""
    with _opened(path) as file:
        return _with_arrays(file, json.loads(str(file["meta"]))["rows"][index], index)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The arrays of a result by name; every fault of the file is a ValueError that names it."""
    try:
        with zipfile.ZipFile(path) as archive:
            announced = sum(member.file_size for member in archive.infolist())  # `zipfile` unpacks no more
        if announced > MOST_UNPACKED:
            raise ValueError(f"it unpacks to {announced} bytes, expected at most {MOST_UNPACKED}")
        with np.load(path, allow_pickle=False) as file:
            yield file
    except Exception as error:  # of zip, deflate, NumPy and JSON
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the disk; it names the file
        raise ValueError(f"{path}: cannot be read ({reason_of(error)}); delete it, and it is made again") from error


def _with_arrays(file: Any, row: dict[str, Any], index: int) -> dict[str, Any]:
    return row | {name: file[f"{name}_{index}"] for name in ARRAYS if f"{name}_{index}" in file}
