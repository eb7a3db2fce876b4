"""Freed memory is kept, where the C library is glibc."""

import platform

import pytest
from forked import expect, start

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
def test_the_pages_of_a_freed_tensor_are_used_again(tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(CODE)
    expect(start(script, [], log), log)
    kept, faults = log.read_text().split()
    assert kept == "True" and int(faults) < 1024  # less than a single tensor's
