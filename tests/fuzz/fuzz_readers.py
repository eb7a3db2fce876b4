"""Feed damaged files to every reader and count what it does with them.

    uv run python tests/fuzz/fuzz_readers.py --files 2000
    uv run python tests/fuzz/fuzz_readers.py --files 2000 --readers nifti,dicom --seed 1 --keep /tmp/faults

A reader may read a file, or refuse it by a ValueError or OSError of one clear sentence that names it (a config: by
SystemExit). Faults are: a crash of the process, more than 5 s of computing, more than 1 GiB of memory, an exception of
another type, and an unclear message. Files are read in a child process under a memory limit. Case n of a reader depends
on the seed, the reader and n alone. The exit status is 1 if there is a fault.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

MEMORY = 2**30  # bytes that reading one file may take
SECONDS, PATIENCE = 5, 120  # of computing; and of waiting, on a busy machine
START = 900  # seconds until a process is ready: files that unpack to gigabytes are made first
MOST_BOMBS = 100  # files made by hand, which come first
SHARED_MEMORY = Path("/dev/shm")  # where it exists, files are written there
LONGEST = 1000  # characters of a message
Files = dict[str, bytes]
KINDS = ("read", "refused", "crash", "hang", "memory", "exception", "message")
NAMED_OPTION = re.compile(r"error: --[\w.-]+")  # of a config: its value does not fit
LISTING = re.compile(r"\d+ problems\n")  # a table's problems are listed, one a line
ALLOCATION = re.compile(  # HDF5's "past end of allocation" is a place in a file
    r"(?<!past end of )allocat|bad_alloc|out of memory|MemoryError", re.IGNORECASE
)


class Case(NamedTuple):
    """One damaged input. Attributes: reader: Its name. number: From 0; the first are the bombs made by hand."""

    reader: str
    number: int


class Outcome(NamedTuple):
    """What a reader did. Attributes: case: The input. kind: One of KINDS. detail: The exception and its message."""

    case: Case
    kind: str
    detail: str


def fuzz(cases: Sequence[Case], seed: int = 0, keep: Path | None = None) -> Iterator[Outcome]:
    """Read damaged inputs in forked processes; one that dies is replaced, and its input counts as a crash.

    Args:
        cases: What to read.
        seed: Of all damage.
        keep: Folder for the inputs that show a fault; None keeps none.
    Returns: The outcomes, in the cases' order.
    """
    import fuzz.inputs  # noqa: F401  # the imports take seconds; each forked process has them already

    left = list(cases)
    while left:
        outcome = None
        for outcome in _child(tuple(left), seed):
            left.pop(0)
            if keep is not None and outcome.kind not in ("read", "refused"):
                _write(damaged(outcome.case, seed), keep / f"{outcome.case.reader}_{outcome.case.number}")
            yield outcome
        if outcome is None:
            raise RuntimeError("the process that reads the damaged files does not start")


def _child(cases: Sequence[Case], seed: int) -> Iterator[Outcome]:
    """Outcomes of a forked process, until it has done all or must be given up."""
    reading, writing = os.pipe()
    scratch = tempfile.TemporaryDirectory(prefix="fuzz_", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            _serve(cases, seed, Path(scratch.name), os.fdopen(writing, "w", buffering=1))
        finally:
            os._exit(0)
    os.close(writing)
    lines = os.fdopen(reading)
    try:
        if not _answer(lines, pid, START, START):
            return
        for case in cases:
            line = _answer(lines, pid, SECONDS)
            if line is None:
                yield Outcome(case, "hang", f"more than {SECONDS} s")
                return
            if not line:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                pid = 0
                yield Outcome(case, "crash", f"exit status {status}")
                return
            yield Outcome(case, *json.loads(line))
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        lines.close()
        scratch.cleanup()


def _answer(lines: TextIO, pid: int, seconds: float, patience: float = PATIENCE) -> str | None:
    """The next line of a process, empty if it died; None if it computes or is waited for too long."""
    started, computed = time.monotonic(), _cpu_seconds(pid)
    while not select.select([lines], [], [], 0.2)[0]:
        if _cpu_seconds(pid) - computed > seconds or time.monotonic() - started > patience:
            return None
    return lines.readline()


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def damaged(case: Case, seed: int) -> Files:
    """The files of a case, by their path in the input's folder."""
    from fuzz.inputs import READERS
    from fuzz.mutations import mutated

    reader, valid = READERS[case.reader], _valid(case.reader)
    if case.number < MOST_BOMBS and case.number < len(bombs := _bombs(case.reader)):
        return bombs[case.number]
    rng = random.Random(f"{seed}/{case.reader}/{case.number}")
    path = rng.choice([name for name in sorted(valid) if not name.endswith(reader.spared or ("/",))])
    return valid | {path: mutated(valid[path], rng, reader.is_text and not path.endswith((".raw", ".npy", ".arrow")))}


