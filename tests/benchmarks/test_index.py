"""benchmarks/README.md: it lists every benchmark, and all that it and other texts name is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
PARTS = {FOLDER / "speed/training_chains.py"}  # training_step.py starts it
LINK = re.compile(r"\]\(([^)#:]+)\)")
TEXTS = {".ipynb", ".md", ".py", ".sh", ".toml", ".yaml"}
NO_TEXTS = {"build", "data", "outputs", "runs"}


class Row(NamedTuple):
    """A row of the index."""

    room: str
    script: Path
    command: str
    minutes: str
    page: str
    quoted_by: list[Path]
    last_run: str


def index() -> list[Row]:
    """The tables of the index, one under each room's heading."""
    rows, room = [], ""
    for line in (FOLDER / "README.md").read_text().splitlines():
        if line.startswith("## "):
            room = line[3:].lower()
        elif line.startswith("| ["):
            name, _, command, minutes, page, quoted_by, last_run = line.strip("| ").split(" | ")
            (script,) = linked(name)
            rows.append(Row(room, script, command.strip("`"), minutes, page, linked(quoted_by), last_run))
    return rows


def linked(text: str, folder: Path = FOLDER) -> list[Path]:
    """The files that a text links, relative to its folder."""
    return [(folder / target).resolve() for target in LINK.findall(text)]


def texts() -> Iterator[Path]:
    """Everything that is written in the repository."""
    for top in ROOT.iterdir():
        if top.name not in NO_TEXTS and not top.name.startswith("."):
            yield from (path for path in (top, *top.rglob("*")) if path.suffix in TEXTS)


def page_of(row: Row) -> Path:
    """A benchmark's page, if it has one."""
    return FOLDER / row.room / f"{row.script.stem}.md"


ROWS = index()
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.script.stem for row in ROWS])


def test_the_index_lists_exactly_the_benchmarks_there_are():
    listed = [row.script for row in ROWS if row.script.is_relative_to(FOLDER)]
    assert sorted(listed) == sorted(set(FOLDER.rglob("*.py")) - PARTS)
    assert all(row.script.parent.name == row.room for row in ROWS if row.script in listed)


def test_each_page_has_a_script_of_its_name_and_a_row():
    assert {page_of(row) for row in ROWS} >= set(FOLDER.glob("*/*.md"))
    others = [row for row in ROWS if not row.script.is_relative_to(FOLDER)]
    assert all(row.script.parent == ROOT / "scripts" and page_of(row).is_file() for row in others)


@each_row
def test_a_row_has_its_page_or_says_that_there_is_none(row):
    assert row.page == (f"[page]({row.room}/{row.script.stem}.md)" if page_of(row).is_file() else "no page")


@each_row
def test_a_rows_command_runs_its_script_and_minutes_and_last_run_are_given(row):
    path = row.script.relative_to(ROOT)
    assert row.script.is_file() and row.command.startswith(f"uv run {path}")
    assert row.minutes == "not measured" or float(row.minutes) > 0
    assert re.fullmatch(r"20\d\d-\d\d-\d\d, [0-9a-f]{7}", row.last_run)
    if path.parts[0] == "benchmarks":
        assert f"uv run {path}" in ast.get_docstring(ast.parse(row.script.read_text()))


@each_row
def test_who_quotes_a_benchmark_names_it(row):
    for quoting in row.quoted_by:
        assert row.script.stem in quoting.read_text(), f"{quoting} no longer quotes {row.script.stem}: correct its row"


@pytest.mark.parametrize("page", sorted(FOLDER.rglob("*.md")), ids=lambda path: path.stem)
def test_what_a_page_links_is_there(page):
    missing = [path for path in linked(page.read_text(), page.parent) if not path.exists()]
    assert not missing


def test_every_file_of_the_benchmarks_that_a_text_names_is_there():
    named = {}
    for path in texts():
        for name in re.findall(r"(?<![\w/])benchmarks/[\w/]+\.(?:jpg|md|png|py)\b", path.read_text()):
            named[name] = path
    assert len(named) > 20
    assert not {name: path for name, path in named.items() if not (ROOT / name).is_file()}
