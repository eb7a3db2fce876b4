"""LIDC-IDRI annotation files: one XML per CT series, one reading session per radiologist.

The format is described by the collection's own documentation (The Cancer Imaging Archive, "LIDC XML file
documentation") and by Armato et al. 2011, Medical Physics 38(2):915. Three kinds of marks exist: nodules of 3 mm and
more (contours on every slice and nine ratings), nodules below 3 mm (one point, no ratings), and non-nodules.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Name in the dataset -> (element of the XML, highest value; the lowest is 1).
RATING_ELEMENTS = {
    "subtlety": ("subtlety", 5),
    "internal_structure": ("internalStructure", 4),
    "calcification": ("calcification", 6),
    "sphericity": ("sphericity", 5),
    "margin": ("margin", 5),
    "lobulation": ("lobulation", 5),
    "spiculation": ("spiculation", 5),
    "texture": ("texture", 5),
    "malignancy": ("malignancy", 5),
}


@dataclass(frozen=True)
class Contour:
    """One closed outline on one slice.

    Attributes:
        sop_uid: SOP instance UID of the slice; empty if the file does not name it.
        z_mm: z position of the slice, mm in DICOM patient coordinates.
        inclusion: True for the outline of the nodule, False for that of a hole in it.
        points_xy: Pixel indices (column, row) along the outline, (N, 2) int. The outline's own pixels lie just
            outside the nodule.
    """

    sop_uid: str
    z_mm: float
    inclusion: bool
    points_xy: np.ndarray


@dataclass(frozen=True)
class Mark:
    """One reader's nodule of 3 mm or more.

    Attributes:
        reader: Number of the reading session in the file, from 0. Readers are anonymous and their order differs
            between scans.
        nodule_id: The reader's own name for it; readers do not share names.
        ratings: Name -> value for the nine ratings; None where absent or outside its scale.
        contours: All outlines, in file order.
    """

    reader: int
    nodule_id: str
    ratings: dict[str, int | None]
    contours: tuple[Contour, ...]


@dataclass(frozen=True)
class Reading:
    """All that one XML file says about one CT series.

    Attributes:
        series_uid: Series instance UID of the CT.
        readers: Number of reading sessions.
        marks: Nodules of 3 mm or more.
        small_nodules: Number of marks below 3 mm (one point); counted, not used.
        non_nodules: Number of lesions marked as no nodule; counted, not used.
        unusable: (nodule id, reason) for marks that can be neither of these.
    """

    series_uid: str
    readers: int
    marks: tuple[Mark, ...]
    small_nodules: int
    non_nodules: int
    unusable: tuple[tuple[str, str], ...]


def read_annotation(path: Path) -> Reading:
    """Read one LIDC XML file, whatever its namespace.

    Args:
        path: XML file with a `LidcReadMessage` root.
    Returns: The readings; coordinates and names exactly as in the file.
    Raises: ValueError: If the file is no well-formed XML, has another root (chest radiographs have
        `IdriReadMessage`), or names no series.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the others are of encodings
        raise ValueError(f"{path}: broken XML ({str(error)[:200]}); download the file again") from None
    if _local(root) != "LidcReadMessage":
        raise ValueError(f"{path}: root element `{_local(root)}`, expected `LidcReadMessage` (a CT annotation of LIDC)")
    series_uid = next((_text(e) for e in root.iter() if _local(e).lower() == "seriesinstanceuid" and _text(e)), "")
    if not series_uid:
        raise ValueError(f"{path}: no SeriesInstanceUid, expected one in the ResponseHeader; it cannot be paired")

    marks: list[Mark] = []
    unusable: list[tuple[str, str]] = []
    small_nodules = non_nodules = 0
    sessions = _children(root, "readingSession")
    for reader, session in enumerate(sessions):
        non_nodules += len(_children(session, "nonNodule"))
        for element in _children(session, "unblindedReadNodule"):
            nodule_id = f"reader {reader} {_text(_child(element, 'noduleID')) or '(no name)'}"
            ratings = _ratings(element)
            try:
                contours = tuple(_contour(roi) for roi in _children(element, "roi"))
            except ValueError as error:
                unusable.append((nodule_id, str(error)))
                continue
            has_ratings = any(value is not None for value in ratings.values())
            has_outline = any(len(contour.points_xy) > 1 for contour in contours)
            if has_ratings and has_outline:
                marks.append(Mark(reader, nodule_id, ratings, contours))
            elif not has_ratings and not has_outline and contours:
                small_nodules += 1
            elif has_outline:
                unusable.append((nodule_id, "outlined but without ratings, expected both for a nodule of 3 mm or more"))
            elif has_ratings:
                unusable.append((nodule_id, "rated but without an outline, expected both for a nodule of 3 mm or more"))
            else:
                unusable.append((nodule_id, "neither outline nor ratings"))
    return Reading(series_uid, len(sessions), tuple(marks), small_nodules, non_nodules, tuple(unusable))


def _ratings(element: ElementTree.Element) -> dict[str, int | None]:
    characteristics = _child(element, "characteristics")
    ratings: dict[str, int | None] = {}
    for name, (tag, highest) in RATING_ELEMENTS.items():
        text = _text(_child(characteristics, tag))
        ratings[name] = int(text) if len(text) == 1 and text.isdecimal() and 1 <= int(text) <= highest else None
    return ratings


def _contour(roi: ElementTree.Element) -> Contour:
    z_text, sop_uid = _text(_child(roi, "imageZposition")), _text(_child(roi, "imageSOP_UID"))
    inclusion = _text(_child(roi, "inclusion")).upper() or "TRUE"
    try:
        z_mm = float(z_text) if z_text else math.nan
        points = [
            (int(_text(_child(edge, "xCoord"))), int(_text(_child(edge, "yCoord"))))
            for edge in _children(roi, "edgeMap")
        ]
        points_xy = np.array(points, dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"unreadable coordinate ({str(error)[:200]}), expected integers") from None
    if not points:
        raise ValueError("a roi without edgeMap points, expected at least one")
    if not sop_uid and not math.isfinite(z_mm):
        raise ValueError("a roi with neither imageSOP_UID nor imageZposition; its slice is unknown")
    if inclusion not in ("TRUE", "FALSE"):
        raise ValueError(f"inclusion `{inclusion}`, expected TRUE or FALSE")
    return Contour(sop_uid, z_mm, inclusion == "TRUE", points_xy)


def _local(element: ElementTree.Element) -> str:
    """Tag without its namespace, which differs between releases of the collection."""
    return element.tag.rpartition("}")[2]


def _children(element: ElementTree.Element | None, tag: str) -> list[ElementTree.Element]:
    return [] if element is None else [child for child in element if _local(child) == tag]


def _child(element: ElementTree.Element | None, tag: str) -> ElementTree.Element | None:
    return next(iter(_children(element, tag)), None)


def _text(element: ElementTree.Element | None) -> str:
    return (element.text or "").strip() if element is not None else ""
