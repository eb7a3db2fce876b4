"""LIDC annotation files for tests, written as text in the collection's layout."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from skimage.measure import find_contours

RATING_TAGS = (
    "subtlety",
    "internalStructure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)
RATINGS = dict(zip(RATING_TAGS, (5, 1, 6, 4, 4, 2, 1, 5, 4), strict=True))


def roi(
    points_xy: Iterable[Sequence[int]], z_mm: float | None = None, sop_uid: str = "", inclusion: str = "TRUE"
) -> str:
    """One outline on one slice; points are (column, row)."""
    place = "" if z_mm is None else f"<imageZposition>{z_mm:f} </imageZposition>"
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points_xy)
    uid = f"<imageSOP_UID>{sop_uid}</imageSOP_UID>"
    return f"<roi>{place}{uid}<inclusion>{inclusion}</inclusion>{edges}</roi>"


def nodule(name: str, rois: Iterable[str], ratings: dict[str, object] | None = RATINGS) -> str:
    """One mark; without ratings it is one below 3 mm."""
    values = "".join(f"<{tag}>{value}</{tag}>" for tag, value in (ratings or {}).items())
    characteristics = "" if ratings is None else f"<characteristics>{values}</characteristics>"
    return f"<unblindedReadNodule><noduleID>{name}</noduleID>{characteristics}{''.join(rois)}</unblindedReadNodule>"


def write_annotation(
    path: Path,
    series_uid: str,
    sessions: Iterable[Sequence[str]],
    *,
    namespace: str = "http://www.nih.gov",
    root: str = "LidcReadMessage",
) -> Path:
    """Write a file with one reading session for each sequence of marks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    declaration = f' xmlns="{namespace}"' if namespace else ""
    body = "".join(
        "<readingSession><servicingRadiologistID>anon</servicingRadiologistID>" + "".join(marks) + "</readingSession>"
        for marks in sessions
    )
    header = f"<ResponseHeader><SeriesInstanceUid>{series_uid}</SeriesInstanceUid></ResponseHeader>"
    path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{declaration}>{header}{body}</{root}>')
    return path


def outline(mask: np.ndarray) -> list[tuple[int, int]]:
    """Ordered pixels (column, row) just outside a 2D mask without holes, as a reader would draw them.

    The 8-connected ring follows the mask's marching-squares contour at a distance of one pixel.
    """
    (contour,) = find_contours(np.pad(mask, 2).astype(float), 0.01)
    points = [(int(np.rint(col)) - 2, int(np.rint(row)) - 2) for row, col in contour]
    return [point for i, point in enumerate(points) if i == 0 or point != points[i - 1]]
