"""What a format says of itself, and what its index is written from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imaging.layouts.cases import Case, Nodule
from imaging.layouts.folds import Split

CLASS = "nodule"  # the one class


@dataclass(frozen=True)
class Title:
    """Number and name of a dataset, for formats that want them: 1 to 999, and letters and digits."""

    number: int = 501
    name: str = "SyntheticLesions"

    def __post_init__(self) -> None:
        if not 1 <= self.number <= 999:
            raise ValueError(f"number {self.number}, expected 1 to 999")
        if not (self.name.isascii() and self.name.isalnum()):
            raise ValueError(f"name {self.name!r}, expected letters and digits alone")


@dataclass(frozen=True)
class WrittenCase:
    """A case whose image, and labels if the format has them, are written.

    Attributes:
        case: Which.
        fold: Of its patient.
        image, labels: Below the layout's folder; labels None where the format has none.
        nodules: In the order of their labels.
        size_xyz: Voxels.
        spacing_xyz_mm, origin_xyz_mm, direction: Of the image, in the DICOM patient frame (LPS).
    """

    case: Case
    fold: int
    image: str
    labels: str | None
    nodules: tuple[Nodule, ...]
    size_xyz: tuple[int, ...]
    spacing_xyz_mm: tuple[float, ...]
    origin_xyz_mm: tuple[float, ...]
    direction: tuple[float, ...]


class Layout(NamedTuple):
    """A format; `{case}`, `{number}`, `{name}` and `{out}` in its texts are filled in.

    Attributes:
        image: Path of a case's image.
        labels: Path of its labels; None where the format has none.
        instances: Whether labels are n in the n-th nodule, or 1 in all.
        write_index: Writes what the format wants besides, given the folder, the title, the cases and the splits.
        next_step: What the user runs then.
    """

    image: str
    labels: str | None
    instances: bool
    write_index: Callable[[Path, Title, Sequence[WrittenCase], Sequence[Split]], None]
    next_step: str
