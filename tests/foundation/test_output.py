"""What cannot be written is found out before any work is done."""

import os
from pathlib import Path

import pytest

from foundation.output import check_output


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The working folder, with a folder, a file, a link to nowhere and a link to itself."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("file", "folder", "--out file: is a file, expected a folder"),
        ("file/below", "folder", "--out file/below: lies below .*/file, which is no folder"),
        ("file/below/deep", "file", "--out file/below/deep: lies below .*/file, which is no folder"),
        ("nowhere", "folder", "--out nowhere: is a link that leads nowhere"),
        ("loop", "folder", "--out loop: is a link that leads nowhere"),
        ("loop/below", "folder", "--out loop/below: lies below .*/loop, which is no folder"),
        ("folder", "file", "--out folder: is a folder, expected a file"),
        ("/proc/nowhere", "folder", r"--out /proc/nowhere: /proc cannot be written to \(.+\); choose another path"),
    ],
)
def test_a_path_that_cannot_be_written_is_named_with_the_reason_and_a_remedy(place, path, kind, message):
    with pytest.raises(ValueError, match=message):
        check_output(Path(path), kind)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused(place):
    (place / "folder").chmod(0o500)
    with pytest.raises(ValueError, match="folder cannot be written to"):
        check_output(Path("folder/new"), "folder")


@pytest.mark.parametrize(
    ("path", "kind"), [("folder", "folder"), ("new/deep", "folder"), ("file", "file"), ("a.png", "file")]
)
def test_a_path_that_can_be_written_passes_and_nothing_is_left_behind(place, path, kind):
    before = sorted(place.rglob("*"))
    check_output(Path(path), kind)
    assert sorted(place.rglob("*")) == before
