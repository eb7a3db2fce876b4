"""A table of lesions to paint: one row each, where, how large, of what character."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from foundation.text_files import read_csv

PLACE = ("x", "y", "z")
OWN_COLUMNS = (*PLACE, "diameter_mm", "seed")


@dataclass(frozen=True)
class LesionRow:
    """One lesion.

    Attributes:
        diameter_mm: Diameter of the sphere that has its volume.
        center_zyx: Voxel index of its centre; None where the place is to be chosen.
        attributes: Wanted character, a number or a name each.
        seed: Of its mask, place and noise; None takes one that follows from the run's.
        where: File and line, for messages.
    """

    diameter_mm: float
    center_zyx: tuple[float, float, float] | None = None
    attributes: dict[str, float | str] = field(default_factory=dict)
    seed: int | None = None
    where: str = ""


def read_lesion_table(path: Path) -> list[LesionRow]:
    """Read a CSV file with the columns diameter_mm, optionally x, y, z (voxel index) and seed, and attributes.

    An empty cell asks for nothing.

    Raises: ValueError: Naming the file and the line, if there is no row, a number is none or a place is incomplete.
    """
    columns, lines = read_csv(path)
    if "diameter_mm" not in columns:
        shown = " ".join(", ".join(columns).split())
        raise ValueError(f"{path}: columns {shown[:200] or 'none'}, expected diameter_mm among them")
    rows = [_row(line, f"{path}, line {number}") for number, line in lines]
    if not rows:
        raise ValueError(f"{path}: no lesion, expected one row for each")
    return rows


def _row(line: dict[str, str], where: str) -> LesionRow:
    cells = {name.strip(): text.strip() for name, text in line.items() if text.strip()}
    place = [_number(cells, name, where) for name in PLACE if name in cells]
    if len(place) not in (0, 3):
        raise ValueError(f"{where}: {len(place)} of x, y, z; give all three, or none to have the place chosen")
    diameter_mm = _number(cells, "diameter_mm", where)
    if not diameter_mm > 0:
        raise ValueError(f"{where}: diameter_mm {diameter_mm:g}, expected a number above 0")
    seed = cells.get("seed")
    if seed is not None and not seed.isdecimal():
        raise ValueError(f"{where}: seed {seed!r}, expected a whole number of at least 0")
    attributes = {name: _value(text) for name, text in cells.items() if name not in OWN_COLUMNS}
    center = (place[2], place[1], place[0]) if place else None
    return LesionRow(diameter_mm, center, attributes, None if seed is None else int(seed), where)


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
