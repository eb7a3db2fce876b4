import numpy as np
import pytest

from evaluation.autoencoders.table import CropRow, diameter_group, mean_curves, summarise


def _row(number, diameter_mm, **figures):
    return CropRow("a", f"nodule{number}", f"patient{number // 2}", diameter_mm, figures, {"noise": [1.0, number]})


def test_diameters_fall_into_the_groups_of_the_report():
    groups = {d: diameter_group(d) for d in (2.9, 3.0, 6.0, 6.1, 10.0, 20.0, 20.1, 45.0)}
    assert list(groups.values()) == [
        *("< 3 mm", "3-6 mm", "3-6 mm", "6-10 mm", "6-10 mm", "10-20 mm", "> 20 mm", "> 20 mm")
    ]


def test_means_are_over_the_crops_of_a_group_that_have_the_figure():
    rows = [_row(0, 4.0, x=1.0, y=2.0), _row(1, 5.0, x=3.0), _row(2, 25.0, x=8.0, y=4.0)]
    found = {(row.group, row.figure): row for row in summarise(rows, 200, 0)}
    assert set(found) == {(group, figure) for group in ("all", "3-6 mm", "> 20 mm") for figure in "xy"}
    assert found["all", "x"].mean == 4 and found["all", "x"].crops == 3
    assert found["3-6 mm", "y"].mean == 2 and found["3-6 mm", "y"].crops == 1
    # two patients with means 2 and 8 of two crops and one: the bootstrap means are 2, 4 and 8
    assert (found["all", "x"].low, found["all", "x"].high) == (2, 8)


def test_power_ratios_are_averaged_geometrically():
    rows = [_row(0, 4.0, crop_power_ratio_fine=0.1), _row(2, 4.0, crop_power_ratio_fine=10.0)]
    summary = summarise(rows, 200, 0)[0]
    assert (summary.mean, summary.low, summary.high) == pytest.approx((1, 0.1, 10))


def test_an_infinite_figure_is_marked_by_none():
    (summary,) = [row for row in summarise([_row(0, 4.0, psnr=np.inf)], 10, 0) if row.group == "all"]
    assert (summary.mean, summary.low, summary.high, summary.crops) == (None, None, None, 1)


def test_curves_are_averaged_over_crops():
    curves = mean_curves([_row(n, 4.0) for n in (2, 8)], "noise")
    assert curves["a"].tolist() == pytest.approx([1, 4])
    assert mean_curves([_row(0, 4.0)], "crop") == {}