@cache
def _valid(name: str) -> Files:
    from fuzz.inputs import READERS

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        READERS[name].make(folder)
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }


@cache
def _bombs(name: str) -> list[Files]:
    from fuzz.inputs import READERS

    return list(READERS[name].bombs(_valid(name)))


def _write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _serve(cases: Sequence[Case], seed: int, scratch: Path, answers: TextIO) -> None:
    """The forked process: writes a line when it is ready, and one for each outcome."""
    from fuzz.inputs import READERS

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # libraries print warnings about damaged files
    warnings.simplefilter("ignore")
    for name in dict.fromkeys(case.reader for case in cases):
        folder = scratch / name
        _write(_valid(name), folder)
        if any(case.number < MOST_BOMBS for case in cases):
            _bombs(name)  # they may take more memory to make than to read
        for _ in range(2):  # what is loaded at the first use is not the reader's memory
            with contextlib.suppress(Exception, SystemExit):
                READERS[name].read(folder)
        shutil.rmtree(folder)
    data = _status("VmData") + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    print("ready", file=answers)
    for case in cases:
        folder = scratch / "input"
        _write(damaged(case, seed), folder)
        answer = _outcome(READERS[case.reader], folder)
        shutil.rmtree(folder)
        print(json.dumps(answer), file=answers)


def _outcome(reader: Any, folder: Path) -> tuple[str, str]:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    from foundation.config import shortened

    before, error = _status("VmRSS"), None
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            reader.read(folder)
    except (Exception, SystemExit) as raised:
        error = raised
    taken = _status("VmHWM") - before
    if error is None:
        return ("memory", f"{taken / 2**20:.0f} MiB") if taken > MEMORY else ("read", "")
    message = shortened(str(error))  # as every script shows it
    if isinstance(error, SystemExit):
        message = said.getvalue().removesuffix("\n") if error.code == 2 else str(error.code)
    detail = f"{type(error).__name__}: {message[:LONGEST]}"
    if taken > MEMORY or any(ALLOCATION.search(f"{type(one).__name__} {one}") for one in _chain(error)):
        return "memory", f"{taken / 2**20:.0f} MiB, {detail}"
    own = type(error) in (ValueError, SystemExit) or (
        isinstance(error, OSError) and type(error).__module__ == "builtins"
    )
    if not own:
        return "exception", detail
    lines = [message] if not LISTING.search(message) else message.split("\n")
    named = str(folder) in message or NAMED_OPTION.match(message)
    clear = named and len(message) <= LONGEST * len(lines) and all(map(str.isprintable, lines))
    return "refused" if clear else "message", detail


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(field: str) -> int:
    """A size of this process in bytes, from the kernel."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Fuzz the readers named on the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="damaged inputs for each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--readers", default="", help="names with commas between; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that show a fault")
    arguments = parser.parse_args()
    sys.path[:1] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    from fuzz.inputs import READERS
    from tqdm import tqdm

    names = arguments.readers.split(",") if arguments.readers else list(READERS)
    print(f"| {'reader':16} | " + " | ".join(f"{kind:9}" for kind in KINDS) + " |\n|---|" + "---:|" * len(KINDS))
    faults: list[Outcome] = []
    for name in names:
        cases = [Case(name, number) for number in range(arguments.first, arguments.first + arguments.files)]
        counts: Counter[str] = Counter()
        for outcome in tqdm(fuzz(cases, arguments.seed, arguments.keep), name, len(cases), leave=False):
            counts[outcome.kind] += 1
            if outcome.kind not in ("read", "refused"):
                faults.append(outcome)
                tqdm.write(
                    f"{outcome.case.reader} {outcome.case.number}: {outcome.kind}: {outcome.detail!r:.400}", sys.stderr
                )
        print(f"| {name:16} | " + " | ".join(f"{counts[kind]:9}" for kind in KINDS) + " |", flush=True)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
