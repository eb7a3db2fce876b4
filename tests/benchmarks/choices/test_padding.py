"""The benchmark of what stands where a crop ends, on the tiny chain."""

import pytest

from benchmarks.choices import padding
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset


@pytest.mark.slow
def test_only_crops_that_reach_outside_their_scan_are_counted(chain, nodules, tmp_path, capsys):
    given = load_nodules(nodules, "validation")
    rows = [read_nodule(given, index) for index in range(len(given))]
    for row in rows[:7]:
        row["valid_mask"][:2] = 0
    size = rows[0]["ct_hu"].shape[0]
    save_nodule_dataset(({**row, "split": "validation"} for row in rows), tmp_path / "cut", size)
    vae = chain.vae / "model"
    padding.main(padding.PaddingConfig(vae=f"edge={vae}", data=f"edge={tmp_path / 'cut'}", diameters_mm=(0, 100)))
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == "| fill | 0-100 mm |" and row.startswith("| edge | ") and row.endswith("(n 7) |")
