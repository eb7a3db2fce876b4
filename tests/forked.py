"""Scripts in processes of their own, forked from one that has imported the large libraries.

A fresh interpreter spends seconds on importing PyTorch and Diffusers before a script does anything. The server imports
them once; a process that it forks has everything else to itself: arguments, environment, modules of the project,
random numbers, signals, exit status.
"""

import importlib
import multiprocessing
import os
import resource
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import plain_layout  # noqa: F401 - for the figures of scripts, too

ROOT = Path(__file__).parents[1]
LIBRARIES = [  # none of them imports SimpleITK, radiomics or a module of the project
    "accelerate",
    "datasets",
    "diffusers.models.modeling_utils",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.schedulers",
    "diffusers.training_utils",
    "matplotlib.pyplot",
    "pandas",
    "scipy.ndimage",
    "torch.utils.data",
    "torch.utils.tensorboard",
]
PATIENCE_S = 1200  # a hang fails the test; on a busy machine a step can take long

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(LIBRARIES)


def start(
    script: str | Path,
    argv: Sequence[object],
    log: Path,
    variables: Mapping[str, str] | None = None,
    without: str = "",
    folder: str | Path | None = None,
) -> BaseProcess:
    """Start a script on the CPU, in a session of its own.

    Args:
        script: Name of one in scripts/, or the path of another.
        argv: Its arguments.
        log: What it prints is appended to this file.
        variables: Environment variables beside this process's own.
        without: Modules that it cannot import, separated by spaces.
        folder: Where it starts; None is where the server did.
    Returns: The process; `pid`, `exitcode` as of `multiprocessing`.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **(variables or {})}
    path = script if isinstance(script, Path) else ROOT / f"scripts/{script}.py"
    arguments = (path, [str(one) for one in argv], log, environment, without.split(), folder)
    process = context.Process(target=_run, args=arguments)
    process.start()
    return process


def start_ranks(
    count: int,
    script: str | Path,
    argv: Sequence[object],
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> list[BaseProcess]:
    """Start `count` processes of one training or synthesis, with the variables that torchrun gives them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}
    common = {**(variables or {}), **address, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [start(script, argv, log, {**common, **rank}) for rank in ranks]


def expect(process: BaseProcess, log: Path, status: int = 0) -> None:
    """Wait for the process to end with this status, negative for a signal's number."""
    process.join(PATIENCE_S)
    assert process.exitcode == status, log.read_text()[-4000:]


def _run(
    script: Path,
    argv: list[str],
    log: Path,
    environment: dict[str, str],
    without: list[str],
    folder: str | Path | None,
) -> None:
    os.setsid()
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder or ".")
    _read_hub_variables_again()
    sys.modules.update(dict.fromkeys(without))  # type: ignore[arg-type]  # an import of None raises
    sys.argv = [str(script), *argv]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def _read_hub_variables_again() -> None:
    """The Hub's client was imported with the server's variables: a fork that has others would ask the real Hub."""
    from huggingface_hub import constants, hf_api

    importlib.reload(constants)
    hf_api.api.endpoint = constants.ENDPOINT


class Popen:
    """In place of `subprocess.Popen` and `os.wait4`, for a Python script: the same command, but forked.

    `python -m torch.distributed.run` is taken for the processes that it starts. Both streams go to `stdout`.
    """

    started: dict[int, "Popen"] = {}  # noqa: RUF012

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, stdout: Any = None, **_: Any):
        place = next(number for number, word in enumerate(command) if word.endswith(".py"))
        count = int(command[place - 1]) if "torch.distributed.run" in command else 1
        log = Path(os.devnull if isinstance(stdout, int) else stdout.name)
        if stdout == subprocess.PIPE:
            log = Path(tempfile.mkdtemp()) / "stdout"
            os.mkfifo(log)
        script, argv = Path(command[place]), command[place + 1 :]
        self.processes = start_ranks(count, script, argv, log, env) if count > 1 else [start(script, argv, log, env)]
        self.stdout = log.open() if stdout == subprocess.PIPE else None
        self.pid = self.processes[0].pid
        self.started[self.pid] = self

    def poll(self) -> int | None:
        ended = [process.exitcode for process in self.processes]
        return None if None in ended else max(ended)

    def wait(self, timeout: float | None = None) -> int | None:
        for process in self.processes:
            process.join(timeout)
        return self.poll()

    def terminate(self) -> None:
        for process in self.processes:
            process.terminate()

    @classmethod
    def wait4(cls, pid: int, options: int) -> tuple[int, int, resource.struct_rusage]:
        """The resources are not the process's."""
        status = cls.started[pid].wait(PATIENCE_S)
        return pid, 256 * abs(status or 0), resource.getrusage(resource.RUSAGE_SELF)
