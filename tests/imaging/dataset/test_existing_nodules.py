"""The nodules of a scan's own: whose file it is, and what it says on the scan's grid."""

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_factory import contours_of, write_dicom_series, write_structure_set
from lidc_factory import nodule, outline, roi, write_annotation

from imaging.dataset.existing_nodules import existing_rows, pair_existing, read_existing
from imaging.files.ct import find_dicom_slices, read_ct, write_ct
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import read_headers
from imaging.files.scan_folder import find_scans

SHAPE, SPACING_MM, ORIGIN_MM = (10, 40, 48), (2.5, 0.7, 0.7), (-100.0, -80.0, 40.0)


def image_of(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin(ORIGIN_MM)
    return image


def ball(center_zyx, radius: float) -> np.ndarray:
    axes = np.indices(SHAPE) - np.reshape(center_zyx, (3, 1, 1, 1))
    return (axes**2).sum(axis=0) <= radius**2


def marks_of(mask: np.ndarray, name: str) -> str:
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    return nodule(name, [roi(outline(mask[k]), ORIGIN_MM[2] + k * SPACING_MM[0]) for k in slices])


@pytest.fixture
def ct_hu() -> np.ndarray:
    return np.random.default_rng(0).normal(-800, 20, SHAPE).astype(np.int16)


def test_each_scan_gets_the_file_of_its_path_its_name_or_its_series(tmp_path, ct_hu):
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    for name in ("a.nii.gz", "b/ct.mha", "c/ct.mha", "d.nii", "e.nii"):
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        (scans / name).touch()
    uid = write_dicom_series(scans / "patient/series", ct_hu[:2])
    for name in ("a.mha", "b/ct.nii.gz", "c/ct.nii.gz", "elsewhere/d.nii.gz", "1/e.nii.gz", "2/e.nii.gz", "notes.txt"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        (masks / name).touch()
    write_annotation(masks / "071.xml", uid, [])
    pairs = {
        str(scan.relative_to(scans)): str(path.relative_to(masks))
        for scan, path in pair_existing(masks, scans, find_scans(scans)).items()
    }
    assert pairs == {
        "a.nii.gz": "a.mha",
        "b/ct.mha": "b/ct.nii.gz",
        "c/ct.mha": "c/ct.nii.gz",
        "d.nii": "elsewhere/d.nii.gz",
        "patient/series": "071.xml",
    }  # two files could be those of e


def test_xml_files_may_lie_among_the_slices_and_a_scan_is_never_its_own_mask(tmp_path, ct_hu):
    uid = write_dicom_series(tmp_path / "patient", ct_hu[:2])
    write_annotation(tmp_path / "patient/x.xml", uid, [])
    write_ct(image_of(ct_hu), tmp_path / "a.nii.gz")
    assert pair_existing(tmp_path, tmp_path, find_scans(tmp_path)) == {tmp_path / "patient": tmp_path / "patient/x.xml"}


def test_labels_are_a_nodule_each_and_one_label_is_a_nodule_for_each_part(tmp_path):
    first, second = ball((4, 12, 12), 3), ball((5, 30, 30), 4)
    ct = image_of(np.zeros(SHAPE, np.int16))
    write_ct(image_of((4 * first + 9 * second).astype(np.uint8)), tmp_path / "instances.nii.gz")
    write_ct(image_of((first | second).astype(np.uint8)), tmp_path / "mask.nii.gz")
    for name in ("instances", "mask"):
        found = read_existing(tmp_path / f"{name}.nii.gz", tmp_path / "scan.nii.gz", ct)
        np.testing.assert_array_equal(found.labels, 1 * first + 2 * second)
        assert found.sources == [f"{name}.nii.gz: nodule 1", f"{name}.nii.gz: nodule 2"]
    rows = list(existing_rows(found, ct, first_label=4))
    assert [row["label"] for row in rows] == [4, 5]
    for row, center, mask in zip(rows, ((4, 12, 12), (5, 30, 30)), (first, second), strict=True):
        assert row["center_zyx"] == pytest.approx(center)
        assert row["center_mm"] == pytest.approx(ct.TransformContinuousIndexToPhysicalPoint(center[::-1]))
        assert row["volume_mm3"] == pytest.approx(mask.sum() * np.prod(SPACING_MM))


def test_an_empty_label_image_is_a_scan_without_nodules(tmp_path):
    write_ct(image_of(np.zeros(SHAPE, np.uint8)), tmp_path / "none.nii.gz")
    found = read_existing(tmp_path / "none.nii.gz", tmp_path, image_of(np.zeros(SHAPE, np.int16)))
    assert not found.labels.any() and list(existing_rows(found, image_of(np.zeros(SHAPE, np.int16)), 2)) == []


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan])
def test_values_that_are_no_labels_are_refused(tmp_path, value):
    labels = np.zeros(SHAPE, np.float32)
    labels[2, 3, 4], labels[3, 3, 4] = value, 1
    write_ct(image_of(labels), tmp_path / "m.nii.gz")
    with pytest.raises(ValueError, match=r"m.nii.gz: .*(whole number above 0|not finite|finite)"):
        read_existing(tmp_path / "m.nii.gz", tmp_path, image_of(np.zeros(SHAPE, np.int16)))


