"""A small, seeded share of the damaged files that `fuzz_readers.py` makes: no reader may fail on one of them."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("fuzz_readers.py")
BEYOND_BOMBS = 100  # files made by hand come first; those that unpack to gigabytes take too long here


def test_every_reader_reads_or_refuses_damaged_files_by_a_clear_sentence():
    options = ["--files", "6", "--first", str(BEYOND_BOMBS)]
    ended = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert ended.stdout.count("\n| ") > 20  # a row for each reader
