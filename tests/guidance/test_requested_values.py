"""Requests as numbers that the guide's classifiers know."""

import math

import pytest
import torch
from torch.testing import assert_close

from diffusion.sampling.guide import attribute_scales
from diffusion.sampling.request import check_range
from guidance.requested_values import wanted_values

CLASSES = {
    "malignancy": ["benign", "malignant"],
    "texture": ["ground-glass", "part-solid", "solid"],
    "kind": ["round", "flat"],
}
KNOWN = ("malignancy", "texture", "kind", "spiculation")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("malignancy", ["malignant", "benign", None, 3], [1, 0, math.nan, 1]),
        ("malignancy", [2.9, 5, 1, "4"], [0, 1, 0, 1]),
        ("texture", ["solid", 2.5, 1.9, 4], [2, 1, 0, 2]),
        ("kind", ["flat", "round", None, None], [1, 0, math.nan, math.nan]),
        ("spiculation", [4, 1.5, None, "5"], [4, 1.5, math.nan, 5]),
    ],
)
def test_value_is_a_class_by_name_or_the_nearest_one_or_a_rating(name, values, expected):
    made = wanted_values({name: values}, KNOWN, CLASSES, 4)[name]
    assert_close(made, torch.tensor(expected, dtype=torch.float32), equal_nan=True)
    one = wanted_values({name: values[0]}, KNOWN, CLASSES, 3)[name]
    assert_close(one, torch.full((3,), float(expected[0])))


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"age": 3}, 'attribute "age" is unknown to this guide; known: malignancy, texture, kind, spiculation'),
        ({"malignancy": "evil"}, "malignancy: 'evil', expected a number from 1 to 5, or benign, malignant"),
        ({"malignancy": 6}, "malignancy: 6, expected a number from 1 to 5, or benign, malignant"),
        ({"spiculation": 0.5}, "spiculation: 0.5, expected a number from 1 to 5"),
        ({"spiculation": math.nan}, "spiculation: nan, expected a number from 1 to 5"),
        ({"spiculation": True}, "spiculation: True, expected a number from 1 to 5"),
        ({"kind": 2}, "kind: 2 is unknown; choose one of round, flat"),
        ({"texture": ["solid"] * 3}, "texture: 3 values for 2 volumes; give one, or one per volume"),
    ],
)
def test_what_cannot_be_requested_for_is_named_with_what_can(requests, message):
    with pytest.raises(ValueError, match=message):
        wanted_values(requests, KNOWN, CLASSES, 2)


def test_scale_is_one_number_or_one_by_name_and_one_elsewhere():
    assert attribute_scales(2, ("a", "b")) == {"a": 2.0, "b": 2.0}
    assert attribute_scales({"b": -0.5}, ("a", "b")) == {"a": 1.0, "b": -0.5}
    assert attribute_scales(3.0, ()) == {}
    for scale, message in (
        ({"c": 1}, 'guidance_scale: attribute "c" is unknown to the guide; known: a, b'),
        ({"a": math.inf}, 'guidance_scale of "a" inf, expected a finite number'),
        ({"a": "2"}, "guidance_scale of \"a\" '2', expected a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute_scales(scale, ("a", "b"))


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (-0.1, 1), (0, 1.1), (0.1,), (0, math.nan), 0.5, "01"])
def test_range_that_is_none_is_refused(bounds):
    assert check_range([0, 1]) == (0.0, 1.0)
    with pytest.raises(
        ValueError, match=r"guidance_range .*, expected \(low, high\), shares of the timesteps with 0 clea"
    ):
        check_range(bounds)
