from pathlib import Path

import pytest

from evaluation.reports.document import Bullets, Heading, Paragraph, Picture, Table, to_html, to_markdown
from evaluation.reports.lesion_report import Results, number, write_report


def test_markdown_has_every_block():
    blocks = [
        Heading("Title", 1),
        Paragraph("Text."),
        Bullets(["one", "two"]),
        Table(["a", "b"], [["x|y", "1"]]),
        Picture("p.png", "What."),
    ]
    assert to_markdown(blocks) == (
        "# Title\n\nText.\n\n- one\n- two\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n\n![What.](p.png)\n\n*What.*\n"
    )


def test_html_escapes_text_and_holds_its_pictures(tmp_path: Path):
    (tmp_path / "p.png").write_bytes(b"png")
    page = to_html([Paragraph("a < b"), Table(["<x>"], [["&"]]), Picture("p.png", "P")], "T & U", tmp_path)
    assert "a &lt; b" in page and "<th>&lt;x&gt;</th>" in page and "<td>&amp;</td>" in page and "T &amp; U" in page
    assert 'src="data:image/png;base64,cG5n"' in page


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.012345, 12.345, 1234.5, 3.2e-7, None)] == [
        "0", "0.0123", "12.3", "1234", "3.2e-07", "–",
    ]  # fmt: skip


def test_a_nan_never_reaches_a_report(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_report(Results(settings={"value": float("nan")}), tmp_path)
