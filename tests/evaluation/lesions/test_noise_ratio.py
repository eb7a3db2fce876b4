"""The noise of a lesion against its surroundings: white noise of known deviation is found, structure is not noise."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation.lesions.noise_ratio import lesion_noise, noise_hu

SHAPE, SPACING_MM = (12, 60, 64), (2.5, 0.7, 0.8)


def white(sigma: float, seed: int = 0) -> np.ndarray:
    return sigma * np.random.default_rng(seed).standard_normal(SHAPE)


def ball(radius_mm: float) -> np.ndarray:
    z, y, x = (
        (np.arange(n) - n // 2).reshape([-1 if axis == i else 1 for i in range(3)]) * mm
        for axis, (n, mm) in enumerate(zip(SHAPE, SPACING_MM, strict=True))
    )
    return (z**2 + y**2 + x**2 <= radius_mm**2).astype(np.uint8)


@pytest.mark.parametrize("sigma", [5.0, 20.0, 80.0])
def test_white_noise_is_found_whatever_ramp_or_axial_edge_it_lies_on(sigma):
    everywhere = np.ones(SHAPE)
    ramp = np.linspace(-900, 400, SHAPE[1])[:, None] + np.linspace(0, 700, SHAPE[2])
    edge = np.where(np.arange(SHAPE[2]) > 30, 60.0, -850.0)
    between_slices = np.linspace(-1000, 1000, SHAPE[0])[:, None, None]
    for structure in (0, ramp, edge, between_slices):
        assert noise_hu(white(sigma) + structure, everywhere) == pytest.approx(sigma, rel=0.03)


def test_noise_is_that_of_the_region_alone_and_a_few_edges_do_not_raise_it():
    region = ball(9)
    ct_hu = np.where(region > 0, white(20), white(500, seed=1))
    assert noise_hu(ct_hu, region) == pytest.approx(20, rel=0.15)
    vessels = white(20)
    vessels[:, ::12, ::12] += 400
    assert noise_hu(vessels, np.ones(SHAPE)) == pytest.approx(20, rel=0.2)


def test_smoothed_noise_has_less_of_the_finest_scale():
    smooth = gaussian_filter(white(1.0), (0, 1, 1))
    assert noise_hu(20 * smooth / smooth.std(), np.ones(SHAPE)) < 5


def test_a_region_too_small_to_tell_has_no_noise():
    region = np.zeros(SHAPE)
    region[5, 20:26, 20:26] = 1  # 4 x 4 whole neighbourhoods
    assert noise_hu(white(20), region) is None
    region[6, 20:26, 20:26] = 1
    assert noise_hu(white(20), region) == pytest.approx(20, rel=0.5)


def test_a_lesion_is_compared_with_tissue_of_its_own_hu():
    """Solid lesion in noisy lung, soft tissue beside it with noise of 15."""
    lesion, lung = ball(8), np.ones(SHAPE, bool)
    lung[:, :14] = False
    ct_hu = np.where(lung, -850 + white(60, seed=1), 40 + white(15, seed=2))
    ct_hu = np.where(lesion > 0, 60 + white(30, seed=3), ct_hu)
    found = lesion_noise(ct_hu, lesion, SPACING_MM)
    assert found.lesion_hu == pytest.approx(30, rel=0.1) and found.surroundings_hu == pytest.approx(15, rel=0.1)
    assert found.ratio == found.lesion_hu / found.surroundings_hu
    faint = lesion_noise(np.where(lesion > 0, -800 + white(30, seed=3), ct_hu), lesion, SPACING_MM)
    assert faint.surroundings_hu == pytest.approx(60, rel=0.1)


def test_what_was_painted_is_no_surroundings():
    lesion, painted = ball(6), ball(9)
    ct_hu = np.where(painted > 0, white(5), white(40, seed=1))
    assert lesion_noise(ct_hu, lesion, SPACING_MM, painted).surroundings_hu == pytest.approx(40, rel=0.05)
    assert lesion_noise(ct_hu, lesion, SPACING_MM).surroundings_hu < 39


def test_without_tissue_like_it_there_is_no_ratio():
    lesion = ball(8)
    ct_hu = np.where(lesion > 0, 500 + white(10), -850 + white(10, seed=1))
    found = lesion_noise(ct_hu, lesion, SPACING_MM)
    assert found.lesion_hu == pytest.approx(10, rel=0.15) and (found.surroundings_hu, found.ratio) == (None, None)
    with pytest.raises(ValueError, match="the lesion mask is empty"):
        lesion_noise(ct_hu, lesion * 0, SPACING_MM)


def test_figures_do_not_depend_on_how_much_scan_lies_beyond_reach():
    lesion = ball(6)
    ct_hu = white(20).astype(np.float32)
    wide = np.pad(ct_hu, ((30, 30), (90, 90), (80, 80)), constant_values=3000)
    mask = np.pad(lesion, ((30, 30), (90, 90), (80, 80)))
    near, far = lesion_noise(ct_hu, lesion, SPACING_MM), lesion_noise(wide, mask, SPACING_MM)
    assert near.lesion_hu == far.lesion_hu and near.surroundings_hu == pytest.approx(far.surroundings_hu, rel=0.05)
