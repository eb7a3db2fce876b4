"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side, on tiny tensors
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles PyTorch and Diffusers anew: 12 s of CPU
sys.dont_write_bytecode = False

import plain_layout  # noqa: F401 - for all figures of this process
import pytest
from chain import chain, phantom_dataset  # noqa: F401 - fixtures
from hub_server import hub_server  # noqa: F401 - a fixture


@pytest.fixture
def real_data_dir() -> Path:
    """The folder of real LIDC data; the test is skipped where there is none."""
    if "LESION_DIFFUSION_DATA" not in os.environ:
        pytest.skip("set LESION_DIFFUSION_DATA to the folder of real LIDC data")
    return Path(os.environ["LESION_DIFFUSION_DATA"])
