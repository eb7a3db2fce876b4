"""Medians and quartiles against NumPy's."""

import numpy as np
import pytest

from evaluation.lesions.features import FeatureSet
from evaluation.lesions.spreads import spread_rows


def test_quartiles_are_those_of_the_values_and_logarithms_are_undone():
    hu = np.random.default_rng(0).lognormal(3, 1, (50, 1, 2))
    sets = {
        "real": {"HU": FeatureSet(hu, []), "Core": FeatureSet(np.log(hu[..., :1]), [])},
        "made": {"HU": FeatureSet(hu + 10, [])},
    }
    rows = {(row.label, row.figure): row for row in spread_rows(sets)}
    assert set(rows) == {
        *((label, figure) for label in ("real", "made") for figure in ("mean HU", "deviation of HU")),
        ("real", "core deviation [HU]"),
    }
    core, deviation = rows["real", "core deviation [HU]"], rows["made", "deviation of HU"]
    assert [core.low, core.median, core.high] == pytest.approx(np.quantile(hu[:, 0, 0], (0.25, 0.5, 0.75)))
    assert deviation.median == pytest.approx(np.median(hu[:, 0, 1]) + 10) and deviation.lesions == 50
