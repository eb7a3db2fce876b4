"""The benchmark of a whole scan, on a small one."""

import multiprocessing

import pytest
import SimpleITK as sitk

from benchmarks.speed import whole_scan


@pytest.mark.slow
def test_whole_scan_times_both_formats_and_finds_them_equal(chain, tmp_path, capsys, forked_processes, monkeypatch):
    monkeypatch.setattr(whole_scan, "get_context", multiprocessing.get_context)
    config = whole_scan.Config(
        pipeline=chain.ldm / "pipeline",
        shape=(45, 60, 66),
        spacing_mm=(5.0, 4.0, 4.0),
        steps=1,
        threads=1,
        work=tmp_path,
    )
    whole_scan.main(config)
    printed = capsys.readouterr().out
    assert "| NIfTI |" in printed and "| DICOM |" in printed and "both results are the same, to the bit" in printed
    nowhere = sitk.ReadImage(str(tmp_path / "NIfTI/paint_mask.nii.gz")) * 0
    sitk.WriteImage(nowhere, str(tmp_path / "NIfTI/paint_mask.nii.gz"))
    with pytest.raises(ValueError, match="expected a change in the painted region and nowhere else"):
        whole_scan.check(tmp_path)
