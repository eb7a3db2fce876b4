"""Pushing a folder against the loopback Hub: what arrives, what is refused, and a line that breaks."""

import filecmp
import math
import time
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi, constants, snapshot_download

from foundation.upload import WAITS_S, prepare_repository, push_folder

REPO = "tester/lesions"
FILES = {"config.json": b"{}", "vae/weights.safetensors": bytes(range(256)) * 4096, "README.md": b"# Lesions\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that go along, and one that does not."""
    for name, content in {**FILES, "state.pt": b"a pickle"}.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waiting; how long it would have been."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def files_of(server: HubServer, repo: str) -> set[str]:
    commits = list(server.load(repo)["commits"].values())
    return set(commits[-1]["files"]) - {".gitattributes"}


@pytest.mark.parametrize(("kind", "stored"), [("model", REPO), ("dataset", f"datasets/{REPO}")])
def test_a_folder_arrives_byte_by_byte_in_a_private_repository(hub_server, folder, tmp_path, kind, stored):
    url = push_folder(folder, REPO, kind)
    assert url.startswith(f"{hub_server.endpoint}/{stored}/commit/")
    assert files_of(hub_server, stored) == set(FILES) and hub_server.load(stored)["private"]
    snapshot = snapshot_download(REPO, repo_type=kind, local_dir=tmp_path / "copy")
    assert filecmp.cmpfiles(folder, snapshot, list(FILES), shallow=False) == (list(FILES), [], [])


def test_a_branch_is_pushed_to_and_a_missing_one_is_named(hub_server, folder):
    prepare_repository(REPO)
    HfApi().create_branch(REPO, branch="next")
    push_folder(folder, REPO, revision="next")
    branches = hub_server.load(REPO)["branches"]
    assert branches["next"] != branches["main"]
    with pytest.raises(ValueError, match=r"tester/lesions: no branch 'v9'; expected one that exists"):
        push_folder(folder, REPO, revision="v9")


@pytest.mark.parametrize("repo", ["lesions", "a/b/c", "tester/two words", "/lesions", "tester/", "tester/a--b", ""])
def test_a_malformed_name_is_refused_without_asking_the_hub(hub_server, repo):
    with pytest.raises(ValueError, match=f"repository {repo!r}: expected OWNER/NAME"):
        prepare_repository(repo)
    assert hub_server.requests == []


def test_a_push_without_a_token_or_with_a_wrong_one_or_offline_is_refused(hub_server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match=r"tester/lesions: the Hub does not accept the access token; renew HF_TOKEN"):
        push_folder(folder, REPO)
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub_server.requests)
    with pytest.raises(ValueError, match=r"tester/lesions: no access token; set HF_TOKEN, or log in"):
        push_folder(folder, REPO)
    assert len(hub_server.requests) == asked
    monkeypatch.setenv("HF_TOKEN", hub_server.token)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        push_folder(folder, REPO)
    assert hub_server.load(REPO) is None


def test_a_repository_of_someone_else_is_refused(hub_server, folder, waits):
    with pytest.raises(ValueError, match="someone/lesions: the access token may not write there"):
        push_folder(folder, "someone/lesions")
    assert waits == []  # asking again would not help


def test_a_public_repository_is_refused_where_a_private_one_is_meant(hub_server, folder):
    prepare_repository(REPO, private=False)
    with pytest.raises(ValueError, match="tester/lesions: is public already"):
        push_folder(folder, REPO)
    assert files_of(hub_server, REPO) == set()
    push_folder(folder, REPO, private=False)
    assert files_of(hub_server, REPO) == set(FILES)


def test_what_the_hub_refuses_is_told_once(hub_server, folder, waits):
    (folder / "README.md").write_text("---\ntags: [a\n---\n")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        push_folder(folder, REPO)
    assert waits == []


@pytest.mark.parametrize("request_", ["PUT /storage/", "POST /api/repos/create", f"POST /api/models/{REPO}/commit/"])
def test_a_line_that_breaks_once_is_tried_again(hub_server, folder, waits, request_):
    hub_server.cut_off[request_] = 1
    push_folder(folder, REPO)
    assert len(hub_server.broken_requests) == 1 and hub_server.broken_requests[0].startswith(request_)
    assert files_of(hub_server, REPO) == set(FILES)
    assert len(waits) == 1


def test_a_file_that_has_arrived_is_not_sent_again_when_the_commit_breaks(hub_server, folder, waits):
    hub_server.cut_off[f"POST /api/models/{REPO}/commit/"] = 1
    push_folder(folder, REPO)
    assert sum(line.startswith("PUT /storage/") for line in hub_server.requests) == 1


def test_a_line_that_stays_broken_ends_in_one_sentence_and_a_later_push_succeeds(hub_server, folder, waits):
    hub_server.cut_off["PUT /storage/"] = math.inf
    with pytest.raises(OSError, match=r"tester/lesions: the connection to the Hub failed 3 times; check") as caught:
        push_folder(folder, REPO)
    assert "\n" not in str(caught.value)
    assert [wait for wait in waits if wait in WAITS_S[1:]] == [WAITS_S[1]]  # once between the last two of our tries
    assert files_of(hub_server, REPO) == set()
    hub_server.cut_off.clear()
    push_folder(folder, REPO)
    assert files_of(hub_server, REPO) == set(FILES)


def test_a_hub_that_cannot_be_reached_is_told_in_one_sentence(hub_server: HubServer, folder, waits):
    hub_server.stop()
    with pytest.raises(OSError, match=r"tester/lesions: the connection to the Hub failed 3 times"):
        push_folder(folder, REPO)
    assert waits == list(WAITS_S)
