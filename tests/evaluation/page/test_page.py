"""The page in a real browser: place, generate, save, brush, cancel, reload in mid-generation, keyboard alone."""

import re
import shutil
import threading
from collections.abc import Iterator
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from page_client import Client
from skimage.io import imread

from foundation.config import launch, parse_config
from scripts.inpaint import InpaintConfig
from scripts.inpaint import main as inpaint_main

playwright = pytest.importorskip("playwright.sync_api", reason="the group `dev` brings Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`"),
]
PATIENCE_MS = 300_000
ZOOM = 1.8  # of volume3d.js
playwright.expect.set_options(timeout=PATIENCE_MS)
EXPECTED = ("status of 400 (Bad Request)", "status of 404 (Not Found)", "net::ERR_FAILED")  # what the tests provoke


@pytest.fixture(scope="module")
def server(served, tmp_path_factory) -> Iterator[Any]:
    """A server whose jobs stop after their first step while `gate` is closed; `waits` says that one does."""
    gate, waits = threading.Event(), threading.Event()
    gate.set()
    from evaluation.page import painter

    own_run = painter.Painter.run

    def run(self, body, result, on_step, say):
        def gated(*at: int) -> None:
            on_step(*at)
            waits.set()
            assert gate.wait(PATIENCE_MS / 1000)
            on_step(*at)

        return own_run(self, body, result, gated, say)

    patch = pytest.MonkeyPatch()
    patch.setattr(painter.Painter, "run", run)
    folder = tmp_path_factory.mktemp("sessions")
    with served(folder) as url:
        yield SimpleNamespace(url=url, gate=gate, waits=waits, folder=folder)
    patch.undo()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        software = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *software])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server) -> Iterator[Any]:
    """The page with its phantom; it asked no other host and complained about nothing."""
    window = browser.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
    window.set_default_timeout(PATIENCE_MS)
    asked, complaints = [], []
    window.on("request", lambda request: asked.append(request.url))
    window.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    window.on("weberror", lambda error: complaints.append(str(error.error)))
    opened = window.new_page()
    opened.goto(server.url)
    says(opened, "Click a place in the lung")
    opened.fill("#steps", "3")
    yield opened
    server.gate.set()
    window.close()
    assert [text for text in complaints if not any(word in text for word in EXPECTED)] == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked)


def says(page: Any, text: str) -> None:
    playwright.expect(page.locator("#notice")).to_contain_text(text)


def session_of(page: Any, url: str) -> Client:
    return Client(url, page.evaluate("JSON.parse(sessionStorage.getItem('page')).session"))


def saved(page: Any, path: Any) -> Any:
    with page.expect_download() as download:
        page.click("#save-nifti")
    download.value.save_as(path)
    return path


def test_a_first_lesion_is_two_clicks_and_its_saved_scan_is_that_of_the_command(page, server, tmp_path):
    page.click("#site")
    says(page, "A free site")
    page.click("#generate")
    says(page, "0 voxels changed outside")
    client = session_of(page, server.url)
    (tmp_path / "scan.nii.gz").write_bytes(client.send("GET", "/scan/file").content)
    (result,) = client.send("GET", "").json()["results"]
    words = result["command"].replace("scan.nii.gz", str(tmp_path / "scan.nii.gz")).split()[3:-1]
    launch(inpaint_main, parse_config(InpaintConfig, [*words, str(tmp_path / "out")]))
    assert saved(page, tmp_path / "saved.nii.gz").read_bytes() == (tmp_path / "out" / "ct.nii.gz").read_bytes()

    page.click("#another")
    page.click("#site")
    says(page, "A free site")
    page.fill("#variants", "2")
    page.click("#generate")
    playwright.expect(page.locator("#results button")).to_have_count(3)
    playwright.expect(page.locator("#cancel")).to_be_hidden()
    assert [len(found["lesions"]) for found in client.send("GET", "").json()["results"]] == [1, 2, 2]
    page.click("#undo")
    page.click("#undo")
    playwright.expect(page.locator("#lesions li")).to_have_count(1)
    playwright.expect(page.locator("#results button").first).to_have_attribute("aria-pressed", "true")
    page.click("#undo")
    playwright.expect(page.locator("#save-nifti")).to_be_disabled()
    page.click("#redo")
    playwright.expect(page.locator("#save-nifti")).to_be_enabled()
    page.click("#difference")
    page.click("#difference")
    page.fill("#swipe", "100")
    assert page.evaluate("document.documentElement.scrollHeight") <= 720


