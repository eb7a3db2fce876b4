"""What GDCM and pydicom believe unchecked: the lengths in a DICOM file, for which they take memory before they read.

The file's elements are walked over (DICOM PS3.5, section 7) without reading their values.
"""

import io
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

DEFLATED, IMPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}".encode() for end in (".1.99", "", ".2"))
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # 4 bytes of length
UNDEFINED = 2**32 - 1
ITEM, ITEM_END, SEQUENCE_END, PIXELS, SYNTAX = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010, 0x00020010
DEEPEST, MOST_ELEMENTS = 100, 100_000  # a CT slice has some hundred elements, at most a few levels deep
MOST_UNPACKED = 2**26  # bytes of a deflated slice; 2048 x 2048 pixels of 4 bytes are a quarter


class BoundedFile(io.BufferedReader):
    """A file for pydicom, which asks for as many bytes as an element declares: memory is taken for what is there.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        """At most so many bytes; all that is left for -1."""
        return super().read(-1 if size is None else min(size, self._size))


def check_dicom(path: Path, lengths: bool = True) -> None:
    """Refuse a DICOM file with a length beyond its end, too deep a nesting, or that unpacks to more than a slice.

    Files of other kinds pass.

    Args:
        path: Of the file.
        lengths: Whether GDCM will read it; pydicom takes no memory for what is not there.
    Raises: ValueError: Naming the file and what is wrong with it. OSError: If it cannot be read.
    """
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path}: a link that leads nowhere or to itself; remove it, or restore what it points to")
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
        size = path.stat().st_size
        start, syntax = _walk(path, file, 132, size, b"", lengths, meta=True)
        if syntax != DEFLATED:
            if lengths:
                _walk(path, file, start, size, syntax, lengths)
            return
        file.seek(start)
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = unpacker.decompress(file.read(), MOST_UNPACKED)
        except zlib.error as error:
            raise ValueError(f"{path}: damaged, its deflated part cannot be unpacked ({error})") from error
        if len(content) == MOST_UNPACKED:
            raise ValueError(f"{path}: unpacks to {MOST_UNPACKED} bytes or more, expected one CT slice; is it damaged?")
        if lengths:
            _walk(path, io.BytesIO(content), 0, len(content), syntax, lengths)


def _walk(
    path: Path, file: BinaryIO, at: int, size: int, syntax: bytes, lengths: bool, meta: bool = False
) -> tuple[int, bytes]:
    """Where the elements end, or those of the file's meta information do, and the transfer syntax named there."""
    order: Literal["little", "big"] = "big" if syntax == BIG_ENDIAN else "little"
    implicit, fragments = syntax == IMPLICIT, False
    ends: list[int] = []  # of the sequences and items around an element
    for _ in range(MOST_ELEMENTS):
        while ends and at >= ends[-1]:
            ends.pop()
        file.seek(at)
        head = file.read(12)
        if len(head) < 8:
            return at, syntax
        tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
        if meta and tag >> 16 != 2:
            return at, syntax
        kind = head[4:6]
        if tag in (ITEM, ITEM_END, SEQUENCE_END) or implicit:
            at, length = at + 8, int.from_bytes(head[4:8], order)
        elif kind in LONG:
            at, length = at + 12, int.from_bytes(head[8:12], order)
        elif kind.isalpha() and kind.isupper():
            at, length = at + 8, int.from_bytes(head[6:8], order)
        else:
            return at, syntax  # no element: what follows is for the reader to refuse
        if length != UNDEFINED and length > size - at:
            if not lengths:
                return size, b""
            raise ValueError(
                f"{path}: CT slice that cannot be read, element ({tag >> 16:04x},{tag & 0xFFFF:04x}) has {length} "
                f"bytes where the file has {max(size - at, 0)} left; is it complete?"
            )
        if tag in (ITEM_END, SEQUENCE_END):
            if ends:
                ends.pop()
        elif fragments or (length != UNDEFINED and tag != ITEM and (implicit or kind != b"SQ")):
            if tag == SYNTAX and meta:
                syntax = file.read(length) if kind in LONG else head[8:] + file.read(max(length - 4, 0))
                syntax = syntax[:length].rstrip(b"\0 ")
            at += length
        elif tag == PIXELS:
            fragments = True
        else:
            ends.append(size if length == UNDEFINED else at + length)
            if len(ends) > DEEPEST:
                raise ValueError(f"{path}: damaged, its sequences are nested more than {DEEPEST} deep")
    raise ValueError(f"{path}: damaged, more than {MOST_ELEMENTS} elements, expected one CT slice")
