from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation.lesions.lesion_sets import Lesion


def _make_lesion(number: int, patient: str | None = None, shape: tuple[int, int, int] = (24, 26, 28)) -> Lesion:
    """An ellipsoid of soft tissue with a texture of 2 voxels, in noisy lung; each number gives another one."""
    rng = np.random.default_rng(number)
    radii = rng.uniform(4, 6, 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"))
    mask = ((grid / radii[:, None, None, None]) ** 2).sum(0) <= 1
    soft = gaussian_filter(mask.astype(float), 0.7)
    texture = gaussian_filter(rng.standard_normal(shape), 0.8)
    ct_hu = -850 + soft * (rng.uniform(750, 850) + 120 * texture / texture.std()) + 25 * rng.standard_normal(shape)
    return Lesion(
        name=f"lesion{number:03d}",
        patient_id=patient or f"patient{number:03d}",
        ct_hu=ct_hu.astype(np.float32),
        lesion_mask=mask,
        valid_mask=np.ones(shape, bool),
        spacing_mm=(1.0, 1.0, 1.0),
    )


def _blur(lesion: Lesion, sigma: float) -> Lesion:
    blurred = gaussian_filter(lesion.ct_hu, sigma)
    return replace(lesion, ct_hu=np.where(lesion.lesion_mask, blurred, lesion.ct_hu))


@pytest.fixture(scope="session")
def make_lesion() -> Callable[..., Lesion]:
    return _make_lesion


@pytest.fixture(scope="session")
def blur() -> Callable[[Lesion, float], Lesion]:
    return _blur
