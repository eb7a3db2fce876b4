"""The file of answers: it only grows, loses nothing and holds nothing twice; and the readers' tokens."""

import os

import pytest

from evaluation.reading.answers import Answer, AnswerFile, read_answers
from evaluation.reading.readers import READERS, reader_of, reader_tokens


def answer(position: int, reader: str = "anna") -> Answer:
    return Answer(reader, position, 10 + position, "first", "real", 3, 4.25, "2026-01-01T10:00:00+00:00")


def test_answers_are_read_back_as_they_were_given(tmp_path):
    file = AnswerFile(tmp_path / "answers.csv")
    given = [answer(1), answer(1, "ben"), answer(2)]
    for one in given:
        file.append(one)
    assert read_answers(tmp_path / "answers.csv") == given == AnswerFile(tmp_path / "answers.csv").answers
    assert file.of("anna") == [given[0], given[2]]
    assert (tmp_path / "answers.csv").read_text().splitlines()[1].startswith("anna,1,11,first,real,3,4.25,2026")


def test_a_line_that_a_power_cut_left_incomplete_is_cut_off(tmp_path):
    path = tmp_path / "answers.csv"
    file = AnswerFile(path)
    file.append(answer(1))
    whole = path.read_bytes()
    for length in range(1, 40):
        path.write_bytes(whole + b"anna,2,12,first,synthetic,5,1.0,2026-01-01T10:00:00+00:00"[:length])
        assert AnswerFile(path).answers == [answer(1)] and path.read_bytes() == whole
    path.write_bytes(b"reader,posi")  # killed while the file was made
    assert AnswerFile(path).answers == []


def test_an_answer_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = AnswerFile(tmp_path / "answers.csv")
    file.append(answer(1))
    before = file.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        file.append(answer(2))
    assert file.path.read_bytes() == before and file.answers == [answer(1)]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("anna,1,11,first,real,3,4.25,now", "anna answers position 1 twice"),
        ("anna,2,11,first,maybe,3,4.25,now", "line 3: kind 'first', verdict 'maybe'"),
        ("anna,2,11,first,real,6,4.25,now", "confidence '6'"),
        ("anna,2,11", "line 3: 3 columns, expected 8"),
        ("anna,two,11,first,real,3,4.25,now", "line 3: invalid literal"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, sentence):
    file = AnswerFile(tmp_path / "answers.csv")
    file.append(answer(1))
    with file.path.open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(ValueError, match=sentence):
        AnswerFile(file.path)


def test_each_reader_keeps_a_token_that_nobody_else_can_read(tmp_path):
    first = reader_tokens(tmp_path, ["anna"])
    both = reader_tokens(tmp_path, ["ben", "anna"])
    assert both["anna"] == first["anna"] != both["ben"] and reader_tokens(tmp_path, []) == both
    assert (tmp_path / READERS).stat().st_mode & 0o777 == 0o600
    assert reader_of(f"Bearer {both['ben']}", both) == "ben"
    for header in (None, "", "Bearer", f"Basic {both['ben']}", f"Bearer {both['ben']}x", "Bearer é"):
        assert reader_of(header, both) is None
    with pytest.raises(ValueError, match="reader 'a,b', expected up to 40 letters"):
        reader_tokens(tmp_path, ["a,b"])
    with pytest.raises(ValueError, match="no reader; give --readers"):
        reader_tokens(tmp_path / "none", [])
