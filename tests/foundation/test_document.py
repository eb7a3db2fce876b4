"""Pages from templates: every block arrives, escaped, in HTML and Markdown."""

from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest

from foundation import document
from foundation.document import Bullets, Heading, Paragraph, Picture, Table, to_html, to_markdown


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


class Texts(HTMLParser):
    """The text of each element, by tag, as a browser would show it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.found.append((self.open[-1], data))


def test_html_shows_every_text_as_it_was_given():
    odd = "<b>\"x\" & 'y'</b>"
    blocks = [Heading(odd, 3), Paragraph(odd), Bullets([odd, "two"]), Table([odd, "n"], [["a", odd]], words=True)]
    page = Texts(to_html(blocks, odd, Path()))
    assert page.open == []
    expected = [("title", odd), ("h3", odd), ("p", odd), ("li", odd), ("li", "two"), ("th", odd), ("th", "n")]
    assert [found for found in page.found if found[0] != "style"] == [*expected, ("td", "a"), ("td", odd)]


def test_a_picture_may_come_without_a_file():
    page = to_html([Picture("", "seen", b"png")], "T", Path())
    assert 'alt="seen" src="data:image/png;base64,cG5n"' in page and "<figcaption>seen</figcaption>" in page


def test_a_block_that_lacks_what_the_template_shows_fails_loudly():
    class Half:
        kind = "heading"
        level = 2

    with pytest.raises(jinja2.UndefinedError, match="text"):
        document.to_html([Half()], "T", Path())
    with pytest.raises(jinja2.UndefinedError, match="text"):
        document.to_markdown([Half()])
