"""Tables as data frames: what numbers and texts are, and one sentence for what is no table."""

import pytest

from imaging.files.csv_table import read_frame, text_columns


def test_a_column_named_as_text_stays_text_and_others_are_numbers_where_they_can(tmp_path):
    (tmp_path / "a.csv").write_text("nodule,size,note\n007,1.5,a\n8,,2\n")
    table = read_frame(tmp_path / "a.csv", ("nodule",), ("nodule", "size"))
    assert table["nodule"].tolist() == ["007", "8"] and table["size"][0] == 1.5
    assert text_columns(table, ("size", "note", "absent")) == ["note"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a,b\n1,2\n1,2,3\n", "cannot be read as a CSV table .ParserError: .*Expected 2 fields in line 3, saw 3"),
        ("," * 10_000 + "\n1,2\n", "10001 columns, expected at most 1000"),
        ("", "cannot be read as a CSV table .EmptyDataError"),
        ("b\n1\n", "lacks the columns a; it has b"),
    ],
)
def test_a_damaged_table_is_named_in_one_line(tmp_path, content, fault):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"a\.csv: {fault}") as raised:
        read_frame(tmp_path / "a.csv", (), ("a",))
    assert "\n" not in str(raised.value)
