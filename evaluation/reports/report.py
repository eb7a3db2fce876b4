"""What all reports share: their order, their folder, and their three files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.document import Block, Bullets, Heading, Paragraph, Table, to_html, to_markdown


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


def save_report(out: Path, title: str, blocks: Sequence[Block], content: Mapping[str, Any]) -> None:
    """Write report.json, report.md and report.html into `out`, where the pictures lie already.

    Raises: ValueError: If a figure of `content` is NaN or infinite; none may reach a report unnoticed.
    """
    (out / "report.json").write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    (out / "report.md").write_text(to_markdown(blocks))
    (out / "report.html").write_text(to_html(blocks, title, out))
