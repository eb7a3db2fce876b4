"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

import pytest
from hub_server import hub_server  # noqa: F401 - a fixture

# pytest puts this folder on the path, where `tests/imaging` would stand for the package `imaging`; a package with an
# `__init__.py` anywhere on the path goes before it, so the project's root has to be there too (also for `scripts`)
sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture
def real_data_dir() -> Path:
    """The folder of real LIDC data; the test is skipped where there is none."""
    if "LESION_DIFFUSION_DATA" not in os.environ:
        pytest.skip("set LESION_DIFFUSION_DATA to the folder of real LIDC data")
    return Path(os.environ["LESION_DIFFUSION_DATA"])
