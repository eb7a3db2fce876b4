"""MetaImage headers that do not fit their voxels, on files of SimpleITK."""

import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from imaging.files.ct import read_ct
from imaging.files.metaimage_check import check_metaimage


@pytest.fixture
def ct_hu():
    return np.random.default_rng(0).integers(-1000, 300, (4, 5, 6)).astype(np.int16)


def written(path, ct_hu, compressed=False):
    sitk.WriteImage(sitk.GetImageFromArray(ct_hu), str(path), compressed)
    return path


def changed(path, key, value):
    """The same file with another value of a field; the voxels behind a text header stay."""
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(
        b"\n".join(f"{key} = {value}".encode() if line.startswith(key.encode() + b" =") else line for line in lines)
    )


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_files_of_simpleitk_pass(tmp_path, ct_hu, suffix, compressed, dtype):
    path = written(tmp_path / f"ct{suffix}", ct_hu.astype(dtype), compressed)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(path, crop=True)), ct_hu)


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("DimSize", "2000 2000 2000", "declares 2000 x 2000 x 2000 voxels, expected a volume of 1 to"),
        ("DimSize", "900 900 900", "cut off, .* where its header announces 1458000000 or more"),
        ("DimSize", "-6 5 4", "declares -6 x 5 x 4 voxels"),
        ("DimSize", "6 5", r"NDims '3', DimSize \[6, 5\]; expected NDims = 3 and three sizes"),
        ("DimSize", "6 5 many", "DimSize = '6 5 many', expected whole numbers"),
        ("ElementType", "MET_STRING", "ElementType 'MET_STRING', expected one of MET_CHAR"),
        ("CompressedData", "maybe", "CompressedData = 'maybe', expected True or False"),
        ("BinaryData", "False", "voxels as text"),
        ("TransformMatrix", "1 0 0 0 1 0 1e308 0 1", "TransformMatrix = .*, expected numbers of at most 2"),
        ("Offset", "0 nan 0", "Offset = '0 nan 0', expected numbers of at most 1e.06"),
        ("ElementSpacing", "1 wide 1", "ElementSpacing = '1 wide 1', expected numbers"),
        ("ElementDataFile", "/dev/zero", ".*expected LOCAL or the name of one file beside it"),
        ("ElementDataFile", "../ct.raw", ".*expected LOCAL or the name of one file beside it"),
        ("ElementDataFile", "LIST", ".*expected LOCAL or the name of one file beside it"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_before_memory_is_taken(tmp_path, ct_hu, key, value, fault):
    path = written(tmp_path / "ct.mha", ct_hu)
    changed(path, key, value)
    with pytest.raises(ValueError, match=rf"ct\.mha: {fault}"):
        read_ct(path, crop=True)


def test_compressed_voxels_are_unpacked_no_further_than_announced(tmp_path, ct_hu):
    path = written(tmp_path / "ct.mha", ct_hu, compressed=True)
    content = path.read_bytes()
    head = content[: content.index(b"LOCAL\n") + 6]
    path.write_bytes(head + zlib.compress(bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"unpacks to \d+ bytes or more where its header announces 240"):
        check_metaimage(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    path.write_bytes(head + zlib.compress(bytes(200)))
    with pytest.raises(ValueError, match="unpacks to 200 bytes where its header announces 240"):
        check_metaimage(path)
    path.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"ct\.mha"):
        check_metaimage(path)


def test_a_file_without_a_header_is_refused(tmp_path):
    (tmp_path / "ct.mha").write_bytes(bytes(1000))
    with pytest.raises(ValueError, match="no MetaImage header that ends with ElementDataFile"):
        read_ct(tmp_path / "ct.mha")
