from collections.abc import Callable

import numpy as np
import pytest

from evaluation.guided.requested_sets import Character, RequestedSet
from evaluation.guided.requested_values import RequestedValue
from evaluation.networks.lesion_judge import Judgement

ATTRIBUTES = ("malignancy", "texture")


def _character(added, size=0.0, hu=None, samples: int = 1) -> Character:
    """Lesions `mask0`, `mask1`, ..., two masks a patient; `added` (N,) is what the judge says of each image."""
    added = np.asarray(added, float)
    count = len(added)
    masks = [f"mask{n // samples}" for n in range(count)]
    return Character(
        lesions=[f"{mask}_seed{n % samples}" if samples > 1 else mask for n, mask in enumerate(masks)],
        masks=masks,
        patients=[f"patient{n // samples // 2}" for n in range(count)],
        judgement=Judgement(ATTRIBUTES, np.stack([added, 10 * added], 1), np.stack([np.zeros(count) + size] * 2, 1)),
        hu=np.tile(np.zeros(count) if hu is None else np.asarray(hu, float), (4, 1)).T,
    )


@pytest.fixture
def character() -> Callable[..., Character]:
    return _character


@pytest.fixture
def requested() -> Callable[..., RequestedSet]:
    def make(attribute: str, label: str, number: float, scale: float, *args, **options) -> RequestedSet:
        return RequestedSet(attribute, RequestedValue(label, number), scale, _character(*args, **options))

    return make
