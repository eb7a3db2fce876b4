"""A report as a list of blocks, written as Markdown and as one self-contained HTML file."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th { border-bottom: 2px solid #888 }
img { max-width: 100%; display: block; margin: 1em 0 0 }
figcaption { color: #555; font-size: 13px; margin-bottom: 1.5em }
"""


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Attributes: header: Column titles. rows: Cells as printed; the first column is aligned left, others right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """Attributes: file: PNG, relative to the report's folder. caption: One sentence that says what to see."""

    file: str
    caption: str


Block = Heading | Paragraph | Bullets | Table | Picture


def report_document(
    title: str,
    opening: Sequence[Block],
    sections: Mapping[str, Sequence[Block]],
    left_out: Sequence[str],
    reading: Sequence[str],
    settings: Mapping[str, Any],
) -> list[Block]:
    """A report in the order all of them share; sections without content are missing, the list of gaps never is.

    Args:
        title: Of the report.
        opening: What was compared.
        sections: Title -> tables and pictures.
        left_out: A sentence for each thing that could not be measured.
        reading: How to read it.
        settings: Of the run.
    """
    blocks: list[Block] = [Heading(title, 1), *opening]
    for section, content in sections.items():
        if content:
            blocks += [Heading(section), *content]
    blocks += [Heading("Left out"), Bullets(left_out) if left_out else Paragraph("Nothing.")]
    blocks += [Heading("How to read this"), Bullets(reading)]
    rows = [[name, str(value)] for name, value in settings.items()]
    return [*blocks, Heading("Settings"), Table(["setting", "value"], rows)]


def check_report_folder(out: Path) -> None:
    """Refuse a folder that a report would not replace.

    Raises: ValueError: If `out` is a file, or holds something and no earlier report.
    """
    occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if occupied and not (out / "report.json").is_file():
        raise ValueError(f"{out}: exists and holds no report; choose another output folder")


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub Markdown; pictures are links relative to the report."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str, folder: Path) -> str:
    """One HTML file with the pictures of `folder` inside it. All text is escaped."""
    body = "\n".join(_html(block, folder) for block in blocks)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def save_report(out: Path, title: str, blocks: Sequence[Block], content: Mapping[str, Any]) -> None:
    """Write report.json, report.md and report.html into `out`, where the pictures lie already.

    Raises: ValueError: If a figure of `content` is NaN or infinite; none may reach a report unnoticed.
    """
    (out / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    (out / "report.md").write_text(to_markdown(blocks))
    (out / "report.html").write_text(to_html(blocks, title, out))


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return "#" * level + " " + text
        case Paragraph(text):
            return text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Picture(file, caption):
            return f"![{caption}]({file})\n\n*{caption}*"
        case Table(header, rows):
            alignment = ["---"] + ["---:"] * (len(header) - 1)
            cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, alignment, *rows)]
            return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Picture(file, caption):
            data = base64.b64encode((folder / file).read_bytes()).decode()
            image = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
        case Table(header, rows):
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