def test_the_volume_shows_the_place_in_colour_from_any_side(page):
    page.click("#site")
    says(page, "A free site")
    page.keyboard.press("v")
    canvas = page.locator("#volume-canvas")
    playwright.expect(canvas).to_be_visible()

    def seen() -> np.ndarray:
        page.wait_for_timeout(1500)  # a frame in software
        return imread(BytesIO(canvas.screenshot()))[..., :3].astype(int)

    front = seen()
    rows, columns = np.nonzero(front[..., 0] - front[..., 2] > 60)
    # parallel rays from the front, head up; the longest edge is 1 wide, of which 2 / zoom fit the shorter side
    height, width = front.shape[:2]
    shape, spacing = np.array((96, 160, 160)), np.array((2.5, 2.0, 2.0))
    z, _, x = (float(at) for at in page.input_value("#center").split(","))
    share = (np.array((z, 0, x)) + 0.5) / shape - 0.5
    up, _, right = share * shape * spacing / (shape * spacing).max() * ZOOM * min(height, width) / 2
    assert (rows.mean(), columns.mean()) == pytest.approx((height / 2 - up, width / 2 + right), abs=4)
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert np.abs(seen() - front).mean() > 2
    page.keyboard.press("0")
    assert np.abs(seen() - front).mean() < 0.5
    page.keyboard.press("v")
    playwright.expect(canvas).to_be_hidden()


def test_a_lesion_by_keyboard_alone_with_a_brush(page, server, tmp_path):
    page.focus("#stack")
    page.keyboard.press("s")  # a site, only to have the crosshair in the lung
    says(page, "A free site")
    for key in ("b", " ", "ArrowUp", "ArrowUp", " ", "g"):
        page.keyboard.press(key)
    says(page, "0 voxels changed outside")
    client = session_of(page, server.url)
    (result,) = client.send("GET", "").json()["results"]
    assert set(result["lesions"][0]) <= {"mask", "seed"}
    (tmp_path / "mask.nii.gz").write_bytes(client.file(result, "lesion_mask.nii.gz"))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz")))
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    assert len(slices) == 5  # balls of 3 mm, 5 mm apart, slices of 2.5 mm
    page.keyboard.press("Control+z")
    playwright.expect(page.locator("#save-nifti")).to_be_disabled()


def test_cancel_ends_a_running_lesion_and_a_reload_loses_none(page, server):
    page.click("#site")
    says(page, "A free site")
    server.gate.clear()
    server.waits.clear()
    page.click("#generate")
    assert server.waits.wait(PATIENCE_MS / 1000)
    page.click("#cancel")
    server.gate.set()
    says(page, "Cancelled.")
    server.gate.clear()
    server.waits.clear()
    page.click("#generate")
    assert server.waits.wait(PATIENCE_MS / 1000)
    says(page, "step 1 of 3")
    page.reload()
    says(page, "step 1 of 3")
    server.gate.set()
    says(page, "0 voxels changed outside")
    playwright.expect(page.locator("#results button")).to_have_count(1)
    page.reload()
    playwright.expect(page.locator("#results button")).to_have_count(1)
    says(page, "0 voxels changed outside")
    assert re.search(r"\d", page.input_value("#center"))


def test_a_request_for_a_character_is_sent_and_what_is_wrong_is_said(page, server, tmp_path):
    page.click("#generate")
    says(page, "The lesion has no place yet")
    page.fill("#center", "1, 2")
    page.keyboard.press("Tab")
    says(page, "expected three numbers z, y, x")
    page.fill("#center", "48, 2, 2")
    page.keyboard.press("Tab")
    page.click("#generate")
    says(page, "lies in the lung, expected 10 %")
    (tmp_path / "broken.nii.gz").write_bytes(b"hello")
    page.set_input_files("#open-file", tmp_path / "broken.nii.gz")
    says(page, "cannot be read as an image")
    page.click("#open-phantom")
    says(page, "Click a place in the lung")


def test_a_broken_connection_is_taken_up_again_and_a_lost_job_is_said(page, server):
    page.click("#site")
    says(page, "A free site")
    page.route("**/events", lambda route: route.abort())
    page.click("#generate")
    says(page, "No connection to the server. Trying again")
    page.unroute("**/events")
    says(page, "0 voxels changed outside")
    playwright.expect(page.locator("#results button")).to_have_count(1)
    page.route("**/events", lambda route: route.fulfill(status=404, json={"detail": "no such job"}))
    page.route("**/results/*", lambda route: route.fulfill(status=404, json={"detail": "no such result"}))
    page.click("#generate")
    says(page, "The server was restarted before this lesion was finished")
    playwright.expect(page.locator("#cancel")).to_be_hidden()
    playwright.expect(page.locator("#save-nifti")).to_be_enabled()
