"""Whole scans for training: what is written comes back, and patches stay in the body."""

import numpy as np
import pytest

from imaging.dataset.scan_volumes import body_box, open_scans, save_scans
from imaging.phantom.chest import chest_phantom


def volumes():
    random = np.random.default_rng(0)
    return [(f"scan{i}", random.integers(-1000, 400, (6 + i, 7, 8)).astype(np.float32)) for i in range(2)]


def test_scans_come_back_as_int16_and_memory_mapped(tmp_path):
    save_scans(volumes(), tmp_path / "scans", 1.5)
    opened = open_scans(tmp_path / "scans")
    for (name, ct_hu), (entry, volume) in zip(volumes(), opened, strict=True):
        assert (entry.name, entry.spacing_mm) == (name, 1.5)
        assert isinstance(volume, np.memmap) and not volume.flags.writeable
        assert np.array_equal(volume, ct_hu.astype(np.int16))


def test_body_box_leaves_the_air_around_the_phantom():
    ct_hu = chest_phantom((24, 40, 48), (8.0, 8.0, 8.0), n_nodules=1, seed=0).ct_hu
    body = np.pad(ct_hu, ((3, 0), (5, 9), (2, 4)), constant_values=-1000)
    (z0, z1), (y0, y1), (x0, x1) = body_box(body)
    assert z0 >= 3 and y0 >= 5 and x0 >= 2 and z1 <= 27 and y1 <= 45 and x1 <= 50
    assert (body[z0:z1, y0:y1, x0:x1] > -500).sum() > 0.95 * (body > -500).sum()
    assert body_box(np.full((4, 5, 6), -1000)) == ((0, 4), (0, 5), (0, 6))


def test_a_failure_leaves_no_folder_behind(tmp_path):
    def broken():
        yield volumes()[0]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        save_scans(broken(), tmp_path / "scans", 1.0)
    with pytest.raises(ValueError, match="comes twice"):
        save_scans([volumes()[0]] * 2, tmp_path / "scans", 1.0)
    with pytest.raises(ValueError, match="no scan to write"):
        save_scans([], tmp_path / "scans", 1.0)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_of_scans_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no prepared scans; make them with scripts/prepare_scans\.py"):
        open_scans(tmp_path)
    save_scans(volumes(), tmp_path / "scans", 1.0)
    np.save(tmp_path / "scans/scan1.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"scan1\.npy: cannot be read"):
        open_scans(tmp_path / "scans")
    np.save(tmp_path / "scans/scan1.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="expected int16"):
        open_scans(tmp_path / "scans")


@pytest.mark.parametrize(
    "index",
    [
        "[" * 100_000,
        "7",
        "[null]",
        '[{"name": "scan0", "spacing_mm": "x", "body": [[0, 1], [0, 1], [0, 1]]}]',
        '[{"name": "scan0", "spacing_mm": 1, "body": [[0, 1], [0, 1]]}]',
        '[{"name": "scan0", "spacing_mm": 1, "body": [[0, 1], [0, 1], [0, 99]]}]',
        '[{"name": "scan0", "spacing_mm": NaN, "body": [[0, 1], [0, 1], [0, 1]]}]',
    ],
)
def test_an_index_that_does_not_fit_its_scans_is_refused(tmp_path, index):
    save_scans(volumes(), tmp_path / "scans", 1.0)
    (tmp_path / "scans/scans.json").write_text(index)
    with pytest.raises(ValueError, match=r"scans: holds no prepared scans|scans\.json: scan0 has the body"):
        open_scans(tmp_path / "scans")
