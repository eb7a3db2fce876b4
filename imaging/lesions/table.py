"""A table of lesions to paint: one row each, where, how large, of what character."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from foundation.text_files import read_csv

PLACE = ("x", "y", "z")
PHYSICAL: dict[Literal["LPS", "RAS"], tuple[str, ...]] = {
    "LPS": ("x_lps", "y_lps", "z_lps"),
    "RAS": ("x_ras", "y_ras", "z_ras"),
}
OWN_COLUMNS = (*PLACE, *PHYSICAL["LPS"], *PHYSICAL["RAS"], "diameter_mm", "seed", "label")


@dataclass(frozen=True)
class LesionRow:
    """One lesion.

    Attributes:
        diameter_mm: Diameter of the sphere that has its volume; NaN where a label gives the shape.
        center_zyx: Voxel index of its centre; None where the place is to be chosen, or is physical.
        center_mm: Its centre as a physical point x, y, z in `frame`, or None.
        frame: "LPS" or "RAS", see `imaging.geometry.index_in_scan`.
        attributes: Wanted character, a number or a name each.
        seed: Of its mask, place and noise; None takes one that follows from the run's.
        where: File and line, for messages.
        label: Of its shape in a mask; None where the shape is drawn.
    """

    diameter_mm: float
    center_zyx: tuple[float, float, float] | None = None
    attributes: dict[str, float | str] = field(default_factory=dict)
    seed: int | None = None
    where: str = ""
    center_mm: tuple[float, float, float] | None = None
    frame: Literal["LPS", "RAS"] = "LPS"
    label: int | None = None

    @property
    def placed(self) -> bool:
        """Whether it has a place."""
        return self.center_zyx is not None or self.center_mm is not None


def read_lesion_table(path: Path) -> list[LesionRow]:
    """Read a CSV file with the columns diameter_mm, optionally a place and seed, and attributes.

    A place is a voxel index x, y, z, or a physical point in mm x_lps, y_lps, z_lps or x_ras, y_ras, z_ras. An empty
    cell asks for nothing. A row whose lesion has its shape in a mask gives its `label` there and neither diameter nor
    place.

    Raises: ValueError: Naming the file and the line, if there is no row, a number is none or a place is incomplete.
    """
    columns, lines = read_csv(path)
    if not {"diameter_mm", "label"} & set(columns):
        shown = " ".join(", ".join(columns).split())
        raise ValueError(f"{path}: columns {shown[:200] or 'none'}, expected diameter_mm among them")
    rows = [_row(line, f"{path}, line {number}") for number, line in lines]
    if not rows:
        raise ValueError(f"{path}: no lesion, expected one row for each")
    return rows


def _row(line: dict[str, str], where: str) -> LesionRow:
    cells = {name.strip(): text.strip() for name, text in line.items() if text.strip()}
    place = _place(cells, PLACE, where)
    physical = {frame: _place(cells, names, where) for frame, names in PHYSICAL.items()}
    if sum(map(bool, (place, *physical.values()))) > 1:
        raise ValueError(f"{where}: several places; give x, y, z, or x_lps, y_lps, z_lps, or x_ras, y_ras, z_ras")
    label = cells.get("label")
    placed = bool(place) or any(physical.values())
    if label is not None and (not label.isdecimal() or int(label) < 1 or placed or "diameter_mm" in cells):
        raise ValueError(
            f"{where}: label {label!r}, expected a whole number of at least 1, and neither diameter_mm nor x, y, z"
        )
    diameter_mm = math.nan if label is not None else _number(cells, "diameter_mm", where)
    if diameter_mm <= 0:
        raise ValueError(f"{where}: diameter_mm {diameter_mm:g}, expected a number above 0")
    seed = cells.get("seed")
    if seed is not None and not seed.isdecimal():
        raise ValueError(f"{where}: seed {seed!r}, expected a whole number of at least 0")
    attributes = {name: _value(text) for name, text in cells.items() if name not in OWN_COLUMNS}
    center = (place[2], place[1], place[0]) if place else None
    numbers = [None if text is None else int(text) for text in (seed, label)]
    row = LesionRow(diameter_mm, center, attributes, numbers[0], where, label=numbers[1])
    for frame, point in physical.items():
        if point:
            row = replace(row, center_mm=(point[0], point[1], point[2]), frame=frame)
    return row


def _place(cells: dict[str, str], names: tuple[str, ...], where: str) -> list[float]:
    place = [_number(cells, name, where) for name in names if name in cells]
    if len(place) not in (0, 3):
        shown = ", ".join(names)
        raise ValueError(f"{where}: {len(place)} of {shown}; give all three, or none to have the place chosen")
    return place


def _number(cells: dict[str, str], name: str, where: str) -> float:
    value = _value(cells.get(name, ""))
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(f"{where}: {name} {cells.get(name, '')!r}, expected a number")
    return value


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
