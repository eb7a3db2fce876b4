"""Numeric arrays of a MATLAB file by name, of version 5 to 7 or 7.3, in no more memory than they need.

Version 5 is read here, because SciPy takes memory for sizes that a damaged file merely declares. The format is
MathWorks' "MAT-File Format", chapter 1: tagged elements, of which a variable is one, in newer files compressed by zlib.
Version 7.3 is HDF5.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import h5py
import numpy as np

from foundation.text_files import reason_of

MOST_UNPACKED = 2**28  # bytes of a file's variables; two volumes of 256 x 256 x 256 doubles
MOST_FIELDS = 1000  # of a struct
HEADER = 128  # bytes; its last four are the version and the byte order
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}
MATRIX, COMPRESSED = 14, 15  # types of elements; the others that matter are numbers
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
STRUCT, NUMERIC = 2, range(6, 16)  # classes of variables, double to uint64


def read_matlab(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The named variables of a MATLAB file, which may lie in the file itself or be fields of a struct.

    Args:
        path: File.
        names: Of the variables.
    Returns: Those that are there, in the type of number in which they are stored, with the axes as MATLAB shows them.
    Raises: ValueError: Naming the file, if it cannot be read, its variables take more than `MOST_UNPACKED` bytes, or
        one of the named is no array of real numbers.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = np.memmap(path, mode="r").data
        order, version = BYTE_ORDERS.get(bytes(content[126:HEADER])), 0
        if order is not None:
            version = struct.unpack_from(f"{order}H", content, 124)[0] >> 8
        if version == 2:
            return _read_hdf5(path, names)
        if version != 1 or order is None:
            raise ValueError("no MATLAB file of version 5 or later")
        found: dict[str, np.ndarray] = {}
        for variable in _variables(content[HEADER:], order):
            found = dict(_arrays(variable, order, names)) | found
        return found
    except Exception as error:  # h5py raises many kinds on damaged files
        raise ValueError(f"{path}: cannot be read as a MATLAB file ({reason_of(error)}); is it complete?") from error


def _variables(content: memoryview, order: str) -> Iterator[memoryview]:
    """The contents of the variables, unpacked."""
    left = MOST_UNPACKED
    for kind, part in _elements(content, order):
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            kind, size = struct.unpack(f"{order}II", unpacker.decompress(part, 8))
            if kind == MATRIX and size > left:
                raise ValueError(f"it unpacks to more than {MOST_UNPACKED} bytes; store one nodule in a file")
            if kind == MATRIX:
                part = memoryview(unpacker.decompress(unpacker.unconsumed_tail, size + 1))
                if len(part) != size or not unpacker.eof:
                    raise ValueError(f"a variable of {size} bytes unpacks to another size")
                left -= size
        if kind == MATRIX:
            yield part


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements that lie one after the other."""
    at = 0
    while len(content) - at >= 8:
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # a small element has its content in its tag
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            end = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > min(end, len(content)):
            raise ValueError(f"an element of {size} bytes where {len(content) - start} are left")
        yield kind, content[start : start + size]
        at = end


def _arrays(
    variable: memoryview, order: str, names: Collection[str], field: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """The named arrays of a variable: itself, or fields of its first struct. A field has its name from the struct."""
    elements = _elements(variable, order)
    header = [part for _, part in itertools.islice(elements, 3)]
    if len(header) < 3:
        return  # an empty one
    flags, shape = (np.frombuffer(part, f"{order}i4").tolist() for part in header[:2])
    name, kind = field or _text(header[2]), flags[0] & 0xFF
    if kind in NUMERIC and name in names:
        (stored, part), *imaginary = itertools.islice(elements, 2)
        if imaginary or stored not in NUMBERS:
            raise ValueError(f"{name} is no array of real numbers")
        yield name, np.frombuffer(part, order + NUMBERS[stored]).reshape(shape, order="F")
    elif kind == STRUCT:
        (_, length), (_, texts) = itertools.islice(elements, 2)
        step = int(np.frombuffer(length, f"{order}i4")[0])
        if step < 1 or len(texts) > step * MOST_FIELDS:
            raise ValueError(f"a struct with field names of {step} and together {len(texts)} characters")
        for start, (_, part) in zip(range(0, len(texts), step), elements, strict=False):
            if (field := _text(texts[start : start + step])) in names:
                yield from _arrays(part, order, names, field)


def _text(part: memoryview) -> str:
    return bytes(part).partition(b"\0")[0].decode("latin-1")


def _read_hdf5(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The named datasets, which h5py shows with the axes reversed."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: object) -> None:
        last = name.rpartition("/")[2]
        if last in names and last not in found and isinstance(item, h5py.Dataset):
            found[last] = _read_dataset(last, item, path.stat().st_size).transpose()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def _read_dataset(name: str, item: h5py.Dataset, file_size: int) -> np.ndarray:
    if item.shape is None or item.dtype.kind not in "biuf" or item.is_virtual or item.external:
        raise ValueError(f"{name} is no array of real numbers in the file itself")
    for shape in (item.shape, item.chunks or ()):
        if math.prod(shape) * item.dtype.itemsize > MOST_UNPACKED:
            raise ValueError(f"{name} is {' x '.join(map(str, shape))} numbers, more than {MOST_UNPACKED} bytes")
    if item.chunks:
        packed = [0]
        item.id.chunk_iter(lambda chunk: packed.append(chunk.size))
        if max(packed) > file_size:
            raise ValueError(f"{name} has a packed part of {max(packed)} bytes in a file of {file_size}")
    return np.asarray(item[()])
