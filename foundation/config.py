"""Typed configuration: a frozen dataclass, filled from a YAML file and command-line overrides by jsonargparse.

A script asks for its config between the dataclass and the imports that take seconds, so that help, a mistake or a
missing file ends it at once:

    @dataclass(frozen=True)
    class EncodeConfig: ...

    ARGUMENTS = read_arguments(EncodeConfig, __name__)

    import torch  # and all else that `main` needs

    def main(config: EncodeConfig) -> None: ...

    if __name__ == "__main__":
        launch(main, ARGUMENTS)

So this module, and every module that a config takes a type or a default from, imports nothing heavy.
"""

import dataclasses
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from foundation.output import check_output
from foundation.threads import use_threads

ConfigT = TypeVar("ConfigT")
SHIPPED_PIPELINE = "lung-nodule-small"  # in `models`: what scripts take where no other pipeline is named
LARGEST = 2**18  # bytes of a config file
LONGEST = 800  # characters of a message; a damaged file may hold a key of a million
NUMBER_LIST = re.compile(r"^-?[\d.]+(e-?\d+)?(,\s*-?[\d.]+(e-?\d+)?)+$")


class MustExist(NamedTuple):
    """Metadata of a field that names an input; `parse_config` looks for it on disk.

    Attributes:
        kind: What it has to be.
        or_remote: The value may also be a Hub repository, a URL or a word such as "none"; then it is looked for only
            if it plainly is a path: it starts with `.`, `/` or `~`, or has more than one `/`.
        listed: The value is a text, `PATH` or `name=PATH,name=PATH`.
    """

    kind: Literal["file", "folder", "file or folder"]
    or_remote: bool = False
    listed: bool = False

    def __repr__(self) -> str:  # what --help shows as the type
        return f"existing {self.kind}{' or remote' * self.or_remote}{', several as name=,name=' * self.listed}"


class Output(NamedTuple):
    """Metadata of a field that names what is written; `parse_config` refuses a path that cannot be.

    Attributes:
        kind: What it will be.
    """

    kind: Literal["file", "folder"]

    def __repr__(self) -> str:  # what --help shows as the type
        return f"{self.kind} to write"


class Least(NamedTuple):
    """Metadata of a whole number that has a least value; `parse_config` refuses a lower one, and one of 63 bits."""

    value: int

    def __repr__(self) -> str:  # what --help shows as the type
        return f"at least {self.value}"


ExistingFile = Annotated[Path, MustExist("file")]
ExistingFolder = Annotated[Path, MustExist("folder")]
ExistingPath = Annotated[Path, MustExist("file or folder")]
Seed = Annotated[int, Least(0)]
OutputFile = Annotated[Path, Output("file")]
OutputFolder = Annotated[Path, Output("folder")]
ModelSource = Annotated[str, MustExist("folder", or_remote=True)]  # folder, Hub repository or URL
WeightsSource = Annotated[str, MustExist("file", or_remote=True)]  # file, or the word for weights that are fetched
MixedPrecision = Literal["no", "bf16", "fp16"]


def read_arguments(config_type: type[ConfigT], module_name: str) -> ConfigT | None:
    """The config of a script that is run, from its command line; None for a script that another one imports.

    Args:
        config_type: As in `parse_config`.
        module_name: The script's `__name__`.
    Raises: SystemExit: As `parse_config`.
    """
    return parse_config(config_type) if module_name == "__main__" else None


def read_command(config_types: Mapping[str, type], module_name: str) -> Any:
    """As `read_arguments`, for a script whose first argument is a sub-command, each with a config of its own.

    Args:
        config_types: Sub-command -> type.
        module_name: The script's `__name__`.
    Raises: SystemExit: As `parse_config`; with status 2 and one line if there is no such sub-command.
    """
    if module_name != "__main__":
        return None
    known = ", ".join(config_types)
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in config_types:
        return parse_config(config_types[name], arguments)
    if name in ("-h", "--help"):
        print(sys.modules["__main__"].__doc__, f"sub-commands: {known}; each has its own --help", sep="\n")
        raise SystemExit
    if name.startswith("-"):
        _refuse(f"unknown option {_normalise(name)}; known: sub-commands {known}")
    _refuse(f"{name}: no such sub-command; known: {known}")


