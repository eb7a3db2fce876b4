"""Freed memory is kept, where the C library is glibc."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from autoencoder.service.memory import keep_freed_memory
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(2**20)  # 4 MiB, 1024 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_the_pages_of_a_freed_tensor_are_used_again():
    command = [sys.executable, "-c", CODE]
    kept, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert kept == "True" and int(faults) < 1024  # less than a single tensor's
