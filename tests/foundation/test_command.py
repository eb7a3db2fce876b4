"""The console command: its list of sub-commands, what it runs, what it refuses, and tab completion."""

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from foundation import command
from foundation.shipped import shipped

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
KNOWN = [path.stem.replace("_", "-") for path in SCRIPTS]
PROGRAM = """
import json, sys
from foundation.command import main
try:
    main()
finally:
    print(json.dumps(sorted({"torch", "diffusers", "datasets", "jsonargparse", "yaml"} & sys.modules.keys())))
"""


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, from the checkout; the last line lists the heavy modules it imported."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_script_by_its_purpose_and_imports_nothing(argv):
    ended = run(*argv)
    *lines, imported = ended.stdout.splitlines()
    assert ended.returncode == 0 and json.loads(imported) == []
    listed = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    purposes = [ast.get_docstring(ast.parse(path.read_text())).splitlines()[0] for path in SCRIPTS]
    assert listed == dict(zip(KNOWN, purposes, strict=True))
    assert f"configs: {ROOT / 'configs'}" in lines


def test_an_unknown_sub_command_is_refused_in_one_line_that_names_the_known():
    ended = run("paint", "--help")
    assert ended.returncode == 2 and json.loads(ended.stdout) == []
    assert ended.stderr == f"error: lesion-diffusion paint: no such sub-command; known: {', '.join(KNOWN)}\n"


def test_a_sub_command_is_its_script():
    argv = ["--repo", "owner/name", "--pipeline", "runs/nowhere"]
    ended = run("push-to-hub", *argv)
    alone = subprocess.run(
        [sys.executable, str(ROOT / "scripts/push_to_hub.py"), *argv], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (alone.returncode, alone.stderr) and ended.returncode == 1
    assert "no such folder" in ended.stderr


def test_a_script_gets_its_arguments_and_imports_its_neighbours(tmp_path, monkeypatch, capsys):
    (tmp_path / "other_part.py").write_text("VALUE = 7\n")
    program = "import sys, other_part\nif __name__ == '__main__':\n    print(sys.argv, other_part.VALUE)\n"
    (tmp_path / "one_part.py").write_text(program)
    monkeypatch.setattr(command, "shipped", lambda folder: tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["lesion-diffusion", "one-part", "--a", "b c"])
    monkeypatch.delitem(sys.modules, "other_part", raising=False)
    command.main()
    assert capsys.readouterr().out == f"{[str(tmp_path / 'one_part.py'), '--a', 'b c']} 7\n"


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lesion-diffusion", "--version"])
    command.main()
    assert capsys.readouterr().out == f"lesion-diffusion {version('lesion-diffusion')}\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("lesion-diffusion inp", ["inpaint", "inpaint-nodules"]),
        ("lesion-diffusion push-to-hub --re", ["--repo", "--report", "--revision"]),
        ("lesion-diffusion inpaint --match_noise ", ["true", "false"]),
        ("lesion-diffusion no-such --re", []),
    ],
)
def test_tab_offers_sub_commands_and_their_options(typed, offered, tmp_path):
    answer = tmp_path / "answer"
    shell = {"COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    ended = run(**shell, _ARGCOMPLETE_IFS="\n", _ARGCOMPLETE_STDOUT_FILENAME=str(answer))
    assert ended.returncode == 0 and ended.stderr == ""
    assert sorted(answer.read_text().split()) == sorted(offered)


def test_an_installed_copys_folders_are_found_before_a_checkouts(tmp_path, monkeypatch):
    monkeypatch.setattr("foundation.shipped.__file__", str(tmp_path / "foundation" / "shipped.py"))
    assert shipped("models") == tmp_path / "models"
    (tmp_path / "lesion_diffusion" / "models").mkdir(parents=True)
    assert shipped("models") == tmp_path / "lesion_diffusion" / "models"
