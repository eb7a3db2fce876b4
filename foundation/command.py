"""The console command `lesion-diffusion`, whose sub-commands are the scripts: inpaint_nodules.py is `inpaint-nodules`.

A script runs as `python scripts/NAME.py` does, under its own `--help`. Listing them imports none. For tab completion
put this into the shell's profile: `eval "$(register-python-argcomplete lesion-diffusion)"`.

No script imports another. One that needs another's work runs it by `run_script`, as a user would by its options.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import runpy
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foundation.rooms import check_rooms
from foundation.shipped import shipped

NAME = "lesion-diffusion"
SHORT_NAMES = {"page": "serve-page"}


def main() -> None:
    """Run the script that the first argument names, with the others; without one, list them.

    Raises: SystemExit: As the script does; with status 2 and one line if there is no such script.
    """
    try:
        check_rooms()
    except ImportError as error:
        raise SystemExit(f"error: {error}") from error
    scripts = {path.stem.replace("_", "-"): path for path in sorted(shipped("scripts").glob("[!_]*.py"))}
    if "_ARGCOMPLETE" in os.environ:
        _complete(scripts)
    name, *arguments = sys.argv[1:] or ["--help"]
    name = SHORT_NAMES.get(name, name)
    if name in ("-h", "--help"):
        print(_overview(scripts))
    elif name == "--version":
        print(f"{NAME} {version(NAME)}")
    elif name in scripts:
        _run(scripts[name], arguments)
    else:
        print(f"error: {NAME} {name}: no such sub-command; known: {', '.join(scripts)}", file=sys.stderr)
        raise SystemExit(2)


def run_script(name: str | Path, options: Mapping[str, Any]) -> None:
    """Run a script in this process, as its command line would, and print that command line.

    Args:
        name: As its file is called, such as "train_ldm"; or the path of one that is no sub-command.
        options: Option -> value of the config's type, with `model.channels` for one of a group; the later of two wins.
            `config` may be several files.
    Raises: SystemExit: As the script does where its input is bad.
    """
    arguments = _arguments(options)
    if isinstance(name, Path):
        print(f"$ python {name} {shlex.join(arguments)}", flush=True)
        _run(name, arguments)
    else:
        print(f"$ {NAME} {name.replace('_', '-')} {shlex.join(arguments)}", flush=True)
        _run(shipped("scripts") / f"{name}.py", arguments)


def script_settings(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a script's config is with these options, its defaults included, as plain YAML types; runs nothing.

    Args:
        name, options: As for `run_script`.
    Raises: SystemExit: If an option or a key of a config file is unknown, or a value is of another type.
    """
    import yaml

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            _run(shipped("scripts") / f"{name}.py", [*_arguments(options), "--print_config"])
    except SystemExit as end:
        if end.code:
            raise
    return yaml.safe_load(printed.getvalue())


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line has them."""

    def text(value: Any) -> str:
        if isinstance(value, str | Path):
            return str(value)
        return json.dumps(value, default=str)  # null, true, numbers, lists

    words = []
    for name, value in options.items():
        for one in value if name == "config" and isinstance(value, list) else [value]:
            words += [f"--{name}", text(one)]
    return words


def _run(script: Path, arguments: list[str]) -> None:
    argv = sys.argv
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = argv


def _overview(scripts: dict[str, Path]) -> str:
    """Every sub-command with the first line of its script's docstring."""
    width = max(map(len, scripts), default=0)
    lines = [f"usage: {NAME} SUB-COMMAND [OPTIONS]", "", "sub-commands, each with its own --help:"]
    for name, script in scripts.items():
        purpose = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append(f"  {name:<{width}}  {purpose}")
    lines += ["", f"configs: {shipped('configs')}", f"scripts, for accelerate launch: {shipped('scripts')}"]
    return "\n".join(lines)


def _complete(scripts: dict[str, Path]) -> None:
    """Answer the shell's tab key with sub-commands, or hand it on to the script whose options are asked for."""
    typed = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    if len(typed) > 2 and typed[1] in scripts:
        os.environ["_ARGCOMPLETE"] = "2"  # the words begin at the sub-command
        _run(scripts[typed[1]], [])
    import argcomplete

    parser = argparse.ArgumentParser()
    parser.add_argument("sub-command", choices=list(scripts))
    argcomplete.autocomplete(parser)
