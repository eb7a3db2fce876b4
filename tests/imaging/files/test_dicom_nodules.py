"""Nodules of DICOM segmentations and structure sets lie where they were drawn; what is none is left out or refused."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import AXIAL, contours_of, write_dicom_series, write_structure_set

from imaging.files.ct import find_dicom_slices, read_dicom_slices
from imaging.files.dicom_nodules import annotated_series, is_dicom_annotation, read_dicom_nodules
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import read_headers

SHAPE, SPACING_MM = (7, 16, 24), (2.5, 0.7, 0.6)
OBLIQUE = (np.cos(0.3), np.sin(0.3), 0.0, 0.0, 0.0, -1.0)
FIRST, SECOND, PAINTED, RING = np.zeros((4, *SHAPE), bool)
FIRST[2:4, 3:8, 5:9] = True
SECOND[3:5, 6:12, 7:20] = True  # overlaps the first
PAINTED[1:6, 2:14, 4:21] = True
RING[4:6, 2:14, 4:21] = True
RING[4:6, 5:10, 8:15] = False


@pytest.fixture(params=[AXIAL, OBLIQUE], ids=["axial", "oblique"])
def series(request, tmp_path) -> tuple[sitk.Image, list]:
    """A CT and its headers."""
    ct_hu = np.random.default_rng(0).integers(-1000, 500, SHAPE)
    write_dicom_series(tmp_path / "ct", ct_hu, SPACING_MM, orientation=request.param)
    files = find_dicom_slices(tmp_path / "ct")
    ct = read_dicom_slices(files)
    return ct, read_headers(files, ct)


def image(mask: np.ndarray, ct: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(mask.astype(np.uint8))
    result.CopyInformation(ct)
    return result


def test_segments_are_the_nodules_of_the_masks_that_were_written_and_a_region_is_none(series, tmp_path, capsys):
    ct, headers = series
    path = tmp_path / "seg.dcm"
    write_dicom_seg(headers, [image(FIRST, ct), image(SECOND, ct)], path, image(PAINTED, ct))
    labels, names = read_dicom_nodules(path, ct)
    np.testing.assert_array_equal(labels, np.where(FIRST, 1, 2 * SECOND))
    assert names == ["Synthetic lesion 1", "Synthetic lesion 2"]
    assert "not taken as nodules: Painted region" in capsys.readouterr().out
    assert is_dicom_annotation(path) and annotated_series(path) == headers[0].SeriesInstanceUID


def test_one_segment_holds_a_nodule_for_each_of_its_parts_also_on_one_slice(series, tmp_path):
    ct, headers = series
    parts = np.zeros(SHAPE, bool)
    parts[3, 2:5, 2:5] = parts[3, 9:12, 9:14] = True
    write_dicom_seg(headers, [image(parts, ct)], tmp_path / "seg.dcm")
    labels, names = read_dicom_nodules(tmp_path / "seg.dcm", ct)
    np.testing.assert_array_equal(labels > 0, parts)
    assert labels[3, 2, 2] == 1 and labels[3, 9, 9] == 2
    assert names == ["Synthetic lesion 1, part 1", "Synthetic lesion 1, part 2"]


def test_contours_enclose_the_voxels_they_were_drawn_around_with_their_holes(series, tmp_path, capsys):
    ct, headers = series
    masks = {"Nodule A": FIRST, "GTV": RING & ~FIRST, "Lung": PAINTED}
    contours = {name: contours_of(mask, ct) for name, mask in masks.items()}
    path = write_structure_set(tmp_path / "rt.dcm", headers[0].SeriesInstanceUID, contours)
    labels, names = read_dicom_nodules(path, ct)
    np.testing.assert_array_equal(labels, np.where(FIRST, 1, 2 * RING))
    assert names == ["Nodule A", "GTV"]
    assert "not taken as nodules: Lung" in capsys.readouterr().out
    assert is_dicom_annotation(path) and annotated_series(path) == headers[0].SeriesInstanceUID


def test_a_structure_set_without_a_structure_or_with_points_alone_names_no_nodule(series, tmp_path):
    for structures in ({}, {"Nodule": [np.zeros((1, 3))]}):
        path = write_structure_set(tmp_path / "rt.dcm", "1.2", structures, kind="POINT")
        labels, names = read_dicom_nodules(path, series[0])
        assert names == [] and not labels.any()


def test_ct_slices_and_files_of_other_kinds_are_no_annotation(series, tmp_path):
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "away.dcm").symlink_to("nowhere")
    for path in (series[1][0].filename, tmp_path / "empty.dcm", tmp_path / "away.dcm", __file__):
        assert not is_dicom_annotation(tmp_path / path)


def test_what_is_of_another_grid_or_place_or_names_no_nodule_is_refused(series, tmp_path):
    ct, headers = series
    write_dicom_seg(headers, [image(FIRST, ct)], tmp_path / "seg.dcm")
    finer, moved, beside = sitk.Image(ct), sitk.Image(ct), sitk.Image(ct)
    finer.SetSpacing((0.3, 0.35, 2.5))
    moved.SetOrigin(ct.TransformContinuousIndexToPhysicalPoint((0.5, 0, 0)))
    beside.SetOrigin(ct.TransformContinuousIndexToPhysicalPoint((9, 0, 0)))
    for other, message in (
        (finer, "Synthetic lesion 1 lies on another grid than the CT"),
        (moved, "Synthetic lesion 1 lies between the voxels of the CT"),
        (beside, "Synthetic lesion 1 leaves the CT; is it of another scan"),
    ):
        with pytest.raises(ValueError, match=rf"seg.dcm: {message}"):
            read_dicom_nodules(tmp_path / "seg.dcm", other)
    contours = {"Nodule": contours_of(FIRST, ct)}
    path = write_structure_set(tmp_path / "rt.dcm", "1.2", contours)
    between, far = sitk.Image(ct), sitk.Image(ct)
    between.SetOrigin(ct.TransformContinuousIndexToPhysicalPoint((0, 0, 0.5)))
    far.SetOrigin(ct.TransformContinuousIndexToPhysicalPoint((0, 0, 20)))
    for other, message in (
        (between, "Nodule has a contour that lies between slices"),
        (far, "Nodule has a contour beyond the slices"),
        (beside, "Nodule has a contour that leaves the CT"),
    ):
        with pytest.raises(ValueError, match=rf"rt.dcm: {message}"):
            read_dicom_nodules(path, other)
    path = write_structure_set(tmp_path / "organs.dcm", "1.2", {"Heart": [], "Lung": []})
    with pytest.raises(ValueError, match=r"organs.dcm: none of its structures is named as a nodule \(Heart, Lung\)"):
        read_dicom_nodules(path, ct)


def test_damaged_files_are_refused_in_one_line(series, tmp_path):
    ct, headers = series
    write_dicom_seg(headers, [image(FIRST, ct)], tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    del dataset.PixelData
    dataset.save_as(tmp_path / "seg.dcm")
    contours = {"Nodule": [np.arange(12.0).reshape(4, 3)]}
    path = write_structure_set(tmp_path / "rt.dcm", "1.2", contours)
    dataset = pydicom.dcmread(path)
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    dataset.save_as(path)
    for name in ("seg.dcm", "rt.dcm"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read") as raised:
            read_dicom_nodules(tmp_path / name, ct)
        assert "\n" not in str(raised.value)
