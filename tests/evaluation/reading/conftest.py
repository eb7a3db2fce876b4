"""A small study: six lesions that count, two for training, two repeats; synthetic lesions are denser."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.lesions.lesion_sets import Lesion
from evaluation.reading.cases import chosen_cases
from evaluation.reading.preparation import write_study


def _lesions(count: int, hu: float, suffix: str = "", spacing_mm: float = 1.0) -> list[Lesion]:
    mask = np.zeros((30, 32, 34), bool)
    mask[13:17, 14:18, 15:19] = True
    made = []
    for number in range(count):
        noise = 20 * np.random.default_rng(number).standard_normal(mask.shape)
        ct_hu = (np.where(mask, hu, -850) + noise).astype(np.float32)
        made.append(Lesion(f"n{number:02d}{suffix}", f"p{number}", ct_hu, mask, np.ones_like(mask), (spacing_mm,) * 3))
    return made


@pytest.fixture(scope="session")
def lesions() -> Callable[..., list[Lesion]]:
    return _lesions


def _small_study(folder: Path) -> Path:
    sets = _lesions(8, -300), _lesions(8, 40, "_seed0")
    training, cases = (chosen_cases(*sets, count, first, seed=1) for count, first in ((2, 0), (6, 2)))
    write_study(folder / "study", cases, training, 2, {"n03": 5.0}, None, seed=1)
    return folder / "study"


@pytest.fixture(scope="session")
def small_study() -> Callable[[Path], Path]:
    return _small_study


@pytest.fixture
def study_folder(tmp_path) -> Path:
    return _small_study(tmp_path)
