import numpy as np
import pytest
from lidc_factory import RATINGS, nodule, roi, write_annotation

from imaging.dataset.nodules import RATINGS as DATASET_RATINGS
from imaging.lidc.xml import RATING_ELEMENTS, read_annotation

SQUARE = [(3, 4), (6, 4), (6, 8), (3, 8)]


def test_ratings_have_the_names_of_the_dataset():
    assert tuple(RATING_ELEMENTS) == DATASET_RATINGS


def test_marks_of_all_sizes_are_told_apart_and_counted(tmp_path):
    sessions = [
        [nodule("a", [roi(SQUARE, -12.5, "1.2.3")]), nodule("small", [roi([(1, 2)], 3.0)], None)],
        [nodule("empty ratings", [roi([(1, 2)], 3.0)], {}), "<nonNodule><nonNoduleID>x</nonNoduleID></nonNodule>"],
        [],
    ]
    reading = read_annotation(write_annotation(tmp_path / "a.xml", "9.8.7", sessions))
    assert (reading.series_uid, reading.readers, reading.small_nodules, reading.non_nodules) == ("9.8.7", 3, 2, 1)
    (mark,) = reading.marks
    assert mark.reader == 0 and mark.ratings["malignancy"] == RATINGS["malignancy"]
    assert mark.ratings["internal_structure"] == RATINGS["internalStructure"]
    (contour,) = mark.contours
    assert (contour.sop_uid, contour.z_mm, contour.inclusion) == ("1.2.3", -12.5, True)
    np.testing.assert_array_equal(contour.points_xy, SQUARE)


@pytest.mark.parametrize("namespace", ["", "http://www.nih.gov", "http://www.nih.gov/idri", "urn:other"])
def test_any_namespace_is_read(tmp_path, namespace):
    path = write_annotation(tmp_path / "a.xml", "1.2", [[nodule("a", [roi(SQUARE, 1.0)])]], namespace=namespace)
    assert len(read_annotation(path).marks) == 1


def test_a_rating_outside_its_scale_counts_as_not_given(tmp_path):
    ratings = RATINGS | {"malignancy": 0, "texture": 6, "calcification": 6, "margin": "", "internalStructure": 5}
    reading = read_annotation(write_annotation(tmp_path / "a.xml", "1", [[nodule("a", [roi(SQUARE, 1.0)], ratings)]]))
    absent = {name for name, value in reading.marks[0].ratings.items() if value is None}
    assert absent == {"malignancy", "texture", "margin", "internal_structure"}


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (nodule("a", [roi(SQUARE, 1.0)], None), "outlined but without ratings"),
        (nodule("a", [roi([(1, 1)], 1.0)]), "rated but without an outline"),
        (nodule("a", [], None), "neither outline nor ratings"),
        (nodule("a", [roi([], 1.0)]), "without edgeMap points"),
        (nodule("a", [roi(SQUARE)]), "its slice is unknown"),
        (nodule("a", [roi(SQUARE, 1.0, inclusion="MAYBE")]), "inclusion `MAYBE`, expected TRUE or FALSE"),
        (nodule("a", [roi([("x", 1), (2, 2)], 1.0)]), "unreadable coordinate"),
    ],
)
def test_a_mark_that_cannot_be_used_is_named_with_its_reason(tmp_path, mark, reason):
    reading = read_annotation(write_annotation(tmp_path / "a.xml", "1", [[], [mark]]))
    assert reading.marks == () and reading.small_nodules == 0
    ((name, why),) = reading.unusable
    assert name == "reader 1 a" and reason in why


def test_files_that_are_no_ct_annotation_are_refused(tmp_path):
    broken = tmp_path / "broken.xml"
    broken.write_text("<LidcReadMessage><readingSession></LidcReadMessage>")
    with pytest.raises(ValueError, match=r"broken\.xml: broken XML"):
        read_annotation(broken)
    with pytest.raises(ValueError, match="root element `IdriReadMessage`, expected `LidcReadMessage`"):
        read_annotation(write_annotation(tmp_path / "x.xml", "1", [], root="IdriReadMessage"))
    with pytest.raises(ValueError, match="no SeriesInstanceUid"):
        read_annotation(write_annotation(tmp_path / "y.xml", "", []))


@pytest.mark.real_data
def test_a_real_annotation_holds_four_readers_of_one_nodule(real_data_dir):
    (path,) = (real_data_dir / "lidc_dicom" / "LIDC-IDRI-0001").rglob("*.xml")
    reading = read_annotation(path)
    assert reading.readers == 4 and [mark.reader for mark in reading.marks] == [0, 1, 2, 3]
    assert [mark.ratings["malignancy"] for mark in reading.marks] == [5, 5, 5, 4]
    assert [mark.ratings["lobulation"] for mark in reading.marks] == [3, 5, 3, 1]
    assert reading.unusable == () and reading.non_nodules == 13


def test_numbers_that_no_scan_has_cost_their_mark_alone(tmp_path):
    huge = nodule("huge", [roi([(3, 10**30), (4, 4)], -12.5, "1.2.3")])
    write_annotation(tmp_path / "a.xml", "1.2.3", [[huge, nodule("good", [roi(SQUARE, -12.5, "1.2.3")])]])
    text = (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_text(text.replace(f"<subtlety>{RATINGS['subtlety']}<", f"<subtlety>{'9' * 5000}<"))
    reading = read_annotation(tmp_path / "a.xml")
    assert [mark.nodule_id for mark in reading.marks] == ["reader 0 good"]
    assert reading.marks[0].ratings["subtlety"] is None
    assert [name for name, reason in reading.unusable if "unreadable coordinate" in reason] == ["reader 0 huge"]


@pytest.mark.parametrize("encoding", ["utf-7", "klingon", "zlib", "idna"])
def test_an_encoding_that_cannot_be_read_is_refused(tmp_path, encoding):
    path = tmp_path / "a.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><LidcReadMessage/>')
    with pytest.raises(ValueError, match=rf"{path}: (broken XML|no SeriesInstanceUid)"):
        read_annotation(path)
