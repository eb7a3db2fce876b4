"""Threads under launchers: all cores, shared by the processes, unless the user has set a number."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foundation import device
from foundation.device import core_count, torch_device, use_all_cores

ROOT = Path(__file__).parents[2]
ACCELERATE = "-m accelerate.commands.launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
TORCHRUN = "-m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node"
PROBE = """
import os, sys
import torch
from foundation.device import use_all_cores
before = torch.get_num_threads()
use_all_cores()
torch.nn.Conv3d(16, 16, 3)(torch.randn(4, 16, 16, 16, 16)).sum().backward()
system = len(os.listdir("/proc/self/task"))
sys.stdout.write(f"<{os.environ['OMP_NUM_THREADS']} {before} {torch.get_num_threads()} {system}>")
"""


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that are asked of PyTorch, on a machine of eight cores."""
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(device, "core_count", lambda: 8)
    monkeypatch.setattr(device, "_parent_was_given", lambda variable: False)
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")] + ["LOCAL_WORLD_SIZE"]:
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
    use_all_cores()
    assert threads == expected


def test_without_a_word_about_threads_pytorch_decides(threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    use_all_cores()
    assert threads == []


def test_a_single_thread_that_the_user_asked_for_is_kept_under_a_launcher(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(device, "_parent_was_given", lambda variable: variable == "OMP_NUM_THREADS")
    use_all_cores()
    assert threads == []


def probed(launcher: str, script: Path, omp: str | None) -> list[list[int]]:
    """OMP_NUM_THREADS, PyTorch's threads before and after, and the system's threads of each launched process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment.pop("OMP_NUM_THREADS", None)
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | ({"OMP_NUM_THREADS": omp} if omp else {})
    script.write_text(PROBE)
    command = [sys.executable, *launcher.split(), str(script)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [[int(number) for number in found.split()] for found in re.findall("<(.*?)>", ended.stdout)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux tells the launcher's environment")
@pytest.mark.parametrize(("launcher", "processes"), [(ACCELERATE, 1), (f"{TORCHRUN} 2", 2)])
def test_a_launched_process_computes_on_its_share_of_the_cores_unless_the_user_said_one(launcher, processes, tmp_path):
    share = max(1, core_count() // processes)
    launched = probed(launcher, tmp_path / "probe.py", omp=None)
    assert [found[:3] for found in launched] == [[1, 1, share]] * processes
    assert all(found[3] >= share for found in launched)  # they exist, although OpenMP was initialised with one
    assert [found[:3] for found in probed(launcher, tmp_path / "probe.py", omp="1")] == [[1, 1, 1]] * processes


def test_a_device_that_pytorch_does_not_find_is_refused():
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}', expected cpu, or cuda where PyTorch finds a GPU"):
            torch_device(name)


def test_processes_of_one_machine_take_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert torch_device("auto") == torch.device("cuda:0")
    for rank, number in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert torch_device("auto") == torch.device("cuda", number)