def test_labels_on_another_grid_are_refused(tmp_path):
    write_ct(image_of(np.zeros((9, 40, 48), np.uint8)), tmp_path / "m.nii.gz")
    with pytest.raises(ValueError, match=r"m\.nii\.gz"):
        read_existing(tmp_path / "m.nii.gz", tmp_path, image_of(np.zeros(SHAPE, np.int16)))


@pytest.fixture
def readings() -> tuple[list[list[str]], list[np.ndarray]]:
    """Two readers agree on a nodule that a third drew larger; the third alone marked another."""
    small, large, other = ball((5, 12, 12), 3), ball((5, 12, 12), 4), ball((4, 28, 34), 3)
    sessions = [[marks_of(small, "a")], [marks_of(small, "b")], [marks_of(large, "c"), marks_of(other, "d")]]
    return sessions, [small, other]


def test_lidc_readers_of_a_dicom_series_agree_on_nodules(tmp_path, ct_hu, readings):
    uid = write_dicom_series(tmp_path / "scan", ct_hu, SPACING_MM, origin_xyz_mm=ORIGIN_MM)
    path = write_annotation(tmp_path / "a.xml", uid, readings[0])
    found = read_existing(path, tmp_path / "scan", read_ct(tmp_path / "scan"))
    np.testing.assert_array_equal(found.labels, 1 * readings[1][0] + 2 * readings[1][1])
    assert found.sources == ["a.xml: reader 0 a, reader 1 b, reader 2 c", "a.xml: reader 2 d"]
    assert found.readers == [3, 1]


@pytest.mark.parametrize("axes", ["LPS", "RAS", "ASL"])
def test_lidc_readers_of_a_nifti_scan_are_matched_however_its_axes_are_stored(tmp_path, ct_hu, readings, axes):
    ct = sitk.DICOMOrient(image_of(ct_hu), axes)
    write_ct(ct, tmp_path / "scan.nii.gz")
    path = write_annotation(tmp_path / "scan.xml", "1.2.3", readings[0])
    found = read_existing(path, tmp_path / "scan.nii.gz", read_ct(tmp_path / "scan.nii.gz"))
    expected = image_of((1 * readings[1][0] + 2 * readings[1][1]).astype(np.uint8))
    np.testing.assert_array_equal(found.labels, sitk.GetArrayFromImage(sitk.DICOMOrient(expected, axes)))


