"""The plausibility benchmark on phantom nodules."""

import numpy as np
import pytest

from benchmarks.quality import plausibility
from evaluation.lesions.lesion_sets import load_lesions
from foundation.config import launch, parse_config


@pytest.mark.slow
def test_plausibility_refuses_what_cannot_be_a_lesion(nodules, tmp_path, capsys):
    argv = ["--data", str(nodules)]
    launch(plausibility.main, parse_config(plausibility.Config, argv))
    printed = capsys.readouterr().out
    rows = dict(line.strip("| ").split(" | ", 1) for line in printed.splitlines() if line.startswith("| "))
    assert printed.startswith("12 lesions\n") and set(plausibility.CHANGES) < rows.keys()
    assert rows["none"].endswith("| 0%") and rows["air"].endswith("| 100%")  # farther from real ones than before
    (lesion, *_), _ = load_lesions(nodules, "validation")
    for name, change in plausibility.CHANGES.items():
        assert change(lesion, np.random.default_rng(0)).shape == lesion.ct_hu.shape, name
