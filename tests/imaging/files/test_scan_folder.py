import pytest

from imaging.files.scan_folder import find_scans


def test_series_and_files_are_found_at_any_depth_in_order_and_nothing_else(tmp_path):
    for name in ("b.nii.gz", "deep/er/A.NII", "c.mha", "patient/ct/1.dcm", "patient/ct/2.dcm", "notes.txt", "x.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_scans(tmp_path)]
    assert found == ["b.nii.gz", "c.mha", "deep/er/A.NII", "patient/ct"]


def test_a_folder_without_scans_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no DICOM series, no NIfTI and no MetaImage file below it; check --scans"):
        find_scans(tmp_path)
