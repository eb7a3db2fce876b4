"""The check of a GPU, on a CPU with tiny models, and without what a GPU machine may lack."""

import json
from pathlib import Path

import pytest
from forked import expect, start

DEVICE_CHECK = Path(__file__).with_name("device_check.py")


def checked(tmp_path: Path, *options: object) -> str:
    """What tests/gpu/device_check.py prints that can import neither SimpleITK nor pyradiomics, and sees no GPU."""
    log = tmp_path / "log"
    expect(start(DEVICE_CHECK, options, log, {"OMP_NUM_THREADS": "1"}, without="SimpleITK radiomics"), log)
    return log.read_text()


@pytest.mark.slow
def test_all_parts_of_the_device_check_run_without_simpleitk_and_pyradiomics(tmp_path):
    checked(tmp_path, "--device", "cpu", "--tiny", "true", "--minutes", "30", "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out/device_check.json").read_text())
    assert found["train_vae"]["resumed_apart"] == found["train_ldm"]["bf16"]["resumed_apart"] == 0  # on a CPU exactly
    assert found["sampling"]["hu_from_cpu"] == 0 and found["sampling"]["lesions_per_minute"] > 0
    variants = [row["variant"] for row in found["throughput"]["rows"]]
    assert variants == ["float32", "bf16", "bf16, torch.compile"]
    assert all(row["tflops"] > 0 and row["samples_per_second"] > 0 for row in found["throughput"]["rows"])


@pytest.mark.slow
def test_without_a_gpu_the_device_check_says_so_and_does_nothing(tmp_path):
    printed = checked(tmp_path, "--out", tmp_path / "out")
    assert printed == "skipped: PyTorch finds no CUDA GPU on this machine; nothing was checked\n"
    assert not (tmp_path / "out").exists()
