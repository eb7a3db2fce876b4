"""Configs from YAML and the command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml

from foundation.config import (
    ExistingFile,
    ExistingFolder,
    ExistingPath,
    ModelSource,
    MustExist,
    Seed,
    config_dict,
    launch,
    parse_config,
    read_arguments,
)


@dataclass(frozen=True)
class Model:
    """A part.

    Attributes:
        channels: Width of each level.
        dropout: Share of features.
    """

    channels: tuple[int, ...] = (32, 96)
    dropout: float = 0.1


@dataclass(frozen=True)
class Config:
    """A script's settings.

    Attributes:
        out_dir: Folder for the results.
        model: The network.
        steps: How many.
        center: Voxel index z,y,x.
        attributes: Wanted character.
        policy: One of two.
        max_minutes: Limit.
        flips: Whether to flip.
    """

    out_dir: Path
    model: Model = field(default_factory=Model)
    steps: int = 10
    center: tuple[float, float, float] | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    policy: Literal["strict", "lax"] = "strict"
    max_minutes: float | None = None
    flips: bool = True


@dataclass(frozen=True)
class Lists:
    """Lists.

    Attributes:
        names: Of ratings.
        shares: Of something.
        model: The network.
        either: One or several.
    """

    names: tuple[str, ...] | None = None
    shares: tuple[float, ...] = (1.0,)
    model: Model = field(default_factory=Model)
    either: tuple[str, ...] | str = ()


@dataclass(frozen=True)
class Part:
    """A part with an input.

    Attributes:
        weights: File.
    """

    weights: ExistingFile | None = None


@dataclass(frozen=True)
class Inputs:
    """A script's inputs.

    Attributes:
        data: Folder.
        scan: File or folder.
        merge: Folders.
        model: Folder, repository or URL.
        sets: Folders with names.
        part: A part.
        at_least_one: Number.
    """

    data: ExistingFolder
    scan: ExistingPath | None = None
    merge: tuple[ExistingFolder, ...] = ()
    model: ModelSource | None = None
    sets: Annotated[str | None, MustExist("folder", listed=True)] = None
    part: Part = field(default_factory=Part)
    at_least_one: int = 1

    def __post_init__(self) -> None:
        if self.at_least_one < 1:
            raise ValueError(f"at_least_one {self.at_least_one}: expected 1 or more")


def refusal(argv, capsys) -> str:
    """The one line with which the parser ends."""
    with pytest.raises(SystemExit) as end:
        parse_config(Config, argv)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and line.endswith("; --help explains every option")
    return line


def yaml_file(folder, text) -> str:
    (folder / "experiment-a.yaml").write_text(text)
    return str(folder / "experiment-a.yaml")


def test_defaults_are_those_of_the_dataclass():
    assert parse_config(Config, ["--out_dir", "runs/a"]) == Config(Path("runs/a"))


def test_the_command_line_overrides_the_file_which_overrides_the_defaults(tmp_path):
    file = yaml_file(tmp_path, "out_dir: runs/a\nsteps: 20\nmodel:\n  channels: [8, 16]\n  dropout: 0.3\n")
    assert parse_config(Config, ["--config", file]) == Config(Path("runs/a"), Model((8, 16), 0.3), 20)
    config = parse_config(Config, [f"--config={file}", "--steps", "30", "--model.channels", "4,8,12"])
    assert config == Config(Path("runs/a"), Model((4, 8, 12), 0.3), 30)


def test_a_second_file_says_what_differs_at_any_depth_and_a_mistake_in_it_names_it(tmp_path, capsys):
    base = yaml_file(tmp_path, "out_dir: runs/a\nsteps: 20\nmodel:\n  channels: [8, 16]\n  dropout: 0.3\n")
    second = tmp_path / "differs.yaml"
    second.write_text("model:\n  dropout: 0.5\nflips: false\n")
    config = parse_config(Config, ["--config", base, "--config", str(second)])
    assert config == Config(Path("runs/a"), Model((8, 16), 0.5), 20, flips=False)
    second.write_text("model:\n  drop: 0.5\n")
    message = refusal(["--config", base, "--config", str(second)], capsys)
    assert "differs.yaml: unknown key `model.drop`; known keys: model.channels, model.dropout" in message


def test_options_are_written_with_hyphens_or_underscores_and_lists_with_commas():
    argv = ["--out-dir=my-run", "--center", "-1.5,20,3e2", "--attributes.malignancy", "malignant", "--flips", "false"]
    config = parse_config(Config, [*argv, "--policy", "lax", "--max-minutes", "0.5"])
    assert config == Config(
        Path("my-run"),
        center=(-1.5, 20, 300),
        attributes={"malignancy": "malignant"},
        policy="lax",
        max_minutes=0.5,
        flips=False,
    )


def test_an_unknown_key_of_a_file_is_named_with_the_file_and_the_known_ones(tmp_path, capsys):
    message = refusal(["--config", yaml_file(tmp_path, "out_dir: a\nstep: 3\n")], capsys)
    assert "experiment-a.yaml: unknown key `step`; known keys: out_dir, model, steps, center" in message
    message = refusal(["--config", yaml_file(tmp_path, "out_dir: a\nmodel:\n")], capsys)
    assert "experiment-a.yaml: `model` is a group of options and holds none" in message
    message = refusal(["--config", yaml_file(tmp_path, "out_dir: a\nmodel:\n  width: 3\n")], capsys)
    assert "experiment-a.yaml: unknown key `model.width`; known keys: model.channels, model.dropout" in message


def test_an_unknown_option_is_named_with_the_known_ones(capsys):
    assert "unknown option --step; known: out_dir, model, steps" in refusal(["--out-dir", "a", "--step", "3"], capsys)
    message = refusal(["--out-dir", "a", "--model.width=3"], capsys)
    assert "unknown option --model.width; known: model.channels, model.dropout" in message


@pytest.mark.parametrize(
    ("option", "value"),
    [("--steps", "many"), ("--policy", "loose"), ("--center", "1,2"), ("--model.channels", "1,a"), ("--flips", "2")],
)
def test_a_value_of_another_type_is_refused_and_its_field_named(option, value, capsys):
    message = refusal(["--out-dir", "a", option, value], capsys)
    assert option.removeprefix("--").split(".")[0] in message


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--steps many", "--steps many: expected a whole number"),
        ("--center 60,5", "--center 60, 5: expected 3 values with commas between them, each a number;"),
        ("--policy loose", "--policy loose: expected one of "),
        ("--model.channels 1,a", "--model.channels "),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_value_and_what_is_expected(option, sentence, capsys):
    message = refusal(["--out-dir", "a", *option.split()], capsys)
    assert message.startswith(f"error: {sentence}")
    assert "Union" not in message and "<class" not in message


@pytest.mark.parametrize("value", ["malignancy,texture", "[malignancy,texture]", "malignancy, texture"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_list_of_texts_needs_no_brackets(value, joined):
    arguments = [f"--names={value}"] if joined else ["--names", value]
    assert parse_config(Lists, arguments) == Lists(names=("malignancy", "texture"))


def test_a_list_of_one_a_list_in_a_group_and_none():
    arguments = ["--shares", "0.5", "--model.channels", "8", "--names", "null"]
    assert parse_config(Lists, arguments) == Lists(shares=(0.5,), model=Model(channels=(8,)))
    assert parse_config(Lists, ["--either", "a,b"]).either == "a,b"  # may be a text: stays as it is


@dataclass(frozen=True)
class Numbers:
    """Numbers.

    Attributes:
        seed: Of everything random.
        share: Of something.
    """

    seed: Seed = 0
    share: float | None = None


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--seed=-1", "--seed -1, expected a whole number from 0 to 2^62 - 1; choose another"),
        (f"--seed={2**62}", f"--seed {2**62}, expected a whole number from 0 to"),
        ("--share=.nan", "--share nan, expected a number; leave the option out for its default"),
    ],
)
def test_a_number_that_is_none_or_too_low_is_refused_with_what_is_expected(option, sentence):
    with pytest.raises(SystemExit) as end:
        parse_config(Numbers, [option])
    assert end.value.code.startswith(f"error: {sentence}")
    assert parse_config(Numbers, ["--seed", str(2**62 - 1)]).seed == 2**62 - 1


def test_missing_files_fields_and_files_that_are_no_mapping_are_named(tmp_path, capsys):
    assert "out_dir" in refusal([], capsys)
    assert "--config nowhere.yaml: no such file" in refusal(["--config", "nowhere.yaml"], capsys)
    message = refusal(["--config", yaml_file(tmp_path, "- a\n- b\n")], capsys)
    assert "experiment-a.yaml: expected `key: value` lines, got list" in message
    message = refusal(["--config", yaml_file(tmp_path, "model: {channels: [1\n")], capsys)
    assert "experiment-a.yaml: not YAML" in message and "line 2" in message


def test_a_written_config_gives_the_config_again(tmp_path):
    config = Config(tmp_path / "a", Model((4,), 0.0), 3, (1.5, 2, 3), {"malignancy": "benign"}, "lax", None, False)
    file = yaml_file(tmp_path, yaml.safe_dump(config_dict(config)))
    assert parse_config(Config, ["--config", file]) == config


def test_bad_input_ends_a_script_in_one_line_and_a_bug_does_not():
    def script(error):
        def main(config: Config) -> None:
            raise error

        return main

    for error in (ValueError("scan.nii: empty"), OSError("scan.nii: empty")):
        with pytest.raises(SystemExit) as end:
            launch(script(error), Config(Path("a")))
        assert end.value.code == "error: scan.nii: empty"  # Python prints a string and exits with status 1
    with pytest.raises(KeyError):
        launch(script(KeyError("bug")), Config(Path("a")))


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """The working folder, with a folder `data` and a file `scan.nii`."""
    (tmp_path / "data").mkdir()
    (tmp_path / "scan.nii").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data nowhere", "--data nowhere: no such folder; check the spelling, or make it first"),
        ("--data scan.nii", "--data scan.nii: is no folder"),
        ("--data loop", "--data loop: is a link that leads nowhere or to itself; check the spelling"),
        ("--data data --scan nowhere", "--scan nowhere: no such file or folder"),
        ("--data data --merge [data,nowhere]", "--merge nowhere: no such folder"),
        ("--data data --model ./nowhere", "--model ./nowhere: no such folder"),
        ("--data data --model /no", "--model /no: no such folder"),
        ("--data data --model runs/vae/model", "--model runs/vae/model: no such folder"),
        ("--data data --sets a=data,b=nowhere", "--sets nowhere: no such folder"),
        ("--data data --part.weights data", "--part.weights data: is no file"),
        ("--data data --at-least-one 0", "at_least_one 0: expected 1 or more"),
    ],
)
def test_an_input_that_is_not_there_is_named_with_its_option_and_a_remedy(inputs, options, message):
    with pytest.raises(SystemExit) as end:
        parse_config(Inputs, options.split())
    assert end.value.code.startswith(f"error: {message}") and "\n" not in end.value.code


@pytest.mark.parametrize(
    "options",
    [
        "--scan scan.nii --part.weights scan.nii --merge [data,.] --sets a=data,b=. --model data",
        "--scan data --model owner/name --sets data",
        "--model http://127.0.0.1:8000/a",
    ],
)
def test_inputs_that_are_there_and_models_that_may_be_elsewhere_are_taken(inputs, options):
    config = parse_config(Inputs, ["--data", "data", *options.split()])
    assert config.data == Path("data")


def test_only_the_script_that_is_run_reads_the_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script.py", "--out-dir", "a"])
    assert read_arguments(Config, "__main__") == Config(Path("a"))
    assert read_arguments(Config, "train_vae") is None


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as end:
        parse_config(Config, ["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Voxel index z,y,x." in text and "Width of each level." in text


@pytest.mark.parametrize(
    "content",
    [
        "out: 2001-99-99\n",
        "seed: " + "9" * 5000,
        "out: !!timestamp x\n",
        "out: !!int x\n",
        "seed: " + "[" * 10_000,
        "out: " + "x" * 1_000_000,
        "k" * 100_000 + ": 1\n",
    ],
)
def test_a_damaged_config_file_ends_in_one_short_sentence_that_names_it(tmp_path, capsys, content):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(SystemExit) as end:
        parse_config(Config, ["--config", str(path)])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith(f"error: {path}: ") and said.count("\n") == 1 and len(said) < 1000


def test_a_message_that_quotes_a_damaged_file_is_shown_short_and_printable():
    def main(config):
        raise ValueError("a.csv: 2 problems\nx '" + "9" * 10_000 + "'\ny \x1b[31m\x00")

    with pytest.raises(SystemExit) as end:
        launch(main, Config(Path(".")))
    lines = str(end.value.code).split("\n")
    assert lines[0] == "error: a.csv: 2 problems" and lines[1].endswith("999 ...") and len(lines[1]) < 1000
    assert lines[2] == "y [31m"
