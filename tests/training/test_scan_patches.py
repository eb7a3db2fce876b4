"""Unpaired patches: each of its own kind, wherever a scan has a body."""

import numpy as np
import pytest
import torch

from imaging.dataset.scan_volumes import save_scans
from training.scan_patches import UnpairedPatches


def folder(path, values, shape=(20, 24, 28), spacing_mm=1.0, names="scan"):
    """A scan of each value, in air but for its body."""
    scans = []
    for number, value in enumerate(values):
        ct_hu = np.full(shape, -1000.0)
        ct_hu[:, 4:20, 4:24] = value
        scans.append((f"{names}{number}", ct_hu))
    save_scans(scans, path, spacing_mm)
    return path


def test_a_patch_of_each_kind_lies_in_a_body(tmp_path):
    a, b = folder(tmp_path / "a", [100, 200], names="a"), folder(tmp_path / "b", [300], names="b")
    patches = UnpairedPatches(a, b, 12, seed=0)
    assert len(patches) == 2 and patches.spacing_mm == 1.0
    drawn = [patches[0, draw] for draw in range(8)]
    assert {float(one["a"].max()) for one in drawn} == {100, 200} and {float(one["b"].max()) for one in drawn} == {300}
    assert all(one[kind].shape == (1, 12, 12, 12) and (one[kind] > -1000).all() for one in drawn for kind in "ab")
    again = UnpairedPatches(a, b, 12, seed=0)[1, 5]
    assert torch.equal(again["a"], patches[0, 5]["a"])  # the draw alone decides


def test_a_patch_wider_than_a_body_still_fits_its_scan(tmp_path):
    a, b = folder(tmp_path / "a", [1], names="a"), folder(tmp_path / "b", [2], names="b")
    assert UnpairedPatches(a, b, 20, seed=0)[0, 0]["a"].shape == (1, 20, 20, 20)


def test_sets_that_do_not_fit_are_refused(tmp_path):
    a, b = folder(tmp_path / "a", [1], names="a"), folder(tmp_path / "b", [2], spacing_mm=0.7, names="b")
    c = folder(tmp_path / "c", [1], names="a")
    with pytest.raises(ValueError, match=r"spacings \[0.7, 1.0\] mm, expected one; prepare both with the same"):
        UnpairedPatches(a, b, 12, 0)
    with pytest.raises(ValueError, match=r"a0 is in .*a and in .*c; expected other patients in each"):
        UnpairedPatches(a, c, 12, 0)
    with pytest.raises(ValueError, match=r"a0 has \(20, 24, 28\) voxels, a patch 24; leave it out"):
        UnpairedPatches(a, folder(tmp_path / "d", [1], names="d"), 24, 0)
    with pytest.raises(ValueError, match="patch_size 10: expected a multiple of 4 from 12"):
        UnpairedPatches(a, a, 10, 0)
