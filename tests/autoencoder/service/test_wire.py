"""Tensors as bytes: the round trip, and what is refused."""

import numpy as np
import pytest
import torch

from autoencoder.service.wire import (
    byte_count,
    dtype_name,
    parse_dtype,
    parse_shape,
    tensor_from_bytes,
    tensor_to_bytes,
)

SHAPE = (2, 1, 3, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bytes_give_the_tensor_back(dtype):
    tensor = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype).transpose(0, 1)
    body = bytes(tensor_to_bytes(tensor))
    assert len(body) == byte_count(tensor.shape, dtype)
    assert torch.equal(tensor_from_bytes(bytearray(body), tuple(tensor.shape), dtype), tensor)


def test_bytes_are_those_of_numpy():
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    assert bytes(tensor_to_bytes(torch.from_numpy(array))) == array.tobytes()


@pytest.mark.parametrize("values", [["2", "1", "3", "4", "5"], ["[2,1,3,4,5]"], [" [ 2, 1, 3, 4, 5 ] "]])
def test_shape_comes_as_repeated_values_or_as_one_list(values):
    assert parse_shape(values) == SHAPE


@pytest.mark.parametrize(
    "values",
    [
        *([], [""], ["[]"], ["1"], ["[1,2,3,4]"], ["1", "1", "4", "4"], ["1"] * 6, ["2,1,3,4,5"], ["[[1,2,3,4,5]]"]),
        *(["[1,1,4,4,-4]"], ["1", "1", "0", "4", "4"], ["1", "1", "4", "4", "4.0"], ["1", "1", "4", "4", "nan"]),
        *(["1", "1", "4", "4", "9" * 5000], ["[" * 5000], ["1", "1", "4", "4", "٤"], ["[1,1,4,4,null]"]),
    ],
)
def test_shape_that_is_no_five_positive_integers_is_refused_in_one_sentence(values):
    with pytest.raises(ValueError, match=r"^shape .*expected five") as error:
        parse_shape(values)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("name", ["", "float64", "uint8", "torch.float32", "FLOAT32", "x" * 9999])
def test_unknown_dtype_is_refused(name):
    with pytest.raises(ValueError, match="expected one of float32, float16, bfloat16"):
        parse_dtype(name)


def test_dtype_that_does_not_travel_is_refused():
    with pytest.raises(ValueError, match="'float64', expected one of"):
        dtype_name(torch.float64)


@pytest.mark.parametrize("length", [0, 479, 481, 960])
def test_body_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match=f"body of {length} bytes, expected 480"):
        tensor_from_bytes(bytearray(length), SHAPE, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(value, dtype):
    tensor = torch.zeros(SHAPE, dtype=dtype)
    tensor[1, 0, 2, 3, 4] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        tensor_from_bytes(bytearray(tensor_to_bytes(tensor)), SHAPE, dtype)
