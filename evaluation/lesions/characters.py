"""Which characters a synthesis asks for: those of real lesions, or even ones over stated ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.lesions.balance import Balance, LesionClass, balance_of
from evaluation.lesions.real_lesions import CHARACTER, RealLesions

Population = Literal["real", "uniform"]
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Character:
    """What one lesion is to be.

    Attributes:
        mask_mm: Diameter of the sphere that has its mask's volume.
        requested: Attribute -> value, in its unit; only what is known of it.
        classes: Those of the balance that it is drawn for; None without one.
    """

    mask_mm: float
    requested: dict[str, float]
    classes: str | None = None


@dataclass(frozen=True)
class Characters:
    """A distribution; made by `characters_of`.

    Attributes:
        population: "real": a training lesion is drawn, all alike likely, with all that is known of it, so that size,
            HU and ratings belong together. "uniform": each attribute that has a range is drawn from it by itself.
        ranges: Attribute -> lowest and highest value.
        real: Of "real", those within the ranges alone are drawn.
        rows: Their numbers.
        balance: Of "real", how often those of each class are drawn; None draws all alike often.
    """

    population: Population
    ranges: Ranges
    real: RealLesions
    rows: np.ndarray
    balance: Balance | None = None

    def draw(self, lesion: int, generator: np.random.Generator) -> Character:
        """The character of lesion number `lesion`, a function of the number and the generator's state alone."""
        if self.population == "uniform":
            drawn = {name: float(generator.uniform(*self.ranges[name])) for name in CHARACTER if name in self.ranges}
            return Character(drawn["diameter_mm"], drawn)
        classes = None
        if self.balance is None:
            row = int(self.rows[generator.integers(len(self.rows))])
        else:
            row, classes = self.balance.draw(lesion, generator)
        values = zip(CHARACTER, self.real.character[row].tolist(), strict=True)
        requested = {name: value for name, value in values if np.isfinite(value)}
        return Character(float(self.real.equivalent_mm[row]), requested, classes)


def characters_of(
    population: Population, ranges: Ranges, real: RealLesions, classes: Sequence[LesionClass] = ()
) -> Characters:
    """Check a distribution.

    Args:
        population, ranges, real: As for :class:`Characters`.
        classes: Of a balance, whose diameter_mm is that of the sphere with the mask's volume; none for no balance.
    Raises: ValueError: If an attribute is unknown, a range empty or not finite, the diameter without one where all is
        uniform, no real lesion is within the ranges, or as `balance_of`.
    """
    for name, (low, high) in ranges.items():
        if name not in CHARACTER:
            raise ValueError(f'ranges: attribute "{name}" is unknown; known: {", ".join(CHARACTER)}')
        if not (np.isfinite([low, high]).all() and low <= high):
            raise ValueError(f"ranges: {name} from {low:g} to {high:g}, expected two finite numbers, the lower first")
    if population == "uniform" and "diameter_mm" not in ranges:
        raise ValueError("population uniform: the diameter has no range; give one, such as --ranges.diameter_mm 4,20")
    inside = np.ones(len(real.character), bool)
    for name, (low, high) in ranges.items():
        values = real.character[:, CHARACTER.index(name)]  # NaN, not rated, is in no range
        inside &= (values >= low) & (values <= high)
    if population == "real" and not inside.any():
        said = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
        raise ValueError(
            f"none of {len(inside)} real lesions is within the ranges ({said}); widen them, or take --population "
            "uniform"
        )
    balance = None
    if classes:
        if population == "uniform":
            raise ValueError("balance: weights real lesions; take --population real, or ranges without a balance")
        known = dict(zip(CHARACTER, real.character.T, strict=True)) | {"diameter_mm": real.equivalent_mm}
        balance = balance_of(classes, known, inside)
    return Characters(population, dict(ranges), real, np.flatnonzero(inside), balance)
