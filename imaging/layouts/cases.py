"""The cases of a layout: scans of a synthetic set, and real scans whose nodules are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from imaging.dataset.existing_nodules import ExistingNodules, existing_rows, read_existing
from imaging.dataset.manifest import read_manifest
from imaging.dataset.patients import patient_of
from imaging.files.ct import read_ct
from imaging.files.nifti_check import check_nifti

REQUESTED = "requested_"  # columns of the manifest


@dataclass(frozen=True)
class Case:
    """A scan with its nodules, not read yet.

    Attributes:
        name: Of its files; unique.
        synthetic: Whether it holds synthetic lesions.
        scan: The scan that it is or was made from, below the folder of scans.
        patient: Whose scan that is.
        ct: NIfTI file of a synthetic case; file or DICOM folder of a real one.
        labels: Label image of a synthetic case; of a real one what `imaging.dataset.existing_nodules` reads.
        rows: Of the manifest, for the nodules of a synthetic case.
    """

    name: str
    synthetic: bool
    scan: str
    patient: str
    ct: Path
    labels: Path
    rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Nodule:
    """A nodule of a case.

    Attributes:
        label: Its value in the labels, from 1 without gaps.
        synthetic: Whether it was painted.
        source: "synthetic", or the file that names it, and where in it.
        box_zyx: Its first voxel, and one past its last.
        center_mm: Centroid, (x, y, z) in the DICOM patient frame (LPS).
        volume_mm3: Of its voxels.
        requested: Attribute -> value that was requested of a synthetic one.
    """

    label: int
    synthetic: bool
    source: str
    box_zyx: tuple[int, ...]
    center_mm: tuple[float, ...]
    volume_mm3: float
    requested: Mapping[str, float]


class CaseImages(NamedTuple):
    """What a case holds.

    Attributes:
        ct: HU; None for a synthetic case, whose file has the form that layouts use.
        labels: uint8 or uint16, on the grid of the CT: 0, and the label of each nodule.
        nodules: In the order of their labels.
    """

    ct: sitk.Image | None
    labels: sitk.Image
    nodules: list[Nodule]


def synthetic_cases(folder: Path, patients: Mapping[str, str]) -> list[Case]:
    """The cases of a finished set, one for each scan with a lesion.

    Args:
        folder: What scripts/synthesize.py made.
        patients: Scan -> patient, where it is known better than from the manifest.
    Raises: ValueError: If the set is not finished, holds no lesion, or crops alone.
    """
    manifest = folder / "manifest.parquet"
    if not manifest.is_file():
        raise ValueError(f"{folder}: no manifest.parquet; run scripts/synthesize.py to its end first")
    rows_of: dict[str, list[dict[str, Any]]] = {}
    accepted: set[str] = set()
    for row in read_manifest(manifest):
        if row["label"] is not None:
            rows_of.setdefault(row["output"], []).append(row)
        if row["accepted"]:
            accepted.add(row["output"])
    if not accepted:
        raise ValueError(f"{folder}: no lesion was accepted, so that there is no case; see reason in its manifest")
    cases = []
    for output in sorted(accepted):
        place = folder / "scans" / output
        scan = str(rows_of[output][0]["scan"])
        patient = patients.get(scan) or rows_of[output][0]["patient"] or scan
        cases.append(
            Case(
                f"synthetic_{output}",
                True,
                scan,
                patient,
                place / "ct.nii.gz",
                place / "lesions.nii.gz",
                tuple(rows_of[output]),
            )
        )
    missing = [path for case in cases for path in (case.ct, case.labels) if not path.is_file()]
    if missing:
        raise ValueError(
            f"{missing[0]}: no such file; a layout is made of whole scans, so make the set with --write scans or both"
        )
    return cases


def real_cases(root: Path, existing: Mapping[Path, Path], patients: Mapping[str, str]) -> list[Case]:
    """The scans whose nodules are named.

    Args:
        root: Folder of scans.
        existing: Scan -> file, from `imaging.dataset.existing_nodules.scans_with_existing`.
        patients: Scan -> patient, where it is known better than from the scan itself.
    """
    cases = []
    for number, scan in enumerate(sorted(existing)):
        name = str(scan.relative_to(root))
        patient = patients.get(name) or patient_of(scan, root)
        cases.append(Case(f"real_{number:06d}", False, name, patient, scan, existing[scan]))
    return cases


def read_case(case: Case) -> CaseImages:
    """Read the labels of a case, numbered without gaps, and of a real one its CT.

    Raises: ValueError: Naming the file, if one cannot be read, or the labels are not those of the manifest.
    """
    if case.synthetic:
        check_nifti(case.labels)
        try:
            image = sitk.ReadImage(str(case.labels))
        except RuntimeError as error:
            raise ValueError(f"{case.labels}: cannot be read as an image; is it complete?") from error
        labels, rows = sitk.GetArrayViewFromImage(image), sorted(case.rows, key=lambda row: row["label"])
        values = np.unique(labels[labels > 0]).tolist()
        if values != [row["label"] for row in rows]:
            raise ValueError(f"{case.labels}: labels {values}, expected those of the manifest; make its scan again")
        numbered = np.searchsorted([0, *values], labels)
        return _images(None, image, numbered, rows, [str(row["source"]) for row in rows])
    ct = read_ct(case.ct)
    existing = read_existing(case.labels, case.ct, ct)
    return _images(ct, ct, existing.labels, [{}] * len(existing.sources), existing.sources)


def _images(
    ct: sitk.Image | None,
    grid: sitk.Image,
    labels: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
    sources: list[str],
) -> CaseImages:
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
    found = existing_rows(ExistingNodules(labels, sources, [None] * len(sources)), grid, 1)
    nodules = [
        Nodule(
            label=place["label"],
            synthetic=place["source"] == "synthetic",
            source=place["source"],
            box_zyx=tuple(place["box_zyx"]),
            center_mm=tuple(place["center_mm"]),
            volume_mm3=place["volume_mm3"],
            requested={
                name.removeprefix(REQUESTED): value
                for name, value in row.items()
                if name.startswith(REQUESTED) and value is not None
            },
        )
        for place, row in zip(found, rows, strict=True)
    ]
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(grid)
    return CaseImages(ct, image, nodules)
