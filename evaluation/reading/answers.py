"""The answers of all readers: a CSV file that only grows, by a whole line an answer."""

import csv
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from evaluation.reading.study import Kind

Verdict = Literal["real", "synthetic"]


@dataclass(frozen=True)
class Answer:
    """One line.

    Attributes:
        reader: Name.
        position: In the reader's order, from 1.
        case: Number of the case.
        kind: Training, first showing or repeat.
        verdict: What the reader calls it.
        confidence: 1 (a guess) to 5 (certain).
        seconds: For which the case was seen.
        time: Of the answer, UTC.
    """

    reader: str
    position: int
    case: int
    kind: Kind
    verdict: Verdict
    confidence: int
    seconds: float
    time: str


COLUMNS = tuple(field.name for field in fields(Answer))


class AnswerFile:
    """The file, open for one server; safe for its threads.

    An answer is on the disk before `append` returns. A line that a power cut left incomplete is cut off when the file
    is opened: its answer was never confirmed, so its reader is asked again.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises ValueError if it is damaged."""
        self.path, self.lock = path, threading.Lock()
        if path.exists():
            _cut_incomplete_line(path)
        if not path.exists() or path.stat().st_size == 0:
            path.write_text(",".join(COLUMNS) + "\n")
        self.answers = read_answers(path)

    def of(self, reader: str) -> list[Answer]:
        """The reader's answers, by position."""
        return [answer for answer in self.answers if answer.reader == reader]

    def append(self, answer: Answer) -> None:
        """Add one line; the caller holds `lock`. Raises OSError, with the file as it was, if it cannot be written."""
        line = ",".join(map(str, astuple(answer))) + "\n"
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if file.write(line.encode()) != len(line):
                    raise OSError(f"{self.path}: the disk is full")
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
        self.answers.append(answer)


def read_answers(path: Path) -> list[Answer]:
    """All answers in the order in which they came. Raises ValueError, naming the line, if the file is damaged."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; serve the study first")
    answers: list[Answer] = []
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}")
    for number, row in enumerate(rows[1:], 2):
        try:
            answers.append(_answer(row))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; mend or remove the line") from error
    seen: set[tuple[str, int]] = set()
    for answer in answers:
        if (answer.reader, answer.position) in seen:
            raise ValueError(f"{path}: {answer.reader} answers position {answer.position} twice; remove a line")
        seen.add((answer.reader, answer.position))
    return answers


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _answer(row: Sequence[str]) -> Answer:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns, expected {len(COLUMNS)}")
    reader, position, case, kind, verdict, confidence, seconds, time = row
    if kind not in get_args(Kind) or verdict not in get_args(Verdict) or confidence not in ("1", "2", "3", "4", "5"):
        raise ValueError(f"kind {kind!r}, verdict {verdict!r}, confidence {confidence!r} do not fit")
    return Answer(reader, int(position), int(case), kind, verdict, int(confidence), float(seconds), time)  # type: ignore[arg-type]


def _cut_incomplete_line(path: Path) -> None:
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(path, complete)
