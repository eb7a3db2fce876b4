"""What the NIfTI library under SimpleITK passes over in silence: it reads a cut-off file as zeros, and NaN as 0."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

FLOAT_CODES = {16: "f4", 64: "f8"}  # datatype codes of the header for float32 and float64
BYTE_ORDERS: dict[Literal["little", "big"], str] = {"little": "<", "big": ">"}
VERSIONS = {  # header size: offset and type of dim[8], datatype, bitpix, vox_offset (NIfTI-1 and NIfTI-2 standards)
    348: ((40, "i2"), (70, "i2"), (72, "i2"), (108, "f4")),
    540: ((16, "i8"), (12, "i2"), (14, "i2"), (168, "i8")),
}


def check_nifti(path: Path) -> None:
    """Refuse a `.nii` or `.nii.gz` file that is cut off, damaged, or holds voxels that are not finite.

    Raises: ValueError: Naming the file and what is wrong with it.
    """
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)  # to the end, where its sum is checked, beside other threads
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}); is it complete?") from error
    versions = {o: int.from_bytes(content[:4], o) for o in BYTE_ORDERS}
    order = next((o for o, size in versions.items() if size in VERSIONS and len(content) >= size), None)
    if order is None:
        raise ValueError(f"{path}: cannot be read as an image (no NIfTI header)")
    dim, datatype, bitpix, vox_offset = VERSIONS[versions[order]]
    sign = BYTE_ORDERS[order]

    def field(place: tuple[int, str], count: int = 1) -> list:
        return np.frombuffer(content, sign + place[1], count, place[0]).tolist()

    dimensions, *sizes = field(dim, 8)
    voxels, start = math.prod(sizes[:dimensions]), int(field(vox_offset)[0])
    expected = start + voxels * field(bitpix)[0] // 8
    if len(content) < expected:
        raise ValueError(f"{path}: cut off, {len(content)} bytes where its header announces {expected}")
    code = field(datatype)[0]
    if code in FLOAT_CODES:
        values = np.frombuffer(content, sign + FLOAT_CODES[code], voxels, start)
        wrong = voxels - int(np.count_nonzero(np.isfinite(values)))
        if wrong:
            raise ValueError(f"{path}: {wrong} voxels are NaN or infinite, expected finite values; fill them first")