def parse_config(config_type: type[ConfigT], argv: Sequence[str] | None = None) -> ConfigT:
    """Build a config from `--config file.yaml` and overrides such as `--out-dir runs/a` or `--model.channels 16,32`.

    Later values win, so an override goes after `--config`, and a second `--config` may say only what differs. Types
    are checked against the dataclass's annotations, inputs annotated with `MustExist` are looked for, and a path
    annotated with `Output` must be one that can be written; `--out-dir` and `--out_dir` are the same option, and
    `1,2,3` and `malignancy,texture` are lists.

    Args:
        config_type: Frozen dataclass; the Attributes section of its docstring becomes the `--help` text.
        argv: Arguments without the program's name; None takes those of the process.
    Returns: An instance of `config_type`.
    Raises: SystemExit: With one sentence. With status 2 for a mistake in the file or on the command line: the unknown
        key and the known ones, or the value that does not fit its type. With status 1 for a missing input, an output
        that cannot be written, or what the config's `__post_init__` refuses by a ValueError.
    """
    arguments = [_normalise(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    arguments = _bracketed(config_type, arguments)
    parser = jsonargparse.ArgumentParser(
        description=getattr(sys.modules.get("__main__"), "__doc__", None), exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below")
    parser.add_class_arguments(config_type)
    for path in _config_files(arguments):
        _check_file(config_type, path)
    for argument in arguments:
        option = argument.split("=")[0]
        if option.startswith("--") and option not in ("--config", "--help", "--print_config"):
            nested = _nest(option[2:].split("."))
            for key, known in _unknown_keys(config_type, nested):
                _refuse(f"unknown option --{key}; known: {', '.join(known)}")
    try:
        namespace = parser.parse_args(arguments)
    except (jsonargparse.ArgumentError, RecursionError) as error:
        message = _sentence(config_type, str(error))
        files = ", ".join(map(str, _config_files(arguments)))
        _refuse(f"{files}: {message}" if files and not message.startswith("--") else message)
    namespace.pop("config", None)
    try:
        config = config_type(**vars(parser.instantiate(namespace)))
        _check_values(config)
    except (ValueError, OSError, TypeError) as error:  # the last where a group of options is no group
        raise SystemExit(f"error: {shortened(str(error))}") from error
    return config


def launch(main: Callable[[ConfigT], None], config: ConfigT | None) -> None:
    """Run a script's `main` on its config; bad input (ValueError, OSError) ends in one line instead of a traceback.

    A config with a field `threads` sets how many this process computes with (`foundation.threads`).

    Args:
        main: What the script does.
        config: From `read_arguments` or `parse_config`.
    Raises: SystemExit: With that line and status 1.
    """
    assert config is not None, "read_arguments gives a config to the script that is run"
    try:
        if hasattr(config, "threads"):
            use_threads(config.threads)
        main(config)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {shortened(str(error))}") from error


def shortened(message: str) -> str:
    """A message as it is shown: what cannot be printed is left out, and no line is longer than `LONGEST` characters.

    Args:
        message: It may quote a damaged file, for example a cell of a million characters.
    """
    lines = ["".join(filter(str.isprintable, line)) for line in message.split("\n")]
    return "\n".join(line if len(line) <= LONGEST else f"{line[:LONGEST]} ..." for line in lines)


def take_old_name(config: Any, old: str, new: str) -> None:
    """Let a field's old name fill the new one, with a warning; for `__post_init__`, while version 0.1 lasts.

    Args:
        config: Frozen dataclass with both fields, each None where it is not given.
        old, new: Names of the fields.
    Raises: ValueError: If both are given.
    """
    if getattr(config, old) is None:
        return
    old_option, option = ("--" + name.replace("_", "-") for name in (old, new))
    if getattr(config, new) is not None:
        raise ValueError(f"{option} and {old_option} are the same option; pass {option} alone")
    print(f"warning: {old_option} is now {option}; version 0.2 will not know the old name", file=sys.stderr)
    object.__setattr__(config, new, getattr(config, old))
    object.__setattr__(config, old, None)


def config_dict(config: Any) -> dict[str, Any]:
    """The config as plain YAML types (paths as strings, tuples as lists), for run folders and trackers."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def _refuse(message: str) -> NoReturn:
    """End with status 2 and one line, whoever found the mistake; the usage of thirty options would hide it."""
    print(f"error: {shortened(' '.join(message.split()))}; --help explains every option", file=sys.stderr)
    raise SystemExit(2)


def _normalise(argument: str) -> str:
    """`--a-b=1,2` -> `--a_b=[1,2]`, `1,2` -> `[1,2]`; everything else is left as it is."""
    if argument.startswith("--"):
        option, equals, value = argument.partition("=")
        return "--" + option[2:].replace("-", "_") + equals + (_normalise(value) if equals else "")
    return f"[{argument}]" if NUMBER_LIST.match(argument) else argument


def _bracketed(config_type: type, arguments: Sequence[str]) -> list[str]:
    """The arguments with the values of options that hold a list as `[a,b]`, as YAML writes a list."""
    bracketed, takes = [], False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            takes = _takes_list(config_type, option[2:])
            if takes and equals:
                argument, takes = f"{option}={_as_list(value)}", False
        elif takes:
            argument, takes = _as_list(argument), False
        bracketed.append(argument)
    return bracketed


def _as_list(value: str) -> str:
    return value if value.startswith("[") or value == "null" else f"[{value}]"


def _takes_list(config_type: type, option: str) -> bool:
    """Whether a field, `group.field` of a group, is a tuple or a list and nothing else than perhaps None."""
    annotation: Any = config_type
    for name in option.split("."):
        annotation = get_type_hints(annotation).get(name) if dataclasses.is_dataclass(annotation) else None
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return all(get_origin(kind) in (tuple, list) for kind in kinds if kind is not type(None)) and annotation is not None


def _config_files(arguments: Sequence[str]) -> list[Path]:
    following = [Path(b) for a, b in itertools.pairwise(arguments) if a == "--config"]
    return following + [Path(a.split("=", 1)[1]) for a in arguments if a.startswith("--config=")]


def _check_file(config_type: type, path: Path) -> None:
    """Refuse a config file that is missing, no YAML mapping, or has an unknown key."""
    if not path.is_file():
        _refuse(f"--config {path}: no such file")
    if path.stat().st_size > LARGEST:
        _refuse(f"{path}: {path.stat().st_size} bytes, expected a config of at most {LARGEST}")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except Exception as error:  # PyYAML raises many kinds on damaged files
        _refuse(f"{path}: not YAML ({type(error).__name__}: {error})")
    if not isinstance(content, Mapping):
        _refuse(f"{path}: expected `key: value` lines, got {type(content).__name__}")
    for key, known in _unknown_keys(config_type, content):
        _refuse(f"{path}: unknown key `{key}`; known keys: {', '.join(known)}")
    for key in _empty_groups(config_type, content):
        _refuse(f"{path}: `{key}` is a group of options and holds none; remove the line, or write options below it")


def _sentence(config_type: type, message: str) -> str:
    """What the parser says of a value that does not fit its type, as option, value and expectation."""
    found = re.match(r'Parser key "([\w.]+)":', message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    if found is None or value is None:
        return re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)
    annotation: Any = config_type
    for name in found[1].split("."):
        if not dataclasses.is_dataclass(annotation):  # a group that may be left out, or a table
            return re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)
        annotation = get_type_hints(annotation)[name]
    return f"--{found[1].replace('_', '-')} {value[1].strip('[]')}: expected {_expected(annotation)}"


def _expected(annotation: Any) -> str:
    """A type in words."""
    inner = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_expected(kind) for kind in inner if kind is not type(None))
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if get_origin(annotation) is tuple and Ellipsis not in inner:
        return f"{len(inner)} values with commas between them, each {_expected(inner[0])}"
    if get_origin(annotation) in (tuple, list):
        return f"values with commas between them, each {_expected(inner[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return words.get(annotation, getattr(annotation, "__name__", "another"))


def _nest(keys: Sequence[str]) -> dict[str, Any]:
    return {keys[0]: _nest(keys[1:]) if len(keys) > 1 else None}


def _unknown_keys(config_type: type, content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, list[str]]]:
    """(key, known keys beside it) for each key, at any depth, that is no field of the dataclass."""
    types = get_type_hints(config_type)
    known = [field.name for field in dataclasses.fields(config_type)]
    unknown = []
    for key, value in content.items():
        if key not in known:
            unknown.append((prefix + str(key), [prefix + name for name in known]))
        elif isinstance(value, Mapping) and dataclasses.is_dataclass(types[key]):
            unknown += _unknown_keys(types[key], value, f"{prefix}{key}.")
    return unknown


def _empty_groups(config_type: type, content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys of known groups, at any depth, that have no value."""
    types = get_type_hints(config_type)
    for key, value in content.items():
        if dataclasses.is_dataclass(types[key]):
            if value is None:
                yield prefix + key
            elif isinstance(value, Mapping):
                yield from _empty_groups(types[key], value, f"{prefix}{key}.")


def _check_values(config: Any, prefix: str = "--") -> None:
    """Raise ValueError for the first field, at any depth, that is a path that is not there, of another kind or cannot
    be written, or a number that is none or too low."""
    types = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        option, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _check_values(value, f"{option}.")
        rule = _rule(types[field.name])
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{option} nan, expected a number; leave the option out for its default")
        if isinstance(rule, Least) and value is not None and not rule.value <= value < 2**62:
            raise ValueError(f"{option} {value}, expected a whole number from {rule.value} to 2^62 - 1; choose another")
        if isinstance(rule, Output) and value is not None:
            check_output(value, rule.kind, option)
        if not isinstance(rule, MustExist):
            continue
        for text in _paths(rule, value):
            path = Path(text)
            exists = {"file": path.is_file, "folder": path.is_dir, "file or folder": path.exists}[rule.kind]
            if not exists():
                fault = f"is no {rule.kind}" if path.exists() else f"no such {rule.kind}"
                if path.is_symlink() and not path.exists():
                    fault = "is a link that leads nowhere or to itself"
                raise ValueError(f"{option} {text}: {fault}; check the spelling, or make it first")


def _rule(annotation: Any) -> MustExist | Output | Least | None:
    """The metadata of an annotation such as `ExistingFile | None` or `tuple[ExistingFile, ...]`."""
    if isinstance(annotation, (MustExist, Output, Least)):
        return annotation
    for inner in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        rule = _rule(inner)
        if rule is not None:
            return rule
    return None


def _paths(rule: MustExist, value: Any) -> Iterator[str]:
    """The local paths that a field's value names."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        for part in str(item).split(",") if rule.listed else [str(item)]:
            text = part.rpartition("=")[2] if rule.listed else part
            is_path = text.startswith((".", "/", "~")) or (text.count("/") > 1 and "://" not in text)
            if item is not None and text and (is_path or not rule.or_remote):
                yield text
