"""A table of the lesions that a synthesis is to make: shares of classes of size, texture, malignancy.

A table is a CSV file with the columns attribute, low, high and share. A row is a class: values from `low` on and below
`high`; the highest class of an attribute holds its `high`, too. The shares of an attribute need not add up to 1.
`equal` and `lidc` are tables beside this module.

Real lesions are weighted so that every attribute has its shares at once, by iterative proportional fitting (Deming &
Stephan 1940): of all weightings that have them it is the one nearest to the real lesions' own, so that what belongs
together stays together. Lesion i then takes the classes at the place (i + 1/2) φ mod 1, φ the golden ratio, in the
cumulated shares of all combinations. The places of the first n lesions, for any n, are spread evenly (Weyl 1916), so
that shares are met more closely than by chance.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foundation.text_files import read_csv

TABLES = {name: Path(__file__).with_name(f"balance_{name}.csv") for name in ("equal", "lidc")}
COLUMNS = ("attribute", "low", "high", "share")
ROUNDS, CLOSE = 1000, 0.002  # of the fitting; a share that is nearer than this is met
GOLDEN = (math.sqrt(5) - 1) / 2


class LesionClass(NamedTuple):
    """A class of an attribute; its share is that of all lesions."""

    attribute: str
    low: float
    high: float
    share: float

    def __str__(self) -> str:
        return f"{self.attribute} {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Balance:
    """Weights of real lesions that have the shares of a table; made by :func:`balance_of`.

    Attributes:
        names: Classes of each combination that occurs, as text.
        share: Of each combination, adding up to 1.
        rows: Numbers of the real lesions in it.
        weights: Of these, adding up to 1.
    """

    names: tuple[str, ...]
    share: np.ndarray
    rows: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]

    def draw(self, lesion: int, generator: np.random.Generator) -> tuple[int, str]:
        """The real lesion that lesion number `lesion` is to be like, and its classes."""
        place = (lesion + 0.5) * GOLDEN % 1
        which = min(int(np.searchsorted(np.cumsum(self.share), place, side="right")), len(self.share) - 1)
        return int(generator.choice(self.rows[which], p=self.weights[which])), self.names[which]


def read_balance(source: str) -> list[LesionClass]:
    """Read a table.

    Args:
        source: "equal", "lidc", or the path of a CSV file.
    Returns: Its classes, by attribute and from low to high, with shares that add up to 1 for each attribute.
    Raises: ValueError: Naming the file and the line, if it is no such table or classes overlap.
    """
    path = TABLES.get(source, Path(source))
    if not path.is_file():
        raise ValueError(f"balance {source}: no such file; expected {', '.join(TABLES)}, or a CSV table of yours")
    columns, lines = read_csv(path)
    if set(columns) != set(COLUMNS):
        shown = " ".join(", ".join(columns).split())
        raise ValueError(f"{path}: columns {shown[:200] or 'none'}, expected {', '.join(COLUMNS)}")
    classes = [_class(row, f"{path}, line {line}") for line, row in lines]
    if not classes:
        raise ValueError(f"{path}: no class, expected one row for each")
    by_attribute: dict[str, list[LesionClass]] = {}
    for one in sorted(classes, key=lambda one: (one.low, one.high)):
        by_attribute.setdefault(one.attribute, []).append(one)
    scaled = []
    for name in dict.fromkeys(one.attribute for one in classes):
        mine = by_attribute[name]
        for below, above in pairwise(mine):
            if above.low < below.high:
                raise ValueError(f"{path}: the classes {below} and {above} overlap; let one begin where the other ends")
        total = sum(one.share for one in mine)
        if not total > 0:
            raise ValueError(f"{path}: all shares of {name} are 0, expected one above 0")
        scaled += [one._replace(share=one.share / total) for one in mine]
    return scaled


def balance_of(classes: Sequence[LesionClass], values: Mapping[str, np.ndarray], allowed: np.ndarray) -> Balance:
    """Weight real lesions.

    Args:
        classes: From :func:`read_balance`.
        values: Attribute -> its value for each of N lesions, (N,); NaN where it is not known.
        allowed: bool (N,), the lesions that may be drawn.
    Raises: ValueError: If an attribute is unknown, or no weighting has the shares.
    """
    unknown = [one.attribute for one in classes if one.attribute not in values]
    if unknown:
        raise ValueError(f'balance: attribute "{unknown[0]}" is unknown; known: {", ".join(values)}')
    inside = list(zip(classes, _members(classes, values), strict=True))
    weight = allowed * _in_all(inside)
    empty = [str(one) for one, mask in inside if one.share > 0 and not (weight * mask).any()]
    if empty:
        raise ValueError(
            f"balance: no real lesion within the ranges is in the class {empty[0]}; widen it or leave it out"
        )
    for _ in range(ROUNDS):
        for one, mask in inside:
            total = weight[mask].sum()
            if total > 0:
                weight[mask] *= one.share / total
        off = max(abs(weight[mask].sum() - one.share) for one, mask in inside)
        if off < CLOSE / 10:
            break
    if off > CLOSE:
        raise ValueError(
            "balance: no choice of real lesions has these shares at once, such as many small malignant ones; the "
            f"nearest is {off:.1%} off; change the shares, or take an attribute out"
        )
    weight /= weight.sum()
    combined = np.array([mask for _, mask in inside])
    patterns, which = np.unique(combined[:, weight > 0], axis=1, return_inverse=True)
    drawn = np.flatnonzero(weight)
    rows = tuple(drawn[which.ravel() == number] for number in range(patterns.shape[1]))
    names = tuple(
        ", ".join(str(one) for (one, _), is_in in zip(inside, pattern, strict=True) if is_in) for pattern in patterns.T
    )
    share = np.array([weight[some].sum() for some in rows])
    return Balance(names, share, rows, tuple(weight[some] / weight[some].sum() for some in rows))


def counted(classes: Sequence[LesionClass], values: Mapping[str, np.ndarray]) -> list[LesionClass]:
    """The classes with the number of lesions as their share, of those that are in a class of every attribute.

    Args:
        classes: From :func:`read_balance`.
        values: As for :func:`balance_of`.
    """
    inside = list(zip(classes, _members(classes, values), strict=True))
    known = _in_all(inside) > 0
    return [one._replace(share=int((mask & known).sum())) for one, mask in inside]


def achieved(classes: Sequence[LesionClass], table: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """What became of a table: for each class its share as stated, as requested, and of the lesions that were made.

    Args:
        classes: From :func:`read_balance`.
        table: Columns of the manifest, `balance`, `lesion` and `accepted` among them.
    Returns: Rows with the columns of the table, then `requested` and `made`, which are shares of lesions.
    """
    requested, made = {}, {}
    for names, lesion, accepted in zip(table["balance"], table["lesion"], table["accepted"], strict=True):
        if names is not None:
            requested[lesion] = names.split(", ")
            if accepted:
                made[lesion] = requested[lesion]

    def share_of(one: LesionClass, lesions: Mapping[int, list[str]]) -> float:
        return sum(str(one) in names for names in lesions.values()) / max(len(lesions), 1)

    return [{**one._asdict(), "requested": share_of(one, requested), "made": share_of(one, made)} for one in classes]


def write_balance(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what :func:`achieved` gives as CSV; its first columns are a table that can be asked for again."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def balance_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What :func:`achieved` gives as text."""
    lines = [f"{'balance':<28}{'stated':>10}{'requested':>11}{'made':>8}"]
    for row in rows:
        name = str(LesionClass(*(row[column] for column in COLUMNS)))
        lines.append(f"{name:<28}{row['share']:>10.1%}{row['requested']:>11.1%}{row['made']:>8.1%}")
    return "\n".join(lines)


