"""The console command: its list of sub-commands, what it runs, what it refuses, and tab completion."""

import ast
import json
import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from foundation import command
from foundation.command import run_script, script_settings
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
PART = """
from dataclasses import dataclass, field
from pathlib import Path
from foundation.config import launch, read_arguments

@dataclass(frozen=True)
class Size:
    channels: tuple[int, ...] = (1, 2)
    depth: int = 1

@dataclass(frozen=True)
class PartConfig:
    name: str = "a"
    size: Size = field(default_factory=Size)
    rate: float = 0.5
    on: bool = False
    folder: Path = Path("out")
    weights: dict[str, float] = field(default_factory=dict)
    limit: int | None = 3

ARGUMENTS = read_arguments(PartConfig, __name__)

def main(config):
    if not config.name:
        raise ValueError("name '': expected one")
    print(config)

if __name__ == "__main__":
    launch(main, ARGUMENTS)
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


def test_page_is_short_for_serve_page():
    ended = run("page", "--pipeline", "/no/where")
    assert ended.returncode == 1 and "/no/where" in ended.stderr


def test_a_sub_command_is_its_script():
    argv = ["--repo", "owner/name", "--pipeline", "runs/nowhere"]
    ended = run("push-to-hub", *argv)
    alone = subprocess.run(
        [sys.executable, str(ROOT / "scripts/push_to_hub.py"), *argv], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (alone.returncode, alone.stderr) and ended.returncode == 1
    assert "no such folder" in ended.stderr


@pytest.fixture
def one_part(tmp_path, monkeypatch) -> Path:
    """A script that prints its config."""
    (tmp_path / "one_part.py").write_text(PART)
    monkeypatch.setattr(command, "shipped", lambda folder: tmp_path)
    return tmp_path / "one_part.py"


def test_a_script_gets_its_arguments(one_part, monkeypatch, capsys):
    argv = ["lesion-diffusion", "one-part", "--name", "b c"]
    monkeypatch.setattr(sys, "argv", argv)
    command.main()
    assert "PartConfig(name='b c', " in capsys.readouterr().out and sys.argv is argv


OPTIONS = {
    "name": "b c",
    "size.channels": (4, 8),
    "rate": 1e-5,
    "on": True,
    "folder": Path("a/b"),
    "weights": {"gabor": 0.5},
    "limit": None,
}


def test_a_script_is_run_by_its_options_as_values_and_says_its_command_line(one_part, capsys):
    run_script("one_part", OPTIONS)
    said, printed = capsys.readouterr().out.splitlines()
    expected = "PartConfig(name='b c', size=Size(channels=(4, 8), depth=1), rate=1e-05, on=True, "
    assert printed.replace("PosixPath", "Path") == expected + "folder=Path('a/b'), weights={'gabor': 0.5}, limit=None)"
    assert said.startswith("$ lesion-diffusion one-part --name 'b c' --size.channels '[4, 8]' --rate 1e-05 --on true ")
    again = subprocess.run([sys.executable, str(one_part), *shlex.split(said)[3:]], capture_output=True, text=True)
    assert again.stdout == printed + "\n", again.stderr


def test_the_settings_of_a_script_are_its_whole_config_without_running_it(one_part, capsys):
    settings = script_settings("one_part", OPTIONS)
    plain = {"folder": "a/b", "size": {"channels": [4, 8], "depth": 1}}
    assert settings == {name: value for name, value in OPTIONS.items() if "." not in name} | plain
    assert capsys.readouterr().out == ""


def test_bad_options_of_a_script_end_who_runs_it(one_part, capsys):
    for run_or_ask in (run_script, script_settings):
        with pytest.raises(SystemExit) as end:
            run_or_ask("one_part", {"colour": "red"})
        assert end.value.code == 2 and "unknown option --colour; known: name, size" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="error: name '': expected one"):
        run_script("one_part", {"name": ""})


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
