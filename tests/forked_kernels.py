"""Kernels of notebooks, and the `lesion-diffusion` commands of their cells, forked as `tests/forked.py` says."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import ipykernel_launcher

# It asks the process of the tests to fork the command, and ends as the command does.
COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as ask:
    ask.connect({address!r})
    request = dict(argv=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ), pid=os.getpid())
    ask.sendall(json.dumps(request).encode())
    ask.shutdown(socket.SHUT_WR)
    sys.exit(int(ask.recv(9) or 1))
"""


class Kernel(forked.Popen):
    """In place of `jupyter_client.launcher.launch_kernel`."""

    stdin = stderr = None

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: str | Path, **_: Any):
        # the server is its parent, and not this process, whose end it would else watch for
        process = forked.start(
            Path(ipykernel_launcher.__file__),
            command[command.index("-f") :],
            Path(os.devnull),
            {**env, "JPY_PARENT_PID": ""},
            folder=cwd,
        )
        self.processes, self.pid, self.stdout = [process], process.pid, None
        while os.getpgid(self.pid) != self.pid:  # its group is signalled: not yet that of the tests
            time.sleep(0.001)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.processes[0].kill()


def forked_command(folder: Path) -> None:
    """Write `folder/lesion-diffusion`, whose scripts run in forks until this process ends.

    Both streams of a script go to the command's standard output.
    """
    address = str(folder / "commands")
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    command = folder / "lesion-diffusion"
    command.write_text(COMMAND.format(python=sys.executable, address=address))
    command.chmod(0o755)
    threading.Thread(target=_answer, args=[server], daemon=True).start()


def _answer(server: socket.socket) -> None:
    script = Path(sys.executable).with_name("lesion-diffusion")
    while True:
        asked, _ = server.accept()
        with asked, asked.makefile("rb") as stream:
            request = json.load(stream)
            log = Path(f"/proc/{request['pid']}/fd/1")
            process = forked.start(script, request["argv"], log, request["environment"], folder=request["folder"])
            process.join()
            asked.sendall(str(process.exitcode and abs(process.exitcode)).encode())
