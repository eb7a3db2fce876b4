"""Lesions per minute of scripts/synthesize.py, by processes, batch size and number; all processes make the same files.

    uv run benchmarks/speed/synthesize.py --scans scan_folder
    uv run benchmarks/speed/synthesize.py --scans scan_folder --processes '[1]' --options="--mixed-precision bf16"
    uv run benchmarks/speed/synthesize.py --scans scan_folder --processes '[1]' --batch-sizes '[1, 2, 4, 8]'
    uv run benchmarks/speed/synthesize.py --scans scan_folder --processes '[1]' --lesions '[24, 99, 399]'

Each case is the script from its start to its end, one thread a process, into a folder of its own; then the same command
again, which finds everything there: what that takes is the start (imports, weights), which a long run pays once. A run
before them, not counted, leaves the libraries compiled to bytecode. CPU seconds, of all processes together, hardly
depend on what else runs; the wall clock does. A core's lesions per minute are 60 over the CPU seconds of a lesion
without the start. Memory is the peak of the largest process.
"""

import hashlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from foundation.config import SHIPPED_PIPELINE, ExistingFolder, ModelSource, launch, parse_config

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        scans: Folder of scans.
        lesions: Cases, made by each number of processes in batches of each size.
        lesions_per_scan: In each output.
        pipeline: What paints.
        processes, batch_sizes: More cases, each with each. Files are compared between cases that differ in
            processes alone: a larger batch rounds differently.
        options: Further options of the script, as on its command line.
        work: Folder for the results, which must not exist; none takes a temporary one.
    """

    scans: ExistingFolder
    lesions: tuple[int, ...] = (24,)
    lesions_per_scan: int = 3
    pipeline: ModelSource = SHIPPED_PIPELINE
    processes: tuple[int, ...] = (1, 2)
    batch_sizes: tuple[int, ...] = (4,)
    options: str = ""
    work: Path | None = None


class Case(NamedTuple):
    """How one run is made."""

    processes: int
    batch: int
    lesions: int


class Usage(NamedTuple):
    """What a command took, its children included."""

    wall_s: float
    cpu_s: float
    peak_gb: float


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = config.work or Path(temporary)
        print(
            f"{config.lesions_per_scan} lesions a scan, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}\n"
        )
        print(
            "| processes | batch | made / samples | CPU s (start) | CPU s a lesion | lesions a core-minute | ", end=""
        )
        print("wall s (start) | GB |\n|---|---|---|---|---|---|---|---|", flush=True)
        used(config, Case(1, 1, config.lesions_per_scan), work / "first", work, "--max-minutes", "0")
        for lesions, batch in itertools.product(config.lesions, config.batch_sizes):
            made_by = [files_of(config, Case(count, batch, lesions), work) for count in config.processes]
            if any(files != made_by[0] for files in made_by):
                raise ValueError(f"{work}: the files differ between numbers of processes, expected the same bytes")
            if len(made_by) > 1:
                print(f"\nthe same {len(made_by[0])} files, to the byte, by any number of processes\n", flush=True)


def files_of(config: Config, case: Case, work: Path) -> dict[Path, str]:
    """Measure a case, print its row, and give the SHA-256 of each file that it wrote."""
    out = work / "_".join(map(str, case))
    whole, again = used(config, case, out, work), used(config, case, out, work)
    table = pd.read_parquet(out / "manifest.parquet")
    made = int(table.accepted.sum())
    if not made:
        raise ValueError(f"{out}: none of {len(table)} samples was accepted; see its manifest for the reasons")
    each_s = (whole.cpu_s - again.cpu_s) / made
    print(
        f"| {case.processes} | {case.batch} | {made} / {len(table)} | {whole.cpu_s:.0f} ({again.cpu_s:.0f}) | ", end=""
    )
    print(
        f"{each_s:.1f} | {60 / each_s:.0f} | {whole.wall_s:.0f} ({again.wall_s:.0f}) | {whole.peak_gb:.1f} |",
        flush=True,
    )
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and ".locks" not in path.parts]
    files = {path.relative_to(out): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    shutil.rmtree(out)
    return files


def used(config: Config, case: Case, out: Path, work: Path, *more: str) -> Usage:
    """Run the script to its end, with bytecode kept in `work`."""
    count = case.processes
    command = [sys.executable, *((*TORCHRUN, str(count)) if count > 1 else ()), str(ROOT / "scripts/synthesize.py")]
    command += ["--scans", str(config.scans), "--pipeline", config.pipeline, "--out", str(out), "--device", "cpu"]
    command += ["--lesions", str(case.lesions), "--lesions-per-scan", str(config.lesions_per_scan)]
    command += ["--batch-size", str(case.batch), "--no-nodules-known", "true"]
    command += [*shlex.split(config.options), *more]
    started = time.perf_counter()
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    variables["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
    process = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(f"{' '.join(command)}: ended with status {os.waitstatus_to_exitcode(status)}")
    seconds = time.perf_counter() - started
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


if __name__ == "__main__":
    launch(main, parse_config(Config))
