"""Text files from outside: what is too large or damaged is refused by one sentence that names the file."""

import pytest

from foundation import text_files
from foundation.text_files import read_csv, read_json, read_text, reason_of


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_text(tmp_path / "a.txt") == "one\r\ntwo"


def test_a_table_has_rows_by_column_with_their_lines(tmp_path):
    (tmp_path / "a.csv").write_text('name,note\na,"two\nlines"\n\nb\n')
    columns, rows = read_csv(tmp_path / "a.csv")
    assert columns == ["name", "note"]
    assert rows == [(3, {"name": "a", "note": "two\nlines"}), (5, {"name": "b"})]


@pytest.mark.parametrize(
    ("read", "content", "fault"),
    [
        (read_text, b"a\xff", r": no text in UTF-8 \(invalid start byte at byte 1\)"),
        (read_text, b"a" * 1001, ": 1001 bytes, expected at most 1000"),
        (read_json, b"[" * 999, ": no JSON"),
        (read_json, b'{"a": ' + b"9" * 900, ": no JSON"),
        (read_json, b"[1]", ": a JSON list, expected an object with names"),
        (read_csv, b'a,b\n1,"' + b"x" * 200_000, ", line 2: no CSV table .field larger than field limit"),
        (read_csv, b"a,b\n1,2,3\n", ", line 2: more cells than columns"),
        (read_csv, b"," * 900, ": 901 columns, expected at most 20"),
        (read_csv, b"a\n" * 100, ": more than 50 rows"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, monkeypatch, read, content, fault):
    monkeypatch.setattr(text_files, "MOST_COLUMNS", 20)
    monkeypatch.setattr(text_files, "MOST_ROWS", 50)
    (tmp_path / "a").write_bytes(content)
    options = {"largest": 1000} if read is read_text else {}
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a{fault}") as raised:
        read(tmp_path / "a", **options)
    assert "\n" not in str(raised.value)


def test_a_reason_is_one_line_of_a_stated_length():
    assert reason_of(ValueError("a\n\tb" + "c" * 1000)) == "ValueError: a b" + "c" * 185
