"""The page and its viewer in a real browser: answers by keyboard, reloads, several tabs, a killed server."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evaluation.reading.answers import read_answers
from evaluation.reading.study import load_study, reading_order

playwright = pytest.importorskip("playwright.sync_api", reason="the group `dev` brings Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`"),
]
ROOT = Path(__file__).parents[3]
PATIENCE_S = 300
GREY = """
async ([z, y, x, width, level]) => {
  const {VolumeViewer} = await import("/viewer.js");
  const element = document.createElement("div");
  element.id = "test";
  element.style.cssText = "position: fixed; inset: 0; width: 900px; height: 300px; z-index: 9";
  document.body.append(element);
  const shape = [4, 6, 8], data = new Int16Array(4 * 6 * 8).map((_, index) => index);  // HU is the voxel's index
  const viewer = new VolumeViewer(element);
  viewer.load({data, shape, spacing: [2, 1, 1]});
  viewer.setWindow(width, level);
  viewer.showCrosshair(false);
  viewer.setCrosshair([z, y, x]);
  window.viewer = viewer;
  window.picked = [];
  viewer.addEventListener("pick", ({detail: {voxel, hu, plane}}) => window.picked.push({voxel, hu, plane}));
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
}
"""
CENTRES = """
() => [...document.querySelectorAll("#test canvas")].map((canvas) => {
  const {width, height} = canvas;
  return canvas.getContext("2d").getImageData(width / 2, height / 2, 1, 1).data[0];
})
"""


@contextmanager
def server(folder: Path, port: int) -> Iterator[tuple[subprocess.Popen, str]]:
    """`reading_study.py serve` in a process of its own, and the link of its reader."""
    argv = ["serve", "--study", folder, "--readers", "anna", "--port", port]
    command = [sys.executable, str(ROOT / "scripts/reading_study.py"), *map(str, argv)]
    log = folder.with_name("log")
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while "serving; " not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        found = re.search(r"anna: (http://\S+)", log.read_text())
        assert found
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def link(small_study: Callable[[Path], Path], tmp_path_factory) -> Iterator[str]:
    """Of a study whose first case is on the screen: nothing is answered."""
    with server(small_study(tmp_path_factory.mktemp("served")), 0) as (_, found):
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser) -> Iterator[Any]:
    """A window, whose pages note what they ask for and complain about."""
    window = browser.new_context(viewport={"width": 1280, "height": 720})
    window.set_default_timeout(1000 * PATIENCE_S)
    window.asked, window.complaints = [], []
    window.on("request", lambda request: window.asked.append(request.url))
    window.on("console", lambda message: window.complaints.append(message.text) if message.type == "error" else None)
    window.on("weberror", lambda error: window.complaints.append(str(error.error)))
    yield window
    window.close()


def opened(context: Any, link: str, text: str) -> Any:
    page = context.new_page()
    page.goto(link)
    shows(page, text)
    return page


def shows(page: Any, text: str) -> None:
    """Wait until the page is at this case, with its volume."""
    playwright.expect(page.locator("#count")).to_have_text(text, timeout=1000 * PATIENCE_S)
    if "case" in text:
        playwright.expect(page.locator("[data-verdict=real]")).to_be_enabled(timeout=1000 * PATIENCE_S)


def says(page: Any, text: str) -> None:
    playwright.expect(page.locator("#notice")).to_contain_text(text, timeout=1000 * PATIENCE_S)


def keys(page: Any, *names: str) -> None:
    for name in names:
        page.keyboard.press(name)


def test_a_reading_by_keyboard_survives_reloads_tabs_and_a_killed_server(study_folder, context):
    file = study_folder / "answers.csv"
    with server(study_folder, 0) as (process, link):
        first = opened(context, link, "case 1 of 10")
        playwright.expect(first.locator("#training")).to_be_visible()
        keys(first, "Enter", "s", "Enter")  # no answer yet, then no confidence yet
        keys(first, "r", "s", "2", "4", "Enter")  # the last choice counts
        is_real = load_study(study_folder).training[reading_order(load_study(study_folder), "anna")[0].case]
        says(first, f"This lesion is {'real' if is_real else 'synthetic'}. You said synthetic.")
        keys(first, "Enter")
        shows(first, "case 2 of 10")
        keys(first, "r", "1", "Enter")
        says(first, "This lesion is")
        first.reload()
        shows(first, "case 3 of 10")
        playwright.expect(first.locator("#training")).to_be_hidden()
        keys(first, "s", "5")  # chosen but not confirmed
        first.reload()
        shows(first, "case 3 of 10")
        assert [row.position for row in read_answers(file)] == [1, 2]

        second = opened(context, link, "case 3 of 10")
        keys(second, "s", "3", "Enter")
        shows(second, "case 4 of 10")
        keys(first, "r", "2", "Enter")  # of case 3, as this tab does not know better
        says(first, "This case was answered in another tab. That answer counts.")
        shows(first, "case 4 of 10")
        keys(first, "r", "2", "Enter")
        shows(first, "case 5 of 10")

        port = int(re.search(r":(\d+)/", link)[1])
        process.kill()
        process.wait()
        keys(first, "s", "1", "Enter")
        says(first, "No connection to the server. Nothing is lost; trying again")
        assert [row.position for row in read_answers(file)] == [1, 2, 3, 4]
    with server(study_folder, port) as (_, again):
        assert again == link  # the same token
        shows(first, "case 6 of 10")
        for position in range(6, 11):
            keys(first, "r", "3", "Enter")
            shows(first, f"case {position + 1} of 10" if position < 10 else "10 of 10")
        playwright.expect(first.locator("#message")).to_contain_text("All cases are answered.")
        second.bring_to_front()
        second.reload()
        shows(second, "10 of 10")
    rows = [(row.position, row.verdict, row.confidence) for row in read_answers(file)]
    others = [(position, "real", 3) for position in range(6, 11)]
    chosen = [(1, "synthetic", 4), (2, "real", 1), (3, "synthetic", 3), (4, "real", 2), (5, "synthetic", 1)]
    assert rows == chosen + others
    assert all(0 < row.seconds < PATIENCE_S for row in read_answers(file))
    origin = link.partition("#")[0]
    assert {url[: len(origin)] for url in context.asked} == {origin}
    assert not any(link.partition("#")[2] in url.partition("#")[0] for url in context.asked)  # which is sent
    expected = ("ERR_CONNECTION", "409", "ERR_EMPTY_RESPONSE", "ERR_SOCKET")
    assert [text for text in context.complaints if not any(word in text for word in expected)] == []


def test_the_mouse_scrolls_moves_the_crosshair_and_sets_the_window(link, context):
    page = opened(context, link, "case 1 of 10")
    caption, readout = page.locator(".viewer-caption").first, page.locator("#window")
    playwright.expect(caption).to_have_text("axial 15/29")
    playwright.expect(readout).to_have_text("window 1500, level -600 HU")
    box = page.locator("canvas").first.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -100)
    playwright.expect(caption).to_have_text("axial 17/29")
    keys(page, "ArrowDown", "m")
    playwright.expect(caption).to_have_text("axial 16/29")
    playwright.expect(readout).to_have_text("window 400, level 40 HU")
    page.mouse.down()
    page.mouse.move(middle[0] + 50, middle[1] - 20, steps=5)
    page.mouse.up()
    playwright.expect(readout).to_have_text("window 450, level 20 HU")
    page.mouse.click(middle[0], middle[1] - min(box["width"], box["height"]) / 2 + 4)  # the first row
    playwright.expect(page.locator(".viewer-caption").nth(1)).to_have_text("coronal 1/29")
    keys(page, "0")
    playwright.expect(caption).to_have_text("axial 15/29")
    help_bottom = page.locator(".help").bounding_box()
    assert help_bottom["y"] + help_bottom["height"] <= 720  # nothing is below the window
    assert page.evaluate("document.documentElement.scrollHeight") <= 720


def test_the_viewer_draws_the_voxels_of_each_plane_and_says_which_one_was_clicked(link, context):
    page = opened(context, link, "case 1 of 10")
    page.evaluate(GREY, [1, 3, 4, 255, 127])  # grey is the voxel's index + 0.5, rounded
    index = [(z * 6 + y) * 8 + x for z, y, x in ((1, 3, 4), (2, 3, 4), (2, 3, 4))]
    drawn = page.evaluate(CENTRES)
    # the middle of a pane lies between voxels, whose mean it shows
    for plane, (grey, steps) in enumerate(zip(drawn, ((8, 1), (48, 1), (48, 8)), strict=True)):
        assert grey == pytest.approx(index[plane] - sum(steps) / 2, abs=3)
    boxes = [canvas.bounding_box() for canvas in page.locator("#test canvas").all()]
    fit = min(boxes[1]["width"] / 8, boxes[1]["height"] / 8)  # coronal: 8 mm high, 8 mm wide
    left = boxes[1]["x"] + boxes[1]["width"] / 2 - 4 * fit
    top = boxes[1]["y"] + boxes[1]["height"] / 2 - 4 * fit
    page.mouse.click(left + 6.5 * fit, top + 1 * fit)  # column 6; the top row is the last slice
    assert page.evaluate("window.picked") == [{"voxel": [3, 3, 6], "hu": (3 * 6 + 3) * 8 + 6, "plane": "coronal"}]
    assert page.evaluate("window.viewer.crosshair") == [3, 3, 6]
    page.evaluate("viewer.setMask(new Uint8Array(192).fill(1), {colour: [0, 0, 255], opacity: 1})")
    for _ in range(100):  # Playwright's wait_for_function evaluates a string, which the page's policy forbids
        if page.evaluate(f"({CENTRES})().every((red) => red === 0)"):
            break
        page.wait_for_timeout(50)
    assert page.evaluate(CENTRES) == [0, 0, 0]
    with pytest.raises(playwright.Error, match="the mask has another number of voxels"):
        page.evaluate("viewer.setMask(new Uint8Array(5))")
    page.evaluate("viewer.destroy()")
    assert page.locator("#test canvas").count() == 0
