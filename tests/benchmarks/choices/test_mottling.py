"""The mottling benchmark on the tiny chain."""

import numpy as np
import pytest

from benchmarks.choices import mottling
from evaluation.lesions.hu_and_seam import core_deviation


@pytest.mark.slow
def test_mottling_paints_and_measures_what_has_a_core(chain, nodules, tmp_path):
    tiny = f"tiny={chain.ldm / 'pipeline'}"
    config = mottling.MottlingConfig(data=nodules, pipelines=tiny, out=tmp_path / "m", time_shifts=(0.0, 0.5), steps=1)
    mottling.main(config)
    rows = mottling.rows_of(config)
    measured = [core_deviation(row["ct_hu"], row["lesion_mask"], row["spacing_mm"]) for row in rows]
    cores = [value for value in measured if value is not None]
    assert 0 < len(cores) < len(rows)
    text = (config.out / "mottling.md").read_text()
    assert text.startswith(f"{len(cores)} lesions; real ones: {np.mean(cores):.1f} HU")
    assert "painted, shift 0 | painted, shift 0.5" in text and text.count("\n| tiny |") == 1
