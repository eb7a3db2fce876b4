"""configs: each file is read by the launch command in its head, and its values are those that the script gets.

configs/accelerate has tests of its own, for Accelerate reads those files.
"""

import importlib
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from evaluation.baselines.config import ORDER, BaselinesConfig
from evaluation.baselines.methods import layers_of, method_of
from foundation.config import config_dict, parse_config

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "accelerate"
)
BASELINES = Path("configs/baselines")
INPUTS = {"--data", "--other", "--vae", "--initial", "--pipeline", "--real", "--synthetic", "--train"}
Keys = tuple[str, ...]


def launch_command(path: Path) -> tuple[str, list[str]]:
    """Script and arguments of the command in a file's head, up to `...`, which stands for options left out."""
    head = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
    last = next(number for number, line in enumerate(head) if not line.endswith("\\"))
    command = " ".join(line.removesuffix("\\") for line in head[: last + 1])
    uv, run, script, *argv = shlex.split(command.partition(" ...")[0])
    assert (uv, run) == ("uv", "run")
    return script, argv


def layers(path: Path) -> list[Path]:
    """The files whose values a launch reads, this one last."""
    if path.is_relative_to(BASELINES):
        return layers_of(path, BASELINES)
    _, argv = launch_command(ROOT / path)
    return [Path(value) for option, value in pairwise(argv) if option == "--config"]


DIFFERENCES = [path for path in FILES if len(layers(path)) > 1]


def resolved(script: str, argv: list[str]) -> dict[Keys, Any]:
    """What a script makes of a launch command whose inputs are there."""
    for option, value in pairwise(argv):
        if option in INPUTS:
            Path(value).mkdir(parents=True, exist_ok=True)
    main = importlib.import_module(f"scripts.{Path(script).stem}").main
    return leaves(config_dict(parse_config(get_type_hints(main)["config"], argv)))


def resolved_method(name: str) -> dict[Keys, Any]:
    """What run_baselines makes of a method's configs."""
    inputs = {"data": Path(), "latents": Path(), "vae": Path(), "configs": BASELINES}
    return leaves(method_of(BaselinesConfig(**inputs, out=Path("out"), budget_minutes=1), name).settings)


def leaves(content: dict[str, Any]) -> dict[Keys, Any]:
    """Values by their keys, at any depth."""
    flat: dict[Keys, Any] = {}
    for key, value in content.items():
        nested = leaves(value) if isinstance(value, dict) else {(): value}
        flat |= {(key, *rest): leaf for rest, leaf in nested.items()}
    return flat


@pytest.fixture(autouse=True)
def launch_folder(tmp_path, monkeypatch) -> None:
    """A folder to launch commands from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_launch_command_in_the_head_gives_the_script_every_value_of_the_file(path):
    script, argv = launch_command(path)
    assert (ROOT / script).is_file() and layers(path)[-1] == path
    given = leaves(yaml.safe_load(path.read_text()))
    if path.is_relative_to(BASELINES):
        assert (script, argv) == ("scripts/run_baselines.py", ["--methods", path.stem])
        config = resolved_method(path.stem)
        if given.pop(("vae",), None) == "identity":
            assert config[("vae",)] == "out/pixel/model"
    else:
        config = resolved(script, argv)
    assert given and {key: config[key] for key in given} == given


@pytest.mark.parametrize("path", DIFFERENCES, ids=str)
def test_a_file_that_says_what_differs_from_another_repeats_nothing(path):
    if path.is_relative_to(BASELINES):
        before = resolved_method(layers(path)[-2].stem)
    else:
        script, argv = launch_command(path)
        last = argv.index(str(path))
        before = resolved(script, argv[: last - 1] + argv[last + 1 :])
    given = leaves(yaml.safe_load(path.read_text()))
    assert not {key: value for key, value in given.items() if before.get(key) == value}


def test_later_parts_of_the_shipped_trainings_and_most_baselines_say_what_differs():
    names = {str(path.relative_to("configs")) for path in DIFFERENCES}
    parts = ("vae_2", "vae_3", "ldm_2", "ldm_3", "ldm_4")
    assert {f"shipped/{part}.yaml" for part in parts} < names
    assert {path.stem for path in DIFFERENCES if path.is_relative_to(BASELINES)} == set(ORDER) - {
        "ddpm_pixel",
        "ldm_concat",
    }
