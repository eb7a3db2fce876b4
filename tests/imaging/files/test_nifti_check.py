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
