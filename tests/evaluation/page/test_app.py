"""The page's service: its results are those of inpaint.py, to the byte; sessions, the queue, and who may ask."""

import json
import os
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from page_client import Client

from evaluation.page.schema import InpaintBody, as_command, inpaint_options
from foundation.config import launch, parse_config
from imaging.files.ct import read_ct
from imaging.geometry import point_of_index
from imaging.lesions.sites import free_lung
from imaging.phantom.chest import chest_phantom
from scripts.inpaint import InpaintConfig
from scripts.inpaint import main as inpaint_main

IMAGES = ("ct.nii.gz", "lesion_mask.nii.gz", "paint_mask.nii.gz")


@pytest.fixture(scope="module")
def url(served, tmp_path_factory):
    with served(tmp_path_factory.mktemp("sessions")) as address:
        yield address


@pytest.fixture(scope="module")
def client(url) -> Client:
    return Client(url).phantom()


def by_script(command: str, scan: Path, folder: Path, out: Path) -> Path:
    """Run the copied command in this process, on the downloaded files."""
    words = command.split()[3:]
    replaced = {
        "scan.nii.gz": scan,
        "SCAN": scan,
        "lesions.csv": folder / "lesions.csv",
        "brush.nii.gz": folder / "brush.nii.gz",
    }
    words = [str(replaced.get(word, word)) for word in words]
    launch(inpaint_main, parse_config(InpaintConfig, [*words[: words.index("--out")], "--out", str(out)]))
    return out


def test_the_copied_command_writes_the_same_bytes_for_one_lesion_and_for_several(client, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(client.send("GET", "/scan/file").content)
    first = {"center": client.site(seed=3), "diameter_mm": 12, "seed": 4}
    one = client.painted(first)
    assert one["changed_outside_paint"] == 0 and one["number"] == 1
    out = by_script(one["command"], scan, tmp_path, tmp_path / "one")
    assert all(client.file(one, name) == (out / name).read_bytes() for name in IMAGES)

    brushed = np.ones((3, 4, 5), np.uint8)
    center = client.site(seed=5, lesions=[first])
    origin = ",".join(str(int(at)) for at in center)
    answer = client.send("PUT", "/masks", params={"origin": origin, "size": "3,4,5"}, data=brushed.tobytes())
    second = {"mask": answer.json()["mask"], "seed": 9}
    two = client.painted(first, second)  # begins with the first, which is in memory
    for name in ("lesions.csv", "brush.nii.gz"):
        (tmp_path / name).write_bytes(client.file(two, name))
    out = by_script(two["command"], scan, tmp_path, tmp_path / "two")
    assert all(client.file(two, name) == (out / name).read_bytes() for name in IMAGES)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "lesion_mask.nii.gz")))
    assert (labels == 2).sum() == brushed.size

    record, own = json.loads(client.file(two, "record.json")), json.loads((out / "record.json").read_text())
    assert record["lesions"] == own["lesions"] and record["settings"]["ct"] == "scan.nii.gz"
    python: dict = {}
    text = (
        one["python"].replace("'scan.nii.gz'", repr(str(scan))).replace("'outputs/lesion'", repr(str(tmp_path / "py")))
    )
    exec(text, python)
    assert (tmp_path / "py" / "ct.nii.gz").read_bytes() == client.file(one, "ct.nii.gz")


def test_what_the_viewer_gets_is_the_saved_scan_and_the_volume_is_the_scan(client, tmp_path):
    result = client.painted({"center": client.site(seed=6), "diameter_mm": 10})
    (tmp_path / "ct.nii.gz").write_bytes(client.file(result, "ct.nii.gz"))
    (tmp_path / "scan.nii.gz").write_bytes(client.send("GET", "/scan/file").content)
    after, before = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.nii.gz"))) for name in ("ct", "scan")
    )
    shape = client.send("GET", "").json()["scan"]["shape"]
    volume = np.frombuffer(client.send("GET", "/scan/volume").content, "<i2").reshape(shape).copy()
    np.testing.assert_array_equal(volume, before)
    box = tuple(slice(*along) for along in result["box"])
    change = client.send("GET", f"/results/{result['result']}/change/after").content
    volume[box] = np.frombuffer(change, "<i2").reshape(volume[box].shape)
    np.testing.assert_array_equal(volume, after)
    (tmp_path / "labels.nii.gz").write_bytes(client.file(result, "lesion_mask.nii.gz"))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.nii.gz")))
    shown = np.frombuffer(client.send("GET", f"/results/{result['result']}/change/labels").content, np.uint8)
    np.testing.assert_array_equal(shown, labels[box].ravel())
    assert shown.sum() == labels.sum()
    assert (before[box] != after[box]).any()


