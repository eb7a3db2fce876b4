"""Damage to files: what a bad disk, a broken transfer or an attacker makes of a valid one. All of it is seeded."""

import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Literal

HEADER = 400  # bytes: where most formats keep their sizes and types
INTEGERS = (0, 1, -1, 2, 7, 255, 2**15 - 1, -(2**15), 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, 2**63 - 1)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-45, 1e38, -1e308, 1e308)
TEXTS = (
    *("", "0", "-1", "1", "nan", "inf", "-inf", "1e308", "1e-320", "1e999", "-0.0", "1_000", "0x10", "9" * 30),
    *("9" * 5000, "٣", "²", "½", "1,5", "true", "null", "none", "~", "\0", "é" * 300, "x" * 200_000, "a" * 300),
    *("../../../etc/passwd", "/", "[" * 20_000, "{" * 20_000, '{"a":' * 20_000, "<a>" * 20_000, '"', "'", "\\"),
    *("&", "<", ">", "\r", "\n", ",", ";", "\t", "!!python/object:os.system", "*a", "&a [*a]", "2001-99-99", "= 1"),
    *("\ufeff", "\u2028", "\ud800"),
)
Mutation = Callable[[bytes, random.Random], bytes]


def mutated(content: bytes, rng: random.Random, is_text: bool = False) -> bytes:
    """One to three mutations of a file's content.

    Args:
        content: A valid file's.
        rng: Decides everything.
        is_text: Whether words and numbers are exchanged, too.
    """
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.6:
        return gzip.compress(mutated(gzip.decompress(content), rng), 1)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(TEXT_MUTATIONS * 2 + MUTATIONS if is_text else MUTATIONS)(content, rng)
    return content


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randrange(min(len(content), HEADER) if rng.random() < 0.6 else len(content)) if content else 0


def _flip_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if content else 0):
        changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _write_number(content: bytes, rng: random.Random) -> bytes:
    order, start = rng.choice("<>"), _place(content, rng)
    start -= start % rng.choice((1, 2, 4))
    if rng.random() < 0.3:
        number = struct.pack(order + rng.choice("fd"), rng.choice(FLOATS[:6]))
    else:
        size = rng.choice((1, 2, 4, 8))
        number = (rng.choice(INTEGERS) % 2 ** (8 * size)).to_bytes(size, "little" if order == "<" else "big")
    return content[:start] + number + content[start + len(number) :]


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    start, size = _place(content, rng), rng.choice((1, 4, 16, 200))
    filling = rng.choice((rng.randbytes(size), b"\0" * size, b"\xff" * size))
    return content[:start] + filling + content[start + size :]


def _cut_out(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start + rng.choice((1, 2, 4, 100)) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start, size = _place(content, rng), rng.choice((1, 4, 32, 300))
    return content[:start] + content[start : start + size] * rng.choice((2, 3, 50)) + content[start + size :]


def _insert(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 8, 100))) + content[start:]


def _empty(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\0", content[:1], b"\n", rng.randbytes(1000)))


def _text(rng: random.Random) -> bytes:
    return rng.choice(TEXTS).encode("utf-8", "surrogatepass")


def _change_word(content: bytes, rng: random.Random) -> bytes:
    words = list(re.finditer(rb"[-+.\w]+", content))
    if not words:
        return _text(rng)
    word = rng.choice(words)
    return content[: word.start()] + _text(rng) + content[word.end() :]


def _change_number(content: bytes, rng: random.Random) -> bytes:
    numbers = list(re.finditer(rb"[-+]?\d+(\.\d+)?", content))
    if not numbers:
        return _change_word(content, rng)
    number = rng.choice(numbers)
    return content[: number.start()] + _text(rng) + content[number.end() :]


def _exchange_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines)), lines.pop(rng.randrange(len(lines))))
    return b"".join(lines)


def _repeat_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        at = rng.randrange(len(lines))
        lines[at:at] = [lines[at]] * rng.choice((1, 1, 3, 1000))
    return b"".join(lines)


def _encode_otherwise(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-32-be", "utf-8-sig", "cp037")), "replace")


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bits, _write_number, _write_number, _write_number),
    *(_truncate, _overwrite, _cut_out, _repeat, _insert, _empty),
)
TEXT_MUTATIONS: tuple[Mutation, ...] = (
    *(_change_word, _change_number, _change_number),
    *(_exchange_lines, _repeat_line, _encode_otherwise),
)


@cache
def deflated_zeros(size: int, container: Literal["raw", "zlib", "gzip"] = "raw") -> bytes:
    """So many zeros, a multiple of 1 MiB, deflated to a thousandth of their size: a decompression bomb.

    A block that ends with a full flush depends on nothing before it, so that it may be repeated (RFC 1951).
    """
    packer, block = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS), bytes(2**20)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    stream = packed * (size // len(block)) + packer.flush()
    if container == "zlib":
        return b"\x78\xda" + stream + (((size % 65521) << 16) + 1).to_bytes(4, "big")  # Adler-32 of zeros
    if container == "gzip":
        checksum = 0
        for _ in range(size // len(block)):
            checksum = zlib.crc32(block, checksum)
        head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
        return head + stream + checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
    return stream
