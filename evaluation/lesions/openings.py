"""How often the test split of a dataset was opened: each look at it makes the next figure a little less honest."""

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "test_openings.csv"
COLUMNS = ("date", "script", "settings_hash")


def open_test_split(dataset: Path, split: str, script: str, settings: Mapping[str, Any]) -> str | None:
    """Write down that the test split of a dataset is opened now, and say how often it has been.

    The record is `test_openings.csv` in the dataset's folder, one line an opening, appended in one write, so that
    scripts that run at once lose none.

    Args:
        dataset: Prepared dataset, or folder with a `nodules.csv` that has splits.
        split: What is read of it; "train" opens nothing.
        script: Name of the script.
        settings: Of the run, as plain types (`foundation.config.config_dict`); their hash tells runs apart.
    Returns: A sentence for the report; None if no test split is opened (a folder without splits has none).
    """
    if split not in ("test", "all") or not any(
        (dataset / file).is_file() for file in ("dataset_dict.json", "nodules.csv")
    ):
        return None
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    line = f"{datetime.now(UTC).isoformat(timespec='seconds')},{script},{digest[:16]}\n"
    file = dataset / FILE
    try:
        _append(file, line)
    except OSError as error:
        return f"{_count(file)}; this time could not be written down ({error.strerror}: {file})."
    return f"{_count(file)}."


def _append(file: Path, line: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        line = ",".join(COLUMNS) + "\n" + line
    except FileExistsError:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(descriptor, "wb", buffering=0) as handle:
        handle.write(line.encode())


def _count(file: Path) -> str:
    rows: list[list[str]] = []
    if file.is_file():
        with file.open(newline="") as handle:
            rows = [row for row in csv.reader(handle) if len(row) == len(COLUMNS) and row != list(COLUMNS)]
    times = "1 time" if len(rows) == 1 else f"{len(rows)} times"
    settings = len({row[2] for row in rows})
    return f"The test split of this dataset has been opened {times}, with {settings} different settings"
