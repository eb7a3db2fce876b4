"""Medians and quartiles of what is measured in HU: a mean says little of a skewed distribution."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.lesions.features import Features

FIGURES = {  # title -> kind, column
    "mean HU": ("HU", 0),
    "deviation of HU": ("HU", 1),
    "core deviation [HU]": ("Core", 0),
    "Dice of own outline with the label": ("Label", 0),
    "coverage": ("Coverage", 0),
    "seam [HU]": ("Seam", 0),
}
LOGARITHMS = ("Core",)  # kinds whose features are logarithms


@dataclass(frozen=True)
class SpreadRow:
    """Quartiles of one figure over the lesions of a set."""

    label: str
    figure: str
    lesions: int
    low: float
    median: float
    high: float


def spread_rows(sets: Mapping[str, Features]) -> list[SpreadRow]:
    """Median and quartiles of each figure in each set.

    Args:
        sets: Label -> features.
    """
    rows = []
    for figure, (kind, column) in FIGURES.items():
        for label in [label for label in sets if kind in sets[label]]:
            values = sets[label][kind].values[:, 0, column]
            values = np.exp(values) if kind in LOGARITHMS else values
            rows.append(SpreadRow(label, figure, len(values), *map(float, np.quantile(values, (0.25, 0.5, 0.75)))))
    return rows
