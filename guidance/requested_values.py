"""What a guide is requested, as numbers that its classifiers know."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.attributes import SCALES, check_attribute
from diffusion.option_types import Attributes


def wanted_values(
    attributes: Attributes, known: Sequence[str], classes: Mapping[str, Sequence[str]], batch: int
) -> dict[str, Tensor]:
    """What each volume should have.

    Args:
        attributes: Name -> one value for all volumes, or a list with one for each; None asks for nothing. A value is a
            class, or a number on the attribute's scale, or one of that scale's names (`diffusion.attributes.SCALES`).
            Where an attribute has classes, a number is the class that is named nearest to it: malignant from 3 on.
        known: The guide's attributes.
        classes: Those of them that have classes.
        batch: Volumes B.
    Returns: Name -> (B,): index of the class, or the rating; NaN where nothing is requested.
    Raises: ValueError: If an attribute is unknown, a value is none of these or out of range, or there is another number
        of values than volumes.
    """
    wanted = {}
    for name, request in attributes.items():
        if name not in known:
            raise ValueError(f'attribute "{name}" is unknown to this guide; known: {", ".join(known)}')
        each = list(request) if isinstance(request, Sequence) and not isinstance(request, str) else [request]
        if len(each) not in (1, batch):
            raise ValueError(f"{name}: {len(each)} values for {batch} volumes; give one, or one per volume")
        values = [_value(name, value, known, classes.get(name)) for value in each]
        wanted[name] = torch.tensor(values, dtype=torch.float32).expand(batch)
    return wanted


def _value(name: str, value: Any, known: Sequence[str], classes: Sequence[str] | None) -> float:
    if value is None:
        return math.nan
    if classes is None:
        return check_attribute(name, value, known)
    if isinstance(value, str) and value in classes:
        return float(list(classes).index(value))
    places = SCALES[name].names if name in SCALES else {}
    if any(named not in places for named in classes):  # classes that are no points of a scale
        raise ValueError(f"{name}: {value!r} is unknown; choose one of {', '.join(classes)}")
    number = check_attribute(name, value, known)
    return float(min(range(len(classes)), key=lambda index: (abs(places[classes[index]] - number), -index)))
