"""A DICOM segmentation holds the masks of synthetic lesions on the derived series, for highdicom and SimpleITK."""

import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series

from imaging.files.ct import find_dicom_slices, read_dicom_slices
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import read_headers
from imaging.files.dicom_series import write_dicom_series as write_derived

SHAPE = (7, 16, 24)
COSINE, SINE = np.cos(0.3), np.sin(0.3)
OBLIQUE = (COSINE, SINE, 0.0, 0.0, 0.0, -1.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
FIRST, SECOND, PAINTED = np.zeros((3, *SHAPE), np.uint8)
FIRST[2:4, 3:8, 5:9] = 1
SECOND[3:5, 6:12, 7:20] = 1  # overlaps the first
PAINTED[1:6, 2:14, 4:21] = 1


@pytest.fixture(params=[AXIAL, OBLIQUE], ids=["axial", "oblique"])
def series(request, tmp_path) -> tuple[sitk.Image, list]:
    """A CT and the headers of the series derived from it."""
    ct_hu = np.random.default_rng(0).integers(-1000, 500, SHAPE)
    write_dicom_series(
        tmp_path / "source", ct_hu, (2.5, 0.7, 0.6), orientation=request.param, PatientName="Kowalska^Anna"
    )
    files = find_dicom_slices(tmp_path / "source")
    ct = read_dicom_slices(files)
    return ct, write_derived(ct, read_headers(files, ct), tmp_path / "ct", "Painted for a test")


def image(mask: np.ndarray, ct: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(mask)
    result.CopyInformation(ct)
    return result


def written(series: tuple[sitk.Image, list], path: Path) -> "hd.seg.Segmentation":
    ct, headers = series
    write_dicom_seg(headers, [image(FIRST, ct), image(255 * SECOND, ct)], path, image(PAINTED, ct), "ab" * 32)
    return hd.seg.segread(path)


def test_every_mask_comes_back_from_highdicom_by_the_slices_of_the_series(series, tmp_path):
    segmentation = written(series, tmp_path / "seg.dcm")
    headers = series[1]
    uids = [header.SOPInstanceUID for header in headers]
    found = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert found.shape == (*SHAPE, 3)
    for number, mask in enumerate((FIRST, SECOND, PAINTED)):
        np.testing.assert_array_equal(found[..., number], mask)
    (referenced,) = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == set(uids)


def test_simpleitk_reads_each_frame_where_the_lesion_is(series, tmp_path):
    """Frame by frame, by the places in the header: ITK itself does not know about segments."""
    segmentation = written(series, tmp_path / "seg.dcm")
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "seg.dcm")))
    ct, total = series[0], 0
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        index = round(ct.TransformPhysicalPointToContinuousIndex(place.tolist())[2])
        np.testing.assert_array_equal(frame > 0, (FIRST, SECOND, PAINTED)[segment - 1][index] > 0)
        total += int((frame > 0).sum())
    assert total == FIRST.sum() + SECOND.sum() + PAINTED.sum()


def test_lesions_are_nodules_of_the_lung_and_say_that_they_are_synthetic(series, tmp_path):
    segmentation = written(series, tmp_path / "seg.dcm")
    headers = series[1]
    descriptions = [segmentation.get_segment_description(number) for number in (1, 2, 3)]
    assert [d.segment_label for d in descriptions] == ["Synthetic lesion 1", "Synthetic lesion 2", "Painted region"]
    assert [d.segmented_property_type.value for d in descriptions] == ["27925004", "27925004", "111099"]
    assert {d.anatomic_regions[0].value for d in descriptions} == {"39607008"}
    assert {name for name, _ in segmentation.get_tracking_ids()} == {d.segment_label for d in descriptions}
    assert "Synthetic" in segmentation.SeriesDescription and "Synthetic" in segmentation.ImageComments
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert segmentation[keyword].value == headers[0][keyword].value
    assert segmentation.SeriesInstanceUID != headers[0].SeriesInstanceUID
    assert b"Kowalska" not in (tmp_path / "seg.dcm").read_bytes()


def test_the_same_masks_give_the_same_bytes_and_others_other_uids(series, tmp_path):
    first = written(series, tmp_path / "a.dcm")
    written(series, tmp_path / "b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    write_dicom_seg(series[1], [image(FIRST, series[0])], tmp_path / "c.dcm")
    other = hd.seg.segread(tmp_path / "c.dcm")
    assert other.SOPInstanceUID != first.SOPInstanceUID and other.number_of_segments == 1


def test_masks_that_are_none_are_refused(series, tmp_path):
    ct, headers = series
    good = image(FIRST, ct)
    for masks, message in (
        ([], "no lesion_masks, expected at least one"),
        ([good, good * 0], "mask 2 is empty, expected at least one voxel above 0"),
        ([good[1:]], r"mask 1 has \(23, 16, 7\) voxels \(x, y, z\), expected the series' \(24, 16, 7\)"),
        ([image(FIRST + 2 * SECOND, ct)], "mask 1 has the values 0 and 1, 2, 3; expected 0 and one positive value"),
    ):
        with pytest.raises(ValueError, match=message):
            write_dicom_seg(headers, masks, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy, of Debian's dicom3tools")
def test_dciodvfy_finds_no_error(series, tmp_path):
    written(series, tmp_path / "seg.dcm")
    ended = subprocess.run(["dciodvfy", str(tmp_path / "seg.dcm")], capture_output=True, text=True)
    assert "Segmentation" in ended.stderr and "Error" not in ended.stderr, ended.stderr
