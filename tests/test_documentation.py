"""The documentation: it builds without a warning, and no page is empty."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs` and the group `dev` bring what builds the pages")

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
WORDS = 60  # of prose; a title and a sentence have fewer


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built as CONTRIBUTING.md says, but into a folder of its own."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return out


def article(page: Path) -> str:
    """The text of a built page, without navigation and tags."""
    found = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page} has no article"
    return re.sub(r"<[^>]+>", " ", found[0])


@pytest.mark.slow
def test_the_site_builds_strictly_and_every_page_says_something(site):
    built = [page for page in site.rglob("index.html") if "assets" not in page.parts]
    assert len(built) > len(PAGES)  # and the reference, the notebooks, CONTRIBUTING.md
    short = [str(page.relative_to(site)) for page in built if len(article(page).split()) < WORDS]
    assert not short, f"pages with fewer than {WORDS} words: {short}"


@pytest.mark.slow
def test_each_scripts_options_and_each_equation_reach_the_site(site):
    reference = article(site / "reference" / "command_lines" / "index.html")
    lacking = [path.stem for path in sorted((ROOT / "scripts").glob("*.py")) if f"scripts.{path.stem}" not in reference]
    assert not lacking
    page = (site / "methods" / "texture_losses" / "index.html").read_text(encoding="utf-8")
    assert page.count('class="arithmatex"') > 10 and "$$" not in page


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT / "docs")) for page in PAGES])
def test_a_page_has_one_title_and_more_than_that(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(titles) == 1 and text.startswith(titles[0])
    assert len(text.split()) > WORDS
