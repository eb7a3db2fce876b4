"""A CSV table with columns of numbers and of text, as a data frame."""

import io
import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from foundation.text_files import MOST_COLUMNS, read_text, reason_of


def read_frame(path: Path, texts: Collection[str], required: Collection[str]) -> pd.DataFrame:
    """Read a table; a column that is not named as text is one of numbers if all its cells are.

    Args:
        path: CSV file; its first line names the columns.
        texts: Columns that are text even where every cell is a number.
        required: Columns that it must have.
    Raises: ValueError: Naming the file, if it cannot be read as a table, has more than `MOST_COLUMNS`, or lacks one.
        OSError: If it cannot be opened.
    """
    content = read_text(path)
    columns = re.split(r"[\r\n]", content, maxsplit=1)[0].count(",") + 1
    if columns > MOST_COLUMNS:
        raise ValueError(f"{path}: {columns} columns, expected at most {MOST_COLUMNS}; is it damaged?")
    try:
        table = pd.read_csv(io.StringIO(content), dtype=dict.fromkeys(texts, "string"))
    except Exception as error:  # pandas raises many kinds on damaged files
        raise ValueError(f"{path}: cannot be read as a CSV table ({reason_of(error)})") from error
    lacking = [name for name in required if name not in table]
    if lacking:
        raise ValueError(f"{path}: lacks the columns {', '.join(lacking)}; it has {', '.join(table.columns)}")
    return table


def text_columns(table: pd.DataFrame, numbers: Collection[str]) -> list[str]:
    """Those of the columns that should hold numbers and hold text; a column that is not there does not count.

    Args:
        table: From :func:`read_frame`.
        numbers: Columns.
    """
    return [name for name in numbers if name in table and not pd.api.types.is_numeric_dtype(table[name])]