def _members(classes: Sequence[LesionClass], values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Which lesions are in each class, bool (N,)."""
    top = {one.attribute: max(c.high for c in classes if c.attribute == one.attribute) for one in classes}
    members = []
    for one in classes:
        value, last = values[one.attribute], one.high == top[one.attribute]
        members.append((value >= one.low) & (value <= one.high if last else value < one.high))
    return members


def _in_all(inside: Sequence[tuple[LesionClass, np.ndarray]]) -> np.ndarray:
    """1 for lesions that are in a class of every attribute, else 0, (N,)."""
    names = dict.fromkeys(one.attribute for one, _ in inside)
    in_one = [np.any([mask for one, mask in inside if one.attribute == name], axis=0) for name in names]
    return np.all(in_one, axis=0).astype(float)


def _class(row: dict[str, str], where: str) -> LesionClass:
    name = row.get("attribute", "").strip()
    if not name:
        raise ValueError(f"{where}: no attribute, expected for example diameter_mm")
    numbers = []
    for column in COLUMNS[1:]:
        text = row.get(column, "").strip()
        try:
            numbers.append(float(text))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise ValueError(f"{where}: {column} {text!r}, expected a number")
    low, high, share = numbers
    if not low < high:
        raise ValueError(f"{where}: from {low:g} to {high:g}, expected the lower number first")
    if share < 0:
        raise ValueError(f"{where}: share {share:g}, expected a number of at least 0")
    return LesionClass(name, low, high, share)
