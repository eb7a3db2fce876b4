"""A page as a list of blocks, written as Markdown and as one self-contained HTML file, from the templates here.

The reports of an evaluation and the page of a prepared dataset are made of such blocks.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: Column titles.
        rows: Cells as printed.
        words: Whether all columns are text; otherwise all but the first are aligned as numbers.
    """

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG.

    Attributes:
        file: Relative to the page's folder.
        caption: One sentence that says what to see.
        png: The file's content, where there is no file; such a picture is for HTML alone.
    """

    kind: ClassVar[str] = "picture"
    file: str
    caption: str
    png: bytes | None = None


Block = Heading | Paragraph | Bullets | Table | Picture


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub Markdown; pictures are links relative to the page."""
    environment = _environment(autoescape=False)
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return environment.get_template("document.md.jinja").render(blocks=blocks).rstrip("\n") + "\n"


def to_html(blocks: Sequence[Block], title: str, folder: Path) -> str:
    """One HTML file without outside references; all text is escaped.

    Args:
        blocks: Of the page.
        title: Of the browser's window.
        folder: Where the pictures lie that are files.
    """

    def png_of(picture: Picture) -> str:
        content = (folder / picture.file).read_bytes() if picture.png is None else picture.png
        return base64.b64encode(content).decode()

    page = _environment(autoescape=True).get_template("document.html.jinja")
    return page.render(blocks=blocks, title=title, png_of=png_of)


def from_template(name: str, **values: Any) -> str:
    """Another page, such as a model's card: a Markdown template of `templates`; a value that is missing raises."""
    return _environment(autoescape=False).get_template(name).render(**values)


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=not autoescape,
        lstrip_blocks=not autoescape,
        keep_trailing_newline=True,
    )
