import gzip
import tracemalloc

import numpy as np
import pytest

from imaging.files.nifti_check import check_nifti

OFFSETS = {348: (40, 70, 72, 108), 540: (16, 12, 14, 168)}  # dim, datatype, bitpix, vox_offset


def write_nifti(path, voxels, order, header_size):
    dim, datatype, bitpix, vox_offset = OFFSETS[header_size]
    wide, offset = ("i8", "i8") if header_size == 540 else ("i2", "f4")
    header = bytearray(544 if header_size == 540 else 352)
    for place, kind, values in (
        (0, "i4", header_size),
        (dim, wide, [voxels.ndim, *voxels.shape[::-1], 1, 1, 1, 1]),
        (datatype, "i2", {"f4": 16, "f8": 64, "i2": 4}[voxels.dtype.str[1:]]),
        (bitpix, "i2", voxels.itemsize * 8),
        (vox_offset, offset, len(header)),
    ):
        content = np.atleast_1d(values).astype(order + kind).tobytes()
        header[place : place + len(content)] = content
    path.write_bytes(bytes(header) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("header_size", [348, 540])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_both_versions_and_byte_orders_are_checked(tmp_path, order, header_size, dtype):
    voxels = np.full((3, 4, 5), 1000, dtype)
    path = tmp_path / "ct.nii"
    write_nifti(path, voxels, order, header_size)
    check_nifti(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"ct\.nii: cut off, \d+ bytes where its header announces \d+"):
        check_nifti(path)
    if dtype != np.int16:
        voxels[1, 2, 3:] = np.nan, -np.inf
        write_nifti(path, voxels, order, header_size)
        with pytest.raises(ValueError, match="2 voxels are NaN or infinite"):
            check_nifti(path)


def test_a_zipped_file_is_unpacked_no_further_than_its_header_announces(tmp_path):
    voxels = np.full((3, 4, 5), 1000, np.int16)
    write_nifti(tmp_path / "ct.nii", voxels, "<", 348)
    content = (tmp_path / "ct.nii").read_bytes()
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(content + bytes(1000)))  # some files end with a few bytes more
    check_nifti(path)
    path.write_bytes(gzip.compress(content + bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"ct\.nii\.gz: goes on after the 472 bytes that its header announces"):
        check_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("member", [b"", b"second"])
def test_a_damaged_sum_at_the_end_of_a_zipped_file_is_found(tmp_path, member):
    write_nifti(tmp_path / "ct.nii", np.full((3, 4, 5), 1000, np.int16), "<", 348)
    zipped = bytearray(gzip.compress((tmp_path / "ct.nii").read_bytes()))
    zipped[-6] ^= 1
    (tmp_path / "ct.nii.gz").write_bytes(bytes(zipped) + gzip.compress(member))
    with pytest.raises(ValueError, match="cannot be read as an image"):
        check_nifti(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ((2000, 2000, 2000), "declares 2000 x 2000 x 2000 voxels, expected a volume of 1 to 1073741824"),
        ((-1, 4, 5), "which is no image"),
        ((0, 4, 5), "which is no image"),
    ],
)
def test_sizes_that_no_scan_has_are_refused_before_memory_is_taken(tmp_path, sizes, fault):
    path = tmp_path / "ct.nii"
    write_nifti(path, np.zeros((3, 4, 5), np.int16), "<", 348)
    content = bytearray(path.read_bytes())
    content[42:48] = np.array(sizes, "<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=fault):
        check_nifti(path)
