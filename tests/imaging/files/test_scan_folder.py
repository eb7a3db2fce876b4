import numpy as np
import pytest
from dicom_factory import write_dicom_series

from imaging.files.ct import find_dicom_slices
from imaging.files.scan_folder import find_scans
from imaging.lidc.scans import find_scans as find_lidc_scans


def test_series_and_files_are_found_at_any_depth_in_order_and_nothing_else(tmp_path):
    for name in ("b.nii.gz", "deep/er/A.NII", "c.mha", "patient/ct/1.dcm", "patient/ct/2.dcm", "notes.txt", "x.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_scans(tmp_path)]
    assert found == ["b.nii.gz", "c.mha", "deep/er/A.NII", "patient/ct"]


def test_a_folder_without_scans_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no DICOM series, no NIfTI and no MetaImage file below it; check --scans"):
        find_scans(tmp_path)


def test_a_linked_patient_is_found_as_by_the_reader_of_lidc_and_a_link_that_loops_ends(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write_dicom_series(elsewhere / "ct", np.zeros((2, 8, 8), np.int16))
    (elsewhere / "back").symlink_to(root)
    (root / "p1").mkdir(parents=True)
    (root / "p1/a.nii").touch()
    (root / "p1/self").symlink_to(root)
    (root / "p0").symlink_to(root / "p1")
    (root / "p2").symlink_to(elsewhere)
    (root / "p3").symlink_to(elsewhere)
    found = [str(path.relative_to(root)) for path in find_scans(root)]
    assert found == ["p1/a.nii", "p2/ct"]
    _, left_out = find_lidc_scans(root)
    assert [entry.item for entry in left_out] == [str(root / "p2/ct")]  # it has no annotation
    assert len(find_dicom_slices(root)) == 2
    (root / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"root/loop: a link that leads nowhere or to itself; remove it"):
        find_dicom_slices(root)
