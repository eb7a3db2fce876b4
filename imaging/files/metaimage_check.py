"""What the MetaImage library under SimpleITK believes unchecked: it takes all the memory that a header asks for."""

import zlib
from pathlib import Path

from imaging.files.declared_size import check_declared_size

TYPE_BYTES = {  # of each ElementType that holds one number
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
LARGEST = {  # number of each field of the geometry, by size; ITK does not come to an end with 1e308 in a direction
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2.0),
    **dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation"), 1e6),  # mm
    **dict.fromkeys(("ElementSpacing", "ElementSize"), 1e4),  # mm
}
MOST_HEADER = 2**16  # bytes
BLOCK = 2**20
DATA_KEY = "ElementDataFile"  # the last line of a header
AUTO = 32 + zlib.MAX_WBITS  # zlib finds out whether the stream is zlib's or gzip's


def check_metaimage(path: Path) -> None:
    """Refuse a `.mha` or `.mhd` file whose header and voxels do not agree, before memory is taken for it.

    Raises: ValueError: Naming the file and what is wrong with it.
    """
    header, start = _header(path)
    sizes = _whole_numbers(path, header, "DimSize")
    if str(len(sizes)) != header.get("NDims") or not 1 <= len(sizes) <= 4:
        raise ValueError(
            f"{path}: NDims {header.get('NDims', '')[:80]!r}, DimSize {sizes}; expected NDims = 3 and three sizes"
        )
    check_declared_size(str(path), sizes)
    kind, channels = header.get("ElementType", ""), _whole_numbers(path, header, "ElementNumberOfChannels", "1")
    if kind not in TYPE_BYTES:
        raise ValueError(f"{path}: ElementType {kind[:80]!r}, expected one of {', '.join(TYPE_BYTES)}")
    if channels != [1]:
        raise ValueError(f"{path}: {channels} numbers per voxel (colour), expected one number per voxel")
    if _flag(path, header, "BinaryData", "True") is False:
        raise ValueError(f"{path}: voxels as text (BinaryData = False), expected BinaryData = True; save it again")
    for key in LARGEST.keys() & header.keys():
        _check_numbers(path, key, header[key])
    expected = TYPE_BYTES[kind]
    for size in sizes:
        expected *= size
    data, start = _data_file(path, header, start)
    length = data.stat().st_size
    if _flag(path, header, "CompressedData", "False"):
        _check_compressed(path, data, start, expected)
        return
    (skipped,) = _whole_numbers(path, header, "HeaderSize", "0")[:1] or [0]
    start = length - expected if skipped == -1 else start + skipped
    if skipped < -1 or start < 0 or length - start < expected:
        raise ValueError(
            f"{path}: cut off, {length} bytes in {data.name} where its header announces {expected} or more"
        )


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and the byte at which the header ends."""
    with path.open("rb") as file:
        content = file.read(MOST_HEADER)
    header, end = {}, 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        key, equals, value = line.decode("latin-1").partition("=")
        if equals:
            header[key.strip()] = value.strip()
            if key.strip() == DATA_KEY:
                return header, end
    raise ValueError(f"{path}: cannot be read as an image (no MetaImage header that ends with {DATA_KEY} = ...)")


def _data_file(path: Path, header: dict[str, str], end: int) -> tuple[Path, int]:
    """The file that holds the voxels, and where in it they begin."""
    name = header[DATA_KEY]
    if name.upper() == "LOCAL":
        return path, end
    data = path.parent / name
    if Path(name).name != name or not name.isprintable() or not data.is_file():
        raise ValueError(
            f"{path}: {DATA_KEY} = {name[:80]!r}, expected LOCAL or the name of one file beside it; save it as .mha"
        )
    return data, 0


def _check_compressed(path: Path, data: Path, start: int, expected: int) -> None:
    """Unpack the voxels block by block, and no further than announced."""
    unpacker, have = zlib.decompressobj(AUTO), 0
    try:
        with data.open("rb") as file:
            file.seek(start)
            while have <= expected and not unpacker.eof and (block := unpacker.unconsumed_tail or file.read(BLOCK)):
                have += len(unpacker.decompress(block, BLOCK))
    except (OSError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}); is it complete?") from error
    if have != expected or not unpacker.eof:
        more = " or more" if have > expected else ""
        raise ValueError(f"{path}: unpacks to {have} bytes{more} where its header announces {expected}; is it damaged?")


def _whole_numbers(path: Path, header: dict[str, str], key: str, default: str = "") -> list[int]:
    text = header.get(key, default)
    try:
        return [int(part) for part in text.split()]
    except ValueError:
        raise ValueError(f"{path}: {key} = {text[:80]!r}, expected whole numbers") from None


def _check_numbers(path: Path, key: str, text: str) -> None:
    try:
        fits = all(abs(float(part)) <= LARGEST[key] for part in text.split())
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{path}: {key} = {text[:80]!r}, expected numbers of at most {LARGEST[key]:g}")


def _flag(path: Path, header: dict[str, str], key: str, default: str) -> bool:
    text = header.get(key, default)
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{path}: {key} = {text[:80]!r}, expected True or False")
    return text.lower() == "true"
