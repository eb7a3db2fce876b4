"""Whole scans, from files to patches."""

import numpy as np
import pytest
import SimpleITK as sitk

from imaging.dataset.scan_volumes import open_scans
from scripts.prepare_scans import PrepareScansConfig, isotropic, main


def scan(shape=(10, 20, 24), spacing_zyx=(2.5, 0.8, 0.8)):
    """A ramp along x, 10 HU per mm."""
    x = np.indices(shape)[2]
    image = sitk.GetImageFromArray((x * spacing_zyx[2] * 10 - 900).astype(np.int16))
    image.SetSpacing(spacing_zyx[::-1])
    return image


def test_isotropic_scan_keeps_positions_and_stays_inside():
    ct_hu = isotropic(scan(), 1.0)
    assert ct_hu.shape == (23, 16, 19)
    steps = np.diff(ct_hu, axis=2)
    assert np.allclose(steps, 10, atol=1.5)
    assert ct_hu.min() >= -900 and ct_hu.max() <= -900 + 10 * 23 * 0.8 + 1


def test_scans_below_a_folder_are_prepared_and_broken_ones_are_named(tmp_path, capsys):
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    sitk.WriteImage(scan(), root / "deep/a.nii.gz")
    sitk.WriteImage(scan((12, 14, 16)), root / "b.mha")
    (root / "c.nii").write_bytes(b"no image")
    main(PrepareScansConfig(root, tmp_path / "out"))
    assert [entry.name for entry, _ in open_scans(tmp_path / "out")] == ["b.mha", "deep_a.nii.gz"]
    printed = capsys.readouterr().out
    assert "2 scans" in printed and "left out" in printed and "c.nii" in printed


def test_wrong_input_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="no DICOM series"):
        main(PrepareScansConfig(tmp_path, tmp_path / "out"))
    with pytest.raises(ValueError, match="spacing_mm 0"):
        main(PrepareScansConfig(tmp_path, tmp_path / "out", spacing_mm=0))
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        main(PrepareScansConfig(tmp_path, tmp_path / "out"))
