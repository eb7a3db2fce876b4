"""The check of a GPU, on a CPU with tiny models, and without what a GPU machine may lack."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRECISE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def checked(tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    """tests/gpu/device_check.py in a process that can import neither SimpleITK nor pyradiomics, and sees no GPU."""
    for name in ("SimpleITK", "radiomics"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not there')")
    command = [sys.executable, str(ROOT / "tests/gpu/device_check.py"), *options]
    environment = os.environ | PRECISE | {"PYTHONPATH": str(tmp_path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.mark.slow
def test_all_parts_of_the_device_check_run_without_simpleitk_and_pyradiomics(tmp_path):
    ended = checked(tmp_path, "--device", "cpu", "--tiny", "true", "--minutes", "30", "--out", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    found = json.loads((tmp_path / "out/device_check.json").read_text())
    assert found["train_vae"]["resumed_apart"] == found["train_ldm"]["bf16"]["resumed_apart"] == 0  # on a CPU exactly
    assert found["sampling"]["hu_from_cpu"] == 0 and found["sampling"]["lesions_per_minute"] > 0
    variants = [row["variant"] for row in found["throughput"]["rows"]]
    assert variants == ["float32", "bf16", "bf16, torch.compile"]
    assert all(row["tflops"] > 0 and row["samples_per_second"] > 0 for row in found["throughput"]["rows"])


@pytest.mark.slow
def test_without_a_gpu_the_device_check_says_so_and_does_nothing(tmp_path):
    ended = checked(tmp_path, "--out", str(tmp_path / "out"))
    assert ended.returncode == 0 and not (tmp_path / "out").exists()
    assert ended.stdout == "skipped: PyTorch finds no CUDA GPU on this machine; nothing was checked\n"