def test_a_dicom_zip_gives_a_derived_series_and_a_segmentation(url, tmp_path):
    phantom = chest_phantom((40, 60, 64), (5.0, 5.0, 5.0), n_nodules=0, seed=2)
    write_dicom_series(tmp_path / "dicom", phantom.ct_hu, phantom.spacing_mm, PatientName="Doe^Jane")
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", "not a slice")
        for path in (tmp_path / "dicom").iterdir():
            archive.write(path, f"study/{path.name}")
    client = Client(url)
    assert client.upload("study.zip", packed.getvalue()).json()["shape"] == [40, 60, 64]
    result = client.painted({"center": client.site(diameter_mm=14), "diameter_mm": 14})
    with zipfile.ZipFile(BytesIO(client.send("GET", f"/results/{result['result']}/zip").content)) as saved:
        saved.extractall(tmp_path / "saved")
    out = by_script(result["command"], tmp_path / "dicom", tmp_path, tmp_path / "out")
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.suffix in (".dcm", ".gz"))
    assert "lesions_seg.dcm" in names and len(names) == 40 + 1 + 3
    assert all((tmp_path / "saved" / name).read_bytes() == (out / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("lesion", "status", "message"),
    [
        ({"diameter_mm": 9}, 400, "lesion 1: give center and diameter_mm, or mask"),
        ({"center": [1, 2, 3], "diameter_mm": 9, "mask": "0" * 16}, 400, "give center and diameter_mm, or mask"),
        ({"mask": "0" * 16}, 400, "no such mask in this session"),
        ({"mask": "../../x"}, 422, "lesions.0.mask"),
        ({"center": [1, 2, 300], "diameter_mm": 9}, 400, "outside the scan"),
        ({"center": [1, 2], "diameter_mm": 9}, 422, "lesions.0.center"),
        ({"center": [1, 2, 3], "diameter_mm": -9}, 422, "greater than 0"),
        ({"center": [1, 2, 3], "diameter_mm": 9, "seed": -1}, 422, "lesions.0.seed"),
        ({"center": [1, 2, 3], "diameter_mm": 9, "attributes": {"seed": 1}}, 400, "attribute 'seed' is unknown"),
        ({"center": [1, 2, 3], "diameter_mm": 9, "colour": "red"}, 422, "lesions.0.colour"),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(client, lesion, status, message):
    answer = client.inpaint(lesion)
    assert answer.status_code == status and message in answer.json()["detail"]


def test_learned_shapes_are_offered_where_the_server_has_them_and_named_in_the_command(client, url):
    assert requests.get(f"{url}/v1/info").json()["shapes"] == ["real", "procedural"]
    answer = client.inpaint({"center": [48, 80, 40], "diameter_mm": 9}, shape="learned")
    assert answer.status_code == 400 and "start it with --paired" in answer.json()["detail"]
    lesion = {"center": (48, 80, 40), "diameter_mm": 9}
    body = InpaintBody(session="s", lesions=[lesion], settings={"shape": "learned"})
    command = as_command(inpaint_options(body, "scan.nii.gz", Path(), "a/pipeline", "a/paired"))
    config = parse_config(InpaintConfig, command.replace("scan.nii.gz", ".").split()[3:])
    assert (config.shape, config.paired) == ("learned", "a/paired")


def test_a_suggested_site_lies_where_it_is_asked_for(client, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(client.send("GET", "/scan/file").content)
    lung = free_lung(read_ct(tmp_path / "scan.nii.gz"))
    ct = read_ct(tmp_path / "scan.nii.gz")

    def wall_mm(kind: str) -> float:
        point = point_of_index(ct, client.site(kind=kind, seed=2))
        return float(lung.wall_mm[lung.grid.TransformPhysicalPointToIndex(point)[::-1]])

    assert wall_mm("pleural") < 7 < 8 <= wall_mm("free")  # a ball of 6 mm touches the wall, or is 2 mm away from it
    assert client.send("POST", "/site", json={"diameter_mm": 12, "kind": "bone"}).status_code == 422


def test_a_lesion_outside_the_lung_fails_with_the_reason(client):
    events = client.events(client.inpaint({"center": [48, 2, 2], "diameter_mm": 12}).json()["job"])
    assert '"state": "failed"' in events[-1] and "lies in the lung, expected 10 %" in events[-1]


def test_sessions_do_not_reach_each_other_or_the_disk(client, url):
    result = client.painted({"center": client.site(), "diameter_mm": 10})
    other = Client(url).phantom()
    for path in (
        f"/results/{result['result']}",
        f"/jobs/{result['result']}",
        f"/results/..%2F..%2F{client.session}%2Fresults%2F{result['result']}",
        "/results/..%2F..%2F..",
        f"/results/{result['result']}/files/..%2F..%2Fscan.json",
    ):
        assert other.send("GET", path).status_code == 404
    assert client.send("GET", f"/results/{result['result']}/files/..%2F..%2F..%2Fscan.json").status_code == 404
    assert client.send("GET", f"/results/{result['result']}/files/result.json").status_code == 404
    for name in ("..", ".", "results", "a" * 22, "%2e%2e%2f" * 3):
        assert requests.get(f"{url}/v1/sessions/{name}").status_code == 404
    assert other.send("DELETE", "").status_code == 204 and other.send("GET", "").status_code == 404
    assert client.send("GET", "").status_code == 200


def test_jobs_are_bounded_cancelled_within_a_step_and_apart_for_two_users(served, tmp_path):
    entered, go, steps = threading.Event(), threading.Event(), []

    def run(body, result, on_step, say):
        entered.set()
        assert go.wait(30)
        for step in range(100):
            on_step(0, 0, step)
            steps.append(step)
            time.sleep(0.01)

    with served(tmp_path, run=run, most_jobs=3, most_of_session=2) as url:
        anna, ben = Client(url).phantom(), Client(url).phantom()
        lesion = {"center": [48, 80, 50], "diameter_mm": 10}
        first, second = (anna.inpaint(lesion).json()["job"] for _ in range(2))
        assert entered.wait(30)
        full = anna.inpaint(lesion)
        assert full.status_code == 503 and full.headers["Retry-After"]
        third = ben.inpaint(lesion).json()
        assert third["state"] == "queued" and third["position"] == 2
        assert ben.inpaint(lesion).status_code == 503
        assert [job["state"] for job in anna.send("GET", "").json()["jobs"]] == ["running", "queued"]
        assert anna.send("DELETE", f"/jobs/{second}").json()["state"] == "cancelled"
        assert ben.send("DELETE", f"/jobs/{first}").status_code == 404
        anna.send("DELETE", f"/jobs/{first}")
        go.set()
        assert '"state": "cancelled"' in anna.events(first)[-1]
        assert steps == [] or max(steps) < 99
        ben.send("DELETE", f"/jobs/{third['job']}")


def test_a_restart_keeps_finished_results_and_removes_unfinished_and_expired_ones(served, tmp_path):
    with served(tmp_path) as url:
        client = Client(url).phantom()
        result = client.painted({"center": client.site(), "diameter_mm": 10})
        saved = client.file(result, "ct.nii.gz")
        (tmp_path / client.session / "results" / "0123456789abcdef.part").mkdir()
        old = Client(url)
        os.utime(tmp_path / old.session / "used", (0, 0))
    with served(tmp_path) as url:
        again = Client(url, client.session)
        assert [found["result"] for found in again.send("GET", "").json()["results"]] == [result["result"]]
        assert again.file(result, "ct.nii.gz") == saved
        assert again.painted({"center": again.site(seed=8), "diameter_mm": 10})["number"] == 2
        assert not list(tmp_path.glob("*/results/*.part"))
        for _ in range(200):
            if not (tmp_path / old.session).exists():
                break
            time.sleep(0.02)
        assert not (tmp_path / old.session).exists()


def test_other_sites_other_names_and_missing_tokens_are_refused(served, tmp_path, caplog):
    with served(tmp_path, token="secret", hosts=("127.0.0.1",)) as url:
        assert requests.get(f"{url}/").status_code == 200
        assert requests.get(f"{url}/v1/info").status_code == 401
        sent = {"Authorization": "Bearer secret"}
        assert requests.get(f"{url}/v1/info", headers=sent).status_code == 200
        assert requests.get(f"{url}/v1/info", headers={**sent, "Host": "evil.example"}).status_code == 421
        assert requests.post(f"{url}/v1/sessions", headers={**sent, "Origin": "http://evil.example"}).status_code == 403
        assert requests.post(f"{url}/v1/sessions", headers=sent, data=b" " * 2**19).status_code == 413
        page = requests.get(f"{url}/")
        assert "default-src 'none'" in page.headers["Content-Security-Policy"] and "http" not in page.text
        paths = requests.get(f"{url}/v1/openapi.json", headers=sent).json()["paths"]
        assert {"post"} == set(paths["/v1/inpaint"])


def test_sessions_and_results_are_bounded(served, tmp_path):
    with served(tmp_path, most=1, most_results=1) as url:
        client = Client(url).phantom()
        assert requests.post(f"{url}/v1/sessions").status_code == 503
        lesion = {"center": client.site(), "diameter_mm": 10}
        result = client.painted(lesion)
        assert client.inpaint(lesion).status_code == 409
        assert client.send("DELETE", f"/results/{result['result']}").status_code == 204
        assert client.inpaint(lesion).status_code == 202
