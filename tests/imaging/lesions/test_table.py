"""Damaged tables of lesions end in one sentence that names the file."""

import pytest

from imaging.lesions.table import read_lesion_table

HEAD = "x,y,z,diameter_mm\n"


def test_rows_are_read_with_what_is_left_empty(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z,diameter_mm,seed,malignancy\n10,11,12,8.5,3,malignant\n,,,12,,\n")
    first, second = read_lesion_table(tmp_path / "a.csv")
    assert (first.center_zyx, first.diameter_mm, first.seed) == ((12, 11, 10), 8.5, 3)
    assert first.attributes == {"malignancy": "malignant"}
    assert (second.center_zyx, second.diameter_mm, second.seed, second.attributes) == (None, 12, None, {})


def test_a_row_may_name_the_label_of_its_shape(tmp_path):
    (tmp_path / "a.csv").write_text("label,seed,malignancy\n2,3,\n1,,5\n")
    first, second = read_lesion_table(tmp_path / "a.csv")
    assert (first.label, first.seed, second.label, second.attributes) == (2, 3, 1, {"malignancy": 5})


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (HEAD.encode() + b"1,2,3,\xff\xfe\n", "no text in UTF-8 .invalid start byte at byte 24"),
        ((HEAD + "1,2,3,4\n").encode("utf-16"), "no text in UTF-8"),
        (HEAD.encode() + b'"' + b"x" * 200_000, "no CSV table .field larger than field limit"),
        (b"," * 900 + b"\n", "expected diameter_mm among them"),
        (b"label\n0\n", "label '0', expected a whole number of at least 1"),
        (b"label,diameter_mm\n1,9\n", "neither diameter_mm nor x, y, z"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, content, fault):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.csv[:,].*{fault}"):
        read_lesion_table(tmp_path / "a.csv")


def test_a_place_may_be_physical_in_either_frame_and_only_one_place_is_taken(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("diameter_mm,x_lps,y_lps,z_lps\n9,-1.5,20,300\n8,,,\n")
    first, second = read_lesion_table(path)
    assert (first.center_mm, first.frame, first.center_zyx, first.attributes) == ((-1.5, 20, 300), "LPS", None, {})
    assert first.placed and not second.placed
    path.write_text("diameter_mm,x_ras,y_ras,z_ras\n9,1.5,-20,300\n")
    assert read_lesion_table(path)[0].frame == "RAS"
    path.write_text("diameter_mm,x,y,z,x_ras,y_ras,z_ras\n9,1,2,3,1.5,-20,300\n")
    with pytest.raises(ValueError, match="line 2: several places; give x, y, z, or x_lps"):
        read_lesion_table(path)
    path.write_text("diameter_mm,x_ras,y_ras\n9,1.5,-20\n")
    with pytest.raises(ValueError, match="line 2: 2 of x_ras, y_ras, z_ras; give all three"):
        read_lesion_table(path)
