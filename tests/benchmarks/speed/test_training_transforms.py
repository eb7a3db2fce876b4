"""The table has a row for each way to load."""

import re

import pytest
import SimpleITK as sitk
from small_pool import chest, small_pool


def test_each_way_to_load_has_a_row(tmp_path, capsys):
    pytest.importorskip("monai")
    from benchmarks.speed import training_transforms

    sitk.WriteImage(sitk.GetImageFromArray(chest()[0].T), tmp_path / "scan.nii.gz")
    pool = small_pool(tmp_path / "pool").folder
    how = {"scan": tmp_path / "scan.nii.gz", "pool": pool, "size": 32, "patches": 2, "turns": 1}
    training_transforms.main(training_transforms.Config(**how))
    rows = re.findall(r"^\| ([\w, ]+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", capsys.readouterr().out, re.MULTILINE)
    assert rows == ["memory", "memory, augmented", "file"]
