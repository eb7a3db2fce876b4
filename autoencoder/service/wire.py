"""Tensors as raw bytes with a shape and a dtype: what the service and its client send each other, and its checks.

The format is that of Diffusers' remote autoencoders (`diffusers.utils.remote_utils`): the body is the tensor in C order
and native (little-endian) bytes; shape and dtype travel beside it, as query parameters one way, as headers the other.
"""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SIZE = re.compile(r"-?[0-9]{1,12}", re.ASCII)


def parse_shape(values: Sequence[str]) -> tuple[int, ...]:
    """The shape of a 5D tensor, from `shape=1&shape=4&...` (several values) or from a JSON list `[1,4,...]` (one).

    Args:
        values: The values of the parameter `shape`, in their order.
    Returns: (B, C, D, H, W), each at least 1.
    Raises: ValueError: If they are not five positive integers.
    """
    text = values[0].strip() if len(values) == 1 else ""
    sizes = text[1:-1].split(",") if text[:1] == "[" and text[-1:] == "]" else list(values)
    sizes = [size.strip() for size in sizes]
    shown = ", ".join(sizes)[:80]
    if not sizes or not all(_SIZE.fullmatch(size) for size in sizes):
        raise ValueError(f"shape ({shown}), expected five integers B, C, D, H, W")
    shape = tuple(map(int, sizes))
    if len(shape) != 5 or min(shape) < 1:
        raise ValueError(f"shape ({shown}), expected five positive sizes B, C, D, H, W")
    return shape


def parse_dtype(name: str) -> torch.dtype:
    """`float32`, `float16` or `bfloat16`; ValueError for any other name."""
    if name not in DTYPES:
        raise ValueError(f"dtype {name[:40]!r}, expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name that travels; ValueError for a dtype that does not travel."""
    name = str(dtype).removeprefix("torch.")
    parse_dtype(name)
    return name


def byte_count(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Length of the body of such a tensor."""
    return math.prod(shape) * dtype.itemsize


def tensor_from_bytes(body: bytes | bytearray | memoryview, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor of a body, sharing its memory; to be written to only where `body` may.

    Raises: ValueError: If the length is not that of shape and dtype, or a value is NaN or infinite.
    """
    expected, length = byte_count(shape, dtype), memoryview(body).nbytes
    if length != expected:
        raise ValueError(f"body of {length} bytes, expected {expected} for shape {tuple(shape)} and dtype {dtype}")
    tensor = torch.frombuffer(body, dtype=dtype).reshape(tuple(shape))
    if not torch.isfinite(tensor).all():
        raise ValueError("the tensor holds NaN or infinite values; replace them first")
    return tensor


def tensor_to_bytes(tensor: Tensor) -> memoryview:
    """The body of a tensor on any device, without a copy where it is contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
