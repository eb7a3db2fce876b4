"""MATLAB files of version 5: SciPy writes what is read, and damaged files take no memory."""

import struct
import zlib

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from imaging.files.matlab import MOST_UNPACKED, read_matlab

HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def element(kind, content, size=None):
    return struct.pack("<II", kind, len(content) if size is None else size) + content + bytes(-len(content) % 8)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", "i8", "?"])
def test_variables_are_read_as_scipy_reads_them(tmp_path, dtype, compressed):
    array = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, (3, 4, 5)).astype(dtype)
    savemat(tmp_path / "a.mat", {"x": array, "y": "text", "s": {"z": array[0]}}, do_compression=compressed)
    found, expected = read_matlab(tmp_path / "a.mat", ("x", "z", "absent")), loadmat(tmp_path / "a.mat")
    assert found.keys() == {"x", "z"}
    np.testing.assert_array_equal(found["x"], expected["x"])
    np.testing.assert_array_equal(found["z"], expected["s"]["z"][0, 0])


def test_a_file_of_a_big_endian_computer_is_read(tmp_path):
    flags, shape = struct.pack(">IIII", 6, 8, 9, 0), struct.pack(">IIII", 5, 8, 2, 3)
    name, numbers = struct.pack(">HH4s", 1, 1, b"x"), struct.pack(">II6B2x", 2, 6, *range(6))
    content = flags + shape + name + numbers
    (tmp_path / "a.mat").write_bytes(HEAD[:124] + b"\x01\x00MI" + struct.pack(">II", 14, len(content)) + content)
    np.testing.assert_array_equal(read_matlab(tmp_path / "a.mat", ("x",))["x"], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(loadmat(tmp_path / "a.mat")["x"], [[0, 2, 4], [1, 3, 5]])


VARIABLE = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<ii", 2, 3)) + element(1, b"x")
STRUCT = element(6, struct.pack("<II", 2, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"s")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (element(14, VARIABLE + element(2, bytes(5))), "cannot reshape"),
        (element(14, VARIABLE + element(2, b"", 2**32 - 8)), "an element of 4294967288 bytes where 0 are left"),
        (element(14, VARIABLE + element(2, bytes(6)) * 2), "x is no array of real numbers"),  # complex
        (element(14, STRUCT + element(5, struct.pack("<i", 1)) + element(1, b"a" * 9999)), "field names of 1 and"),
        (element(15, zlib.compress(element(14, VARIABLE))[:-9]), "unpacks to another size"),
        (element(15, b"no zlib stream"), "error: Error -3"),
        (element(15, zlib.compress(element(14, VARIABLE) + bytes(9))), "unpacks to another size"),
        (element(15, zlib.compress(element(14, VARIABLE, MOST_UNPACKED + 1))), "it unpacks to more than"),
    ],
)
def test_damaged_files_are_refused_before_memory_is_taken(tmp_path, content, fault):
    (tmp_path / "a.mat").write_bytes(HEAD + content)
    with pytest.raises(ValueError, match=rf"a\.mat: cannot be read as a MATLAB file .*{fault}.*is it complete"):
        read_matlab(tmp_path / "a.mat", ("x",))


@pytest.mark.parametrize("head", [b"", HEAD[:90], HEAD[:124] + b"\x00\x01??", bytes(128)])
def test_what_is_no_matlab_file_of_version_5_or_later_is_refused(tmp_path, head):
    (tmp_path / "a.mat").write_bytes(head)
    with pytest.raises(ValueError, match=r"a\.mat: cannot be read as a MATLAB file"):
        read_matlab(tmp_path / "a.mat", ("x",))


def test_datasets_of_hdf5_that_only_declare_their_size_or_lie_elsewhere_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    for options in (
        {"shape": (2000, 2000, 400), "chunks": (100, 100, 100), "compression": "gzip"},
        {"shape": (8, 1, 1), "external": [(str(tmp_path / "secret"), 0, 8)]},
    ):
        with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
            file.create_dataset("x", dtype="i1", **options)
        with (tmp_path / "a.mat").open("r+b") as file:
            file.write(HEAD[:124] + b"\x00\x02IM")
        with pytest.raises(ValueError, match=r"a\.mat: cannot be read as a MATLAB file .ValueError: x is"):
            read_matlab(tmp_path / "a.mat", ("x",))


def test_a_packed_part_of_hdf5_that_declares_more_than_the_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        item = file.create_dataset("x", data=np.zeros((7, 5, 3), "i2"), chunks=(7, 5, 3), compression="gzip")
        size = struct.pack("<II", item.id.get_chunk_info(0).size, 0)  # in the tree of parts, before its filters
    content = HEAD[:124] + b"\x00\x02IM" + (tmp_path / "a.mat").read_bytes()[128:]
    assert content.count(size) == 1
    (tmp_path / "a.mat").write_bytes(content.replace(size, struct.pack("<II", 2**31, 0)))
    with pytest.raises(ValueError, match=r"x has a packed part of 2147483648 bytes in a file of"):
        read_matlab(tmp_path / "a.mat", ("x",))
