"""Typed configuration: a frozen dataclass, filled from a YAML file and command-line overrides by jsonargparse."""

import dataclasses
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jsonargparse
import yaml

ConfigT = TypeVar("ConfigT")
NUMBER_LIST = re.compile(r"^-?[\d.]+(e-?\d+)?(,\s*-?[\d.]+(e-?\d+)?)+$")


def parse_config(config_type: type[ConfigT], argv: Sequence[str] | None = None) -> ConfigT:
    """Build a config from `--config file.yaml` and overrides such as `--out-dir runs/a` or `--model.channels 16,32`.

    Later values win, so an override goes after `--config`. Types are checked against the dataclass's annotations;
    `--out-dir` and `--out_dir` are the same option, and `1,2,3` is a list of numbers.

    Args:
        config_type: Frozen dataclass; the Attributes section of its docstring becomes the `--help` text.
        argv: Arguments without the program's name; None takes those of the process.
    Returns: An instance of `config_type`.
    Raises: SystemExit: With status 2 and one message: the file, the unknown key and the known ones, or the value
        that does not fit its type.
    """
    arguments = [_normalise(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    parser = jsonargparse.ArgumentParser(description=getattr(sys.modules.get("__main__"), "__doc__", None))
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below")
    parser.add_class_arguments(config_type)
    for path in _config_files(arguments):
        if not path.is_file():
            parser.error(f"--config {path}: no such file")
        content = yaml.safe_load(path.read_text()) or {}
        if not isinstance(content, Mapping):
            parser.error(f"{path}: expected `key: value` lines, got {type(content).__name__}")
        for key, known in _unknown_keys(config_type, content):
            parser.error(f"{path}: unknown key `{key}`; known keys: {', '.join(known)}")
    for argument in arguments:
        option = argument.split("=")[0]
        if option.startswith("--") and option not in ("--config", "--help", "--print_config"):
            nested = _nest(option[2:].split("."))
            for key, known in _unknown_keys(config_type, nested):
                parser.error(f"unknown option --{key}; known: {', '.join(known)}")
    namespace = parser.parse_args(arguments)
    namespace.pop("config", None)
    return config_type(**vars(parser.instantiate(namespace)))


def launch(main: Callable[[ConfigT], None], config_type: type[ConfigT], argv: Sequence[str] | None = None) -> None:
    """Run a script's `main` on its config; bad input (ValueError, OSError) ends in one line instead of a traceback.

    Raises: SystemExit: With that line and status 1; see also :func:`parse_config`.
    """
    config = parse_config(config_type, argv)
    try:
        main(config)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def config_dict(config: Any) -> dict[str, Any]:
    """The config as plain YAML types (paths as strings, tuples as lists), for run folders and trackers."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def _normalise(argument: str) -> str:
    """`--a-b=1,2` -> `--a_b=[1,2]`, `1,2` -> `[1,2]`; everything else is left as it is."""
    if argument.startswith("--"):
        option, equals, value = argument.partition("=")
        return "--" + option[2:].replace("-", "_") + equals + (_normalise(value) if equals else "")
    return f"[{argument}]" if NUMBER_LIST.match(argument) else argument


def _config_files(arguments: Sequence[str]) -> list[Path]:
    following = [Path(b) for a, b in itertools.pairwise(arguments) if a == "--config"]
    return following + [Path(a.split("=", 1)[1]) for a in arguments if a.startswith("--config=")]


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
