"""What is written for a scan: all of it, boxes around its lesions, or rows alone where there is no lesion."""

import numpy as np
import pytest
import SimpleITK as sitk

from imaging.dataset.synthetic_scans import CROP_MM, ROWS, write_synthetic_scan
from imaging.files.ct import read_ct

SPACING_MM, CENTRE = (4.0, 3.0, 3.0), (15.0, 30.0, 40.0)
MADE = {"lesion": 3, "attempt": 1, "accepted": True, "label": 2, "center_zyx": list(CENTRE)}
REJECTED = {"lesion": 2, "attempt": 0, "accepted": False, "reason": "no site", "detail": "found 0 places"}


def image_of(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin((-90.0, 20.0, -300.0))
    return image


@pytest.fixture
def scan() -> tuple[sitk.Image, sitk.Image]:
    """HU, and labels of two lesions."""
    ct_hu = np.random.default_rng(0).integers(-1000, 400, (40, 80, 96)).astype(np.int16)
    labels = np.zeros(ct_hu.shape, np.uint8)
    labels[14:17, 29:32, 39:42], labels[20:22, 29:32, 39:42] = 2, 1
    return image_of(ct_hu), image_of(labels)


@pytest.mark.parametrize("write", ["scans", "crops", "both"])
def test_a_scan_its_crops_or_both_are_written_on_the_scans_grid(scan, tmp_path, write):
    ct, labels = scan
    folder = tmp_path / "0"
    write_synthetic_scan(folder, [REJECTED, MADE], ct, labels, write)
    whole, crops = {"ct.nii.gz", "lesions.nii.gz"}, {"0000003_ct.nii.gz", "0000003_mask.nii.gz"}
    expected = {ROWS} | (whole if write != "crops" else set()) | (crops if write != "scans" else set())
    assert {path.name for path in folder.iterdir()} == expected
    if write != "crops":
        found = read_ct(folder / "ct.nii.gz")
        assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(ct))
        assert found.GetOrigin() == pytest.approx(ct.GetOrigin())
    if write != "scans":
        crop = sitk.ReadImage(str(folder / "0000003_mask.nii.gz"))
        size = np.array(crop.GetSize()[::-1]) * SPACING_MM
        assert (np.abs(size - CROP_MM) <= np.multiply(SPACING_MM, 2)).all()
        start = ct.TransformPhysicalPointToIndex(crop.GetOrigin())
        box = tuple(slice(at, at + extent) for at, extent in zip(start, crop.GetSize(), strict=True))
        assert np.array_equal(sitk.GetArrayFromImage(crop), sitk.GetArrayFromImage(labels[box]) == 2)
        found = sitk.ReadImage(str(folder / "0000003_ct.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(ct[box]))


def test_rows_alone_are_written_where_nothing_was_accepted_or_read(scan, tmp_path):
    write_synthetic_scan(tmp_path / "a", [REJECTED], *scan, "both")
    write_synthetic_scan(tmp_path / "b", [REJECTED], None, None, "both")
    assert [path.name for folder in "ab" for path in (tmp_path / folder).iterdir()] == [ROWS, ROWS]
