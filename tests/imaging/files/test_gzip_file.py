"""Files compressed in blocks side by side are one ordinary gzip member."""

import gzip
import subprocess
import zlib

import numpy as np
import pytest

from imaging.files import gzip_file as module
from imaging.files.gzip_file import gzip_file


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 30_000])
def test_any_file_comes_back_from_gzip_of_python_and_of_the_system(tmp_path, monkeypatch, size):
    monkeypatch.setattr(module, "BLOCK", 1000)
    content = np.random.default_rng(0).integers(0, 9, size, np.uint8).tobytes()
    (tmp_path / "a").write_bytes(content)
    gzip_file(tmp_path / "a", tmp_path / "a.gz")
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == content
    unzipped = subprocess.run(["gzip", "-dc", str(tmp_path / "a.gz")], capture_output=True, check=True)
    assert unzipped.stdout == content


def test_the_file_is_a_single_member_as_readers_of_one_expect(tmp_path, monkeypatch):

    monkeypatch.setattr(module, "BLOCK", 1000)
    content = bytes(range(256)) * 40
    (tmp_path / "a").write_bytes(content)
    gzip_file(tmp_path / "a", tmp_path / "a.gz")
    reader = zlib.decompressobj(16 + zlib.MAX_WBITS)  # stops at the end of the first member
    assert reader.decompress((tmp_path / "a.gz").read_bytes()) == content
    assert reader.eof and reader.unused_data == b""


def test_blocks_of_zeros_are_made_small(tmp_path):
    (tmp_path / "mask").write_bytes(b"\0" * 5_000_000)
    gzip_file(tmp_path / "mask", tmp_path / "mask.gz")
    assert (tmp_path / "mask.gz").stat().st_size < 25_000
