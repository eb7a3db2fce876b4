"""The comparison of two maps, with sets whose order is known."""

import numpy as np
import pytest

from benchmarks.choices import semantic_map
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset


@pytest.mark.slow
def test_the_set_that_is_nearer_to_the_real_lesions_has_the_smaller_error(nodules, tmp_path, capsys):
    given = load_nodules(nodules, "validation")
    rows = [read_nodule(given, index) for index in range(len(given))]
    noise = np.random.default_rng(0)
    for name, sigma in (("near", 20), ("far", 200)):
        made = [row["ct_hu"] + noise.normal(0, sigma, row["ct_hu"].shape) for row in rows]
        changed = [{**row, "ct_hu": ct.clip(-1024).astype(np.int16)} for row, ct in zip(rows, made, strict=True)]
        save_nodule_dataset(({**row, "split": "validation"} for row in changed), tmp_path / name, len(made[0]))
    sets = f"near={tmp_path / 'near'},far={tmp_path / 'far'}"
    semantic_map.main(semantic_map.SemanticMapConfig(real=nodules, synthetic=sets))
    printed = capsys.readouterr().out
    assert "### all: 12 lesions" in printed
    mse = next(line.split(" | ") for line in printed.splitlines() if line.startswith("| MSE"))
    assert float(mse[1]) < float(mse[2]) and float(mse[3].strip(" |")) < 0.01
