"""The table of methods on the tiny chain, and the picture of unselected cases from one of its sets."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import lesion_table, unselected_cases
from evaluation.autoencoders.matched_blur import blur_valid
from imaging.dataset.nodules import load_nodules, read_nodule


@pytest.mark.slow
def test_table_has_methods_ceiling_and_floor_and_nothing_is_made_twice(chain, nodules, tmp_path, measured_once):
    pipeline = chain.ldm / "pipeline"
    config = lesion_table.LesionTableConfig(
        data=nodules,
        out=tmp_path / "table",
        pipelines=f"ours={pipeline},gan={pipeline}",
        one_step="gan",
        split="validation",
        samples=2,
        steps=2,
        repeats=10,
        permutations=19,
    )
    lesion_table.main(config)
    text = (config.out / "table.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {cells[0]: cells[-2] for cells in lines[1:5]} == {
        "ours": "2",  # network calls
        "gan": "1",
        lesion_table.CEILING: "–",
        lesion_table.FLOOR: "–",
    }
    figures = json.loads((config.out / "table.json").read_text())
    assert figures["ours"]["lesions"] == 24 and figures[lesion_table.FLOOR]["lesions"] == 12
    detected = {name: row["detector"][0] for name, row in figures.items()}
    assert detected["ours"] > 0.8 and detected[lesion_table.FLOOR] > 0.8  # an untrained network; a blur of 1.5 mm
    assert figures[lesion_table.CEILING]["MSE"] > 0 and figures[lesion_table.FLOOR]["MSE"] > 0
    changed, row = load_nodules(config.out / "floor", "validation"), load_nodules(nodules, "validation")
    blurred, real = read_nodule(changed, 3), read_nodule(row, 3)
    outside = real["lesion_mask"] == 0
    assert np.array_equal(blurred["ct_hu"][outside], real["ct_hu"][outside])
    expected = blur_valid(real["ct_hu"].astype(np.float32), real["valid_mask"], 1.5, real["spacing_mm"])[~outside]
    assert np.abs(blurred["ct_hu"][~outside] - expected).max() <= 0.5 and (expected != real["ct_hu"][~outside]).any()

    made = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.arrow")}
    lesion_table.main(config)
    assert len(made) == 4 and made == {path: path.stat().st_mtime_ns for path in config.out.rglob("*.arrow")}
    assert (config.out / "table.md").read_text() == text

    cases = unselected_cases.CasesConfig(
        data=nodules, lesions=config.out / "ours", out=tmp_path / "cases.png", split="validation", count=3, field_mm=20
    )
    unselected_cases.main(cases)
    with Image.open(cases.out) as picture:  # 3 rows; real, given and two seeds in three planes of 10 voxels
        assert picture.size == (4 * 3 * (20 + 2), 3 * (20 + 2) + unselected_cases.LABEL)
        grey = np.asarray(picture)[unselected_cases.LABEL :]
    tile = grey[:20, :20].astype(int)
    again = grey[:20, 6 * 22 : 6 * 22 + 20].astype(int)
    assert tile.std() > 5 and (tile != again).any()
    with pytest.raises(ValueError, match="no split 'train'"):
        unselected_cases.main(replace(cases, split="train"))