def test_an_annotation_of_another_series_is_refused(tmp_path, ct_hu, readings):
    write_dicom_series(tmp_path / "scan", ct_hu, SPACING_MM, origin_xyz_mm=ORIGIN_MM)
    path = write_annotation(tmp_path / "a.xml", "1.2.3", readings[0])
    with pytest.raises(ValueError, match=r"a.xml: of the series 1.2.3, expected that of .*scan"):
        read_existing(path, tmp_path / "scan", read_ct(tmp_path / "scan"))
    far = write_annotation(tmp_path / "far.xml", "1.2.3", [[nodule("n", [roi([(1, 1), (1, 5), (5, 5)], 900.0)])]])
    write_ct(image_of(ct_hu), tmp_path / "far.nii.gz")
    with pytest.raises(ValueError, match=r"far.xml: none of its 1 marks lies in .*not in the scan"):
        read_existing(far, tmp_path / "far.nii.gz", image_of(ct_hu))


def test_a_mark_that_cannot_be_used_is_told(tmp_path, ct_hu, readings, capsys):
    sessions = [*readings[0], [nodule("dot", [roi([(1, 1), (2, 1)], ORIGIN_MM[2])])]]
    path = write_annotation(tmp_path / "scan.xml", "1.2.3", sessions)
    assert len(read_existing(path, tmp_path / "scan.nii.gz", image_of(ct_hu)).sources) == 2
    assert "scan.xml: reader 3 dot is not among the labels: zero area" in capsys.readouterr().out


def test_a_segmentation_and_a_structure_set_are_found_by_their_series_and_are_no_scans(tmp_path, ct_hu):
    nodules = ball((4, 12, 12), 3), ball((5, 30, 30), 4)
    scans = [tmp_path / name / "ct" for name in ("a", "b")]
    uids = [write_dicom_series(scan, ct_hu, SPACING_MM, origin_xyz_mm=ORIGIN_MM) for scan in scans]
    cts = [read_ct(scan) for scan in scans]
    (tmp_path / "a/seg").mkdir()
    masks = [sitk.Cast(image_of(mask.astype(np.uint8)), sitk.sitkUInt8) for mask in nodules]
    write_dicom_seg(read_headers(find_dicom_slices(scans[0]), cts[0]), masks, tmp_path / "a/seg/1-1.dcm")
    contours = {f"Nodule {number}": contours_of(mask, cts[1]) for number, mask in enumerate(nodules, 1)}
    write_structure_set(scans[1] / "1-1.dcm", uids[1], contours)  # among the slices
    assert find_scans(tmp_path) == scans
    pairs = pair_existing(tmp_path, tmp_path, scans)
    assert pairs == {scans[0]: tmp_path / "a/seg/1-1.dcm", scans[1]: scans[1] / "1-1.dcm"}
    for scan, ct, name in zip(scans, cts, ("Synthetic lesion", "Nodule"), strict=True):
        found = read_existing(pairs[scan], scan, read_ct(scan))
        np.testing.assert_array_equal(found.labels, 1 * nodules[0] + 2 * nodules[1])
        assert found.sources == [f"1-1.dcm: {name} 1", f"1-1.dcm: {name} 2"] and found.readers == [None, None]
        assert [row["label"] for row in existing_rows(found, ct, 4)] == [4, 5]
    write_structure_set(tmp_path / "again.dcm", uids[0], contours)
    with pytest.raises(ValueError, match=r"1-1.dcm and .*again.dcm: both name nodules of the series .*; leave one"):
        pair_existing(tmp_path, tmp_path, scans)


@pytest.mark.real_data
def test_the_cancer_of_a_real_scan_is_found(real_data_dir):
    scan = real_data_dir / "lidc_dicom/LIDC-IDRI-0001"
    (found,) = pair_existing(scan, scan, find_scans(scan)).items()
    ct = read_ct(found[0])
    (row,) = existing_rows(read_existing(found[1], found[0], ct), ct, 1)
    assert row["readers"] == 4 and 20 < (6 * row["volume_mm3"] / np.pi) ** (1 / 3) < 30  # a mass in the right lung
