"""Text files from outside: read up to a limit of size, and refused by one sentence that names the file."""

import csv
import io
import json
from pathlib import Path
from typing import Any

LARGEST = 2**25  # bytes; a table of 100,000 lesions has a third of it
MOST_ROWS, MOST_COLUMNS = 10**6, 1000  # of a table


def read_text(path: Path, largest: int = LARGEST) -> str:
    """A text in UTF-8, with or without a byte order mark.

    Args:
        path: File.
        largest: Bytes that it may have.
    Raises: ValueError: Naming the file, if it is larger or is no such text. OSError: If it cannot be opened.
    """
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"{path}: {size} bytes, expected at most {largest}; is it the right file?")
    try:
        return path.read_bytes().decode("utf-8-sig")  # line ends stay as they are
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8 ({error.reason} at byte {error.start}); is it damaged?") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: File.
    Raises: ValueError: Naming the file, if it holds anything else. OSError: If it cannot be opened.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error}); is it damaged?") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON {type(content).__name__}, expected an object with names; is it damaged?")
    return content


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """A CSV table as text.

    Args:
        path: File; its first line names the columns.
    Returns: The columns; and for each row the number of its line and its cells by column. Where a row is short, its
        last columns are absent.
    Raises: ValueError: Naming the file and the line, if it is no such table, a row has more cells than columns, or
        there are more than `MOST_ROWS` or `MOST_COLUMNS`. OSError: If it cannot be opened.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        columns = next(reader, [])
        if len(columns) > MOST_COLUMNS:
            raise ValueError(f"{path}: {len(columns)} columns, expected at most {MOST_COLUMNS}; is it damaged?")
        for cells in reader:
            if len(cells) > len(columns):
                where = f"{path}, line {reader.line_num}"
                raise ValueError(f"{where}: more cells than columns; write every number with a point")
            if cells:
                rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
            if len(rows) > MOST_ROWS:
                raise ValueError(f"{path}: more than {MOST_ROWS} rows; divide the table")
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: no CSV table ({error}); is it damaged?") from error
    return columns, rows


def reason_of(error: BaseException) -> str:
    """What a library says of a damaged file, as a part of one sentence: type and message, in a line of 200 characters.

    Args:
        error: What it raised.
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
