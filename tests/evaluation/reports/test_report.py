from pathlib import Path

import pytest

from evaluation.reports.lesion_report import Results, number, write_report


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.012345, 12.345, 1234.5, 3.2e-7, None)] == [
        "0", "0.0123", "12.3", "1234", "3.2e-07", "–",
    ]  # fmt: skip


def test_a_nan_never_reaches_a_report(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_report(Results(settings={"value": float("nan")}), tmp_path)
