"""The judgement of shapes on made ones: it tells what differs, finds nothing in what does not, and sees a request."""

import json

import numpy as np
import pytest
from shape_factory import nodule_shapes, write_shapes

from benchmarks.quality import shapes as benchmark


def judged(seed: int, spiked: bool) -> benchmark.Masks:
    """Sixty masks of thirty patients, all with spikes or all without."""
    made = [shape for shape in nodule_shapes(120, seed) if (shape.ratings["spiculation"] == 5) == spiked]
    masks = benchmark.measured(made)
    patients = [f"{seed} {number // 2}" for number in range(len(made))]
    return benchmark.Masks(masks.figures, patients, masks.requested, masks.rated)


@pytest.mark.slow
def test_shapes_that_differ_are_told_apart_and_those_that_do_not_are_not():
    smooth = judged(0, spiked=False)
    assert benchmark.told_apart(smooth, judged(1, spiked=True), 0)["auroc"] > 0.95
    assert 0.3 < benchmark.told_apart(smooth, judged(2, spiked=False), 0)["auroc"] < 0.7


@pytest.mark.slow
def test_the_report_says_that_made_shapes_obey(nodules, tmp_path):
    folder = write_shapes(tmp_path / "shapes", nodule_shapes(240))
    config = benchmark.ShapesConfig(data=folder, nodules=nodules, out=tmp_path / "out", regressor_lesions=120)
    benchmark.main(config)
    report = json.loads((config.out / "figures.json").read_text())
    drawn = report["obedience"][benchmark.REAL]["spiculation"]
    assert drawn["regressor"] > 0.7 * report["obedience"]["ceiling"]["spiculation"]["regressor"] > 0.5
    assert drawn["readers"] > 0.9 and drawn["high"] > drawn["low"] + 1
    alone = report["obedience"]["real, drawn, lobulation alone"]
    assert set(alone) == {"lobulation"} and np.isfinite(alone["lobulation"]["readers"])
    assert benchmark.REAL in (config.out / "figures.md").read_text()
