"""Threads under launchers: all cores, shared by the processes, unless the user has set a number."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from foundation import threads as threads_module
from foundation.command import script_settings
from foundation.config import launch, parse_config
from foundation.threads import OF_QUEUES, core_count, use_threads

ROOT = Path(__file__).parents[2]
ACCELERATE = "-m accelerate.commands.launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
TORCHRUN = "-m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 2"
LAUNCHER = """
import os, subprocess, sys
os.environ |= {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)
"""
# these end soon, have one thread for each of their --workers, or run other scripts by their options
SHORT = (
    "demo",
    "export_layout",
    "measure_balance",
    "plot_time_weights",
    "push_to_hub",
    "ship_pipeline",
    "prepare_lidc",
    "prepare_nodules",
    "prepare_shapes",
    "reading_study",
)
PROBE = """
import os, sys
import torch
from foundation import threads
from foundation.threads import use_threads
threads.usable_cores = lambda: 8
before = torch.get_num_threads()
use_threads()
torch.nn.Conv3d(16, 16, 3)(torch.randn(4, 16, 16, 16, 16)).sum().backward()
system = len(os.listdir("/proc/self/task"))
sys.stdout.write(f"<{os.environ['OMP_NUM_THREADS']} {before} {torch.get_num_threads()} {system}>")
"""


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that are asked of PyTorch, on a machine of eight cores."""
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(threads_module, "core_count", lambda: 8)
    monkeypatch.setattr(threads_module, "_parent_was_given", lambda variable: False)
    monkeypatch.setattr(threads_module, "QUOTA", Path("/nothing"))
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")] + ["LOCAL_WORLD_SIZE", *OF_QUEUES]:
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, [8]),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, [4]),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "3", "ACCELERATE_USE_CPU": "true"}, [2]),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "16"}, [1]),
        ({"OMP_NUM_THREADS": "3", "LOCAL_WORLD_SIZE": "2"}, []),  # the user's
        ({"OMP_NUM_THREADS": "1"}, []),  # no launcher
    ],
)
def test_processes_of_a_launcher_share_the_cores_and_others_are_left_alone(threads, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    use_threads()
    assert threads == expected


def test_without_a_word_about_threads_pytorch_decides(threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    use_threads()
    assert threads == []


def test_a_single_thread_that_the_user_asked_for_is_kept_under_a_launcher(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(threads_module, "_parent_was_given", lambda variable: variable == "OMP_NUM_THREADS")
    use_threads()
    assert threads == []


@pytest.mark.parametrize(
    ("environment", "quota", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "4"}, "max 100000", [4]),  # a job of an array has part of the machine
        ({}, "200000 100000", [2]),  # a container of two cores
        ({}, "50000 100000", [1]),
        ({}, "max 100000", []),  # the whole machine: PyTorch decides
        ({"NSLOTS": "16"}, "max 100000", []),
        ({"SLURM_CPUS_PER_TASK": "4", "OMP_NUM_THREADS": "6"}, "max 100000", []),  # the user's
        ({"SLURM_CPUS_PER_TASK": "6", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, "max 100000", [3]),
    ],
)
def test_a_process_that_may_use_fewer_cores_computes_on_those(
    threads, monkeypatch, tmp_path, environment, quota, expected
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads_module, "QUOTA", tmp_path / "cpu.max")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    use_threads()
    assert threads == expected


def test_the_number_of_the_command_line_counts_first_and_also_for_what_is_started(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        use_threads(3)
        assert threads == [3] and os.environ["OMP_NUM_THREADS"] == "3"
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    with pytest.raises(ValueError, match="threads 0, expected at least 1, or null for the default"):
        use_threads(0)


@dataclass(frozen=True)
class Config:
    """Attributes: threads: CPU threads."""

    threads: int | None = None


def test_a_launched_script_computes_with_the_threads_of_its_config(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch(lambda config: threads.append("main"), parse_config(Config, ["--threads", "2"]))
    assert threads == [2, "main"]


def test_every_long_script_has_the_option():
    scripts = {path.stem for path in (ROOT / "scripts").glob("[!_]*.py")} - set(SHORT)
    assert [name for name in sorted(scripts) if "threads" not in script_settings(name, {})] == []


def probed(launcher: list[str], script: Path, omp: str | None) -> list[list[int]]:
    """OMP_NUM_THREADS, PyTorch's threads before and after, and the system's threads of each launched process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment.pop("OMP_NUM_THREADS", None)
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | ({"OMP_NUM_THREADS": omp} if omp else {})
    script.write_text(PROBE)
    command = [sys.executable, *launcher, str(script)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [[int(number) for number in found.split()] for found in re.findall("<(.*?)>", ended.stdout)]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "processes"), [(ACCELERATE, 1), (TORCHRUN, 2)])
def test_a_launched_process_computes_on_its_share_of_the_cores(launcher, processes, tmp_path):
    launched = probed(launcher.split(), tmp_path / "probe.py", omp=None)
    assert [found[:3] for found in launched] == [[1, 1, 8 // processes]] * processes
    assert all(found[3] >= 8 // processes for found in launched)  # they exist, although OpenMP was initialised with one


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux tells the launcher's environment")
def test_a_launched_process_keeps_the_one_thread_that_the_user_set(tmp_path):
    ((*threads, _),) = probed(["-c", LAUNCHER], tmp_path / "probe.py", omp="1")
    assert threads == [1, 1, 1]


def test_cores_that_this_process_may_not_use_are_not_counted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert core_count() == 1
