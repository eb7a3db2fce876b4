"""Figures of masks: closed forms of balls and ellipsoids, and what each is there to see."""

import numpy as np
import pytest
from shape_factory import ellipsoid, spiked

from evaluation.lesions.shape_figures import SHAPE_FIGURES, shape_figures


def figures(mask: np.ndarray) -> dict[str, float]:
    return dict(zip(SHAPE_FIGURES, shape_figures(mask).tolist(), strict=True))


def test_a_ball_has_the_figures_of_the_ball():
    found = figures(ellipsoid((9.0, 9.0, 9.0)))
    assert found["diameter_mm"] == pytest.approx(18, rel=0.02)
    assert found["sphericity"] == pytest.approx(1, abs=0.03) and found["solidity"] == pytest.approx(1, abs=0.05)
    assert found["elongation"] == pytest.approx(1, abs=0.02) and found["flatness"] == pytest.approx(1, abs=0.02)
    assert found["roughness_mm"] < 0.3 and found["euler_number"] == 1


def test_axes_are_those_of_the_ellipsoid():
    found = figures(ellipsoid((12.0, 6.0, 9.0)))
    assert found["elongation"] == pytest.approx(9 / 12, abs=0.02) and found["flatness"] == pytest.approx(0.5, abs=0.02)
    assert found["main_axis_z"] == pytest.approx(1, abs=0.01) and found["extent_z_over_xy"] > 1.4


def test_spikes_are_seen_as_rough_and_less_solid_and_are_lost_by_opening():
    smooth, sharp = figures(ellipsoid((6.0, 6.0, 6.0))), figures(spiked(12.0))
    assert sharp["roughness_mm"] > 2 * smooth["roughness_mm"] and sharp["solidity"] < 0.8 * smooth["solidity"]
    assert sharp["lost_by_opening_1_mm"] > smooth["lost_by_opening_1_mm"]


def test_equal_slices_are_the_steps_of_thick_ones():
    ball = ellipsoid((8.0, 8.0, 8.0))
    assert figures(np.repeat(ball[::3], 3, axis=0))["equal_slices_z"] > 0.6 > 0.3 > figures(ball)["equal_slices_z"]


def test_figures_do_not_depend_on_the_place_or_the_value_inside_and_nothing_is_refused():
    ball = ellipsoid((4.0, 5.0, 6.0))
    np.testing.assert_array_equal(shape_figures(ball), shape_figures(255 * np.pad(ball, ((3, 1), (0, 9), (2, 2)))))
    with pytest.raises(ValueError, match="mask is empty, expected a lesion"):
        shape_figures(np.zeros((4, 4, 4)))
