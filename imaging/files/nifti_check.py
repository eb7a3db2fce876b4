"""What the NIfTI library under SimpleITK passes over in silence: it reads a cut-off file as zeros, and NaN as 0."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from imaging.files.declared_size import check_declared_size

FLOAT_CODES = {16: "f4", 64: "f8"}  # datatype codes of the header for float32 and float64
BYTE_ORDERS: dict[Literal["little", "big"], str] = {"little": "<", "big": ">"}
VERSIONS = {  # header size: offset and type of dim[8], datatype, bitpix, vox_offset (NIfTI-1 and NIfTI-2 standards)
    348: ((40, "i2"), (70, "i2"), (72, "i2"), (108, "f4")),
    540: ((16, "i8"), (12, "i2"), (14, "i2"), (168, "i8")),
}
BLOCK = 2**22  # bytes read at a time; a multiple of every voxel type
SURPLUS = 2**20  # bytes after the voxels that are passed over


def check_nifti(path: Path) -> None:
    """Refuse a `.nii` or `.nii.gz` file that is cut off, damaged, or holds voxels that are not finite.

    The file is read in blocks, and no further than its header announces, so that a small file which unpacks to
    gigabytes takes neither memory nor time.

    Raises: ValueError: Naming the file and what is wrong with it.
    """
    zipped = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            _check(path, file)  # type: ignore[arg-type]
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}); is it complete?") from error


def _check(path: Path, file: BinaryIO) -> None:
    header = file.read(max(VERSIONS))
    versions = {o: int.from_bytes(header[:4], o) for o in BYTE_ORDERS}
    order = next((o for o, size in versions.items() if size in VERSIONS and len(header) >= size), None)
    if order is None:
        raise ValueError(f"{path}: cannot be read as an image (no NIfTI header)")
    dim, datatype, bitpix, vox_offset = VERSIONS[versions[order]]
    sign = BYTE_ORDERS[order]

    def field(place: tuple[int, str], count: int = 1) -> list:
        return np.frombuffer(header, sign + place[1], count, place[0]).tolist()

    dimensions, *sizes = field(dim, 8)
    offset, bits = field(vox_offset)[0], field(bitpix)[0]
    if not 1 <= dimensions <= 7 or min(sizes[:dimensions]) < 1 or bits < 1 or not 0 <= offset < 2**31:
        raise ValueError(
            f"{path}: its header has {dimensions} dimensions of sizes {sizes}, {bits} bits a voxel, and voxels from "
            f"byte {offset:g}, which is no image; is it damaged?"
        )
    voxels, start = math.prod(sizes[:dimensions]), int(offset)
    check_declared_size(str(path), sizes[:dimensions])
    expected = start + voxels * bits // 8
    float_type = FLOAT_CODES.get(field(datatype)[0])
    have, wrong = len(header), 0
    file.seek(min(start, have))  # what lies before the voxels is in the header, or is read below
    have = file.tell()
    while have < start and (skipped := len(file.read(min(BLOCK, start - have)))):
        have += skipped
    while have < expected and (block := _read_fully(file, min(BLOCK, expected - have))):
        have += len(block)
        if float_type is not None:
            values = np.frombuffer(block, sign + float_type, len(block) // int(float_type[1]))
            wrong += len(values) - int(np.count_nonzero(np.isfinite(values)))
    if have < expected:
        raise ValueError(f"{path}: cut off, {have} bytes where its header announces {expected}")
    if len(_read_fully(file, SURPLUS + 1)) > SURPLUS:  # to the end, where the sum of a zipped file is checked
        raise ValueError(f"{path}: goes on after the {expected} bytes that its header announces; is it damaged?")
    if wrong:
        raise ValueError(f"{path}: {wrong} voxels are NaN or infinite, expected finite values; fill them first")


def _read_fully(file: BinaryIO, size: int) -> bytes:
    """So many bytes, or what is left; a zipped file may give less at a time."""
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
