"""The console command `lesion-diffusion`, whose sub-commands are the scripts: inpaint_nodules.py is `inpaint-nodules`.

A script runs as `python scripts/NAME.py` does: with its folder first on the path, as scripts import one another, and
under its own `--help`. Listing them imports none. For tab completion put this into the shell's profile:
`eval "$(register-python-argcomplete lesion-diffusion)"`.
"""

import argparse
import ast
import os
import runpy
import sys
from importlib.metadata import version
from pathlib import Path

from foundation.shipped import shipped

NAME = "lesion-diffusion"


def main() -> None:
    """Run the script that the first argument names, with the others; without one, list them.

    Raises: SystemExit: As the script does; with status 2 and one line if there is no such script.
    """
    scripts = {path.stem.replace("_", "-"): path for path in sorted(shipped("scripts").glob("[!_]*.py"))}
    if "_ARGCOMPLETE" in os.environ:
        _complete(scripts)
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_overview(scripts))
    elif name == "--version":
        print(f"{NAME} {version(NAME)}")
    elif name in scripts:
        _run(scripts[name], arguments)
    else:
        print(f"error: {NAME} {name}: no such sub-command; known: {', '.join(scripts)}", file=sys.stderr)
        raise SystemExit(2)


def _run(script: Path, arguments: list[str]) -> None:
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


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
