"""Folders of work: continued by the same settings, refused to others, one process at a time where it must be."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from foundation.claimed_folder import changed_settings, claim_file, claim_folder, claim_shared_folder, folder_lock

SETTINGS = {"seed": 0, "data": "x", "ranges": {"diameter_mm": [4.0, 30.0]}}
HOLDER = """
import sys, time
from pathlib import Path
from foundation.claimed_folder import folder_lock
with folder_lock(Path(sys.argv[1]), "0"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("claim", [claim_folder, claim_shared_folder])
def test_the_same_settings_continue_and_others_are_refused_with_what_differs(claim, tmp_path):
    folder = tmp_path / "work" / "a"
    claim(folder, SETTINGS)
    assert json.loads((folder / "settings.json").read_text()) == SETTINGS
    (folder / "000000").touch()  # finished work
    claim(folder, SETTINGS)
    others = {"seed": 1, "ranges": {"diameter_mm": [4.0, 20.0]}, "data": "x", "split": "test"}
    expected = (
        rf"{folder}/settings.json: made with other settings \(seed: 0 -> 1; ranges: .*30.0.* -> .*20.0.*; "
        rf"split: None -> test\); go back to those, delete {folder}, or take another --out$"
    )
    with pytest.raises(ValueError, match=expected):
        claim(folder, others)
    assert json.loads((folder / "settings.json").read_text()) == SETTINGS


def test_a_setting_that_is_gone_differs_too():
    assert changed_settings({"a": 1, "b": 2}, {"a": 1}) == "b: 2 -> None"
    assert changed_settings({"a": 1}, {"a": 1}) == ""
    assert changed_settings({"a": 1}, {"a": None}) == "a: 1 -> None"


def test_a_file_holds_the_settings_of_one_piece_of_work(tmp_path):
    for name, steps in (("a", 1), ("b", 2)):
        claim_file(tmp_path / f"{name}.json", {"steps": steps}, f"folder {name}")
    with pytest.raises(ValueError, match=r"b\.json: made with other settings \(steps: 2 -> 1\); .*, delete folder b,"):
        claim_file(tmp_path / "b.json", {"steps": 1}, "folder b")


@pytest.mark.parametrize("content", ["7", "null", "[]", "[[]]", '"a"', "NaN", "{", "[" * 100_000])
def test_settings_that_are_no_json_object_are_refused(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json: .*; these are no settings: delete .* and begin anew$"):
        claim_folder(tmp_path, SETTINGS)


def test_a_shared_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt and no settings.json; choose another --out or empty it"):
        claim_shared_folder(tmp_path, SETTINGS)
    assert not (tmp_path / "settings.json").exists()


def test_a_lock_keeps_others_out_and_falls_with_the_process_that_holds_it(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout):
            folder_lock(tmp_path, "0", timeout_s=0).acquire()
        with folder_lock(tmp_path, "1", timeout_s=0):
            pass
        holder.send_signal(signal.SIGKILL)
        with folder_lock(tmp_path, "0", timeout_s=60):
            pass
