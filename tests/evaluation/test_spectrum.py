"""The spectrum and the coverage of a lesion, against white noise, a wave, and lesions that fill half their mask."""

import numpy as np
import pytest

from evaluation.lesions.hu_and_seam import tissue_coverage
from evaluation.lesions.spectrum import EDGES_PER_MM, lesion_spectrum


def ball(size: int = 32, radius: float = 10.0) -> np.ndarray:
    grid = np.stack(np.indices((size,) * 3), -1) - size // 2
    return np.linalg.norm(grid, axis=-1) <= radius


def test_white_noise_has_its_variance_in_every_shell():
    noise = 30 * np.random.default_rng(0).standard_normal((32,) * 3)
    np.testing.assert_allclose(lesion_spectrum(noise, ball(), (1, 1, 1)), 10 * np.log10(30**2), atol=1.0)
    finer = lesion_spectrum(noise, ball(), (0.5, 0.5, 0.5))
    np.testing.assert_allclose(finer[1:], 10 * np.log10(30**2 / 8), atol=1.5)


@pytest.mark.parametrize("shell", [1, 3, 5])
def test_mottling_raises_the_shell_of_its_frequency_most(shell):
    smooth = np.random.default_rng(1).standard_normal((32,) * 3)
    frequency = (EDGES_PER_MM[shell] + EDGES_PER_MM[shell + 1]) / 2
    wave = 50 * np.sin(2 * np.pi * frequency * np.arange(32))[:, None, None]
    rise = lesion_spectrum(smooth + wave, ball(), (1, 1, 1)) - lesion_spectrum(smooth, ball(), (1, 1, 1))
    assert rise.argmax() == shell and rise[shell] > 20


def test_only_the_foreground_counts_and_a_constant_lesion_has_no_power():
    values = np.random.default_rng(2).standard_normal((32,) * 3)
    other = np.where(ball(), values + 500, 1e4)
    np.testing.assert_allclose(lesion_spectrum(values, ball(), (1, 1, 1)), lesion_spectrum(other, ball(), (1, 1, 1)))
    assert (lesion_spectrum(np.ones((32,) * 3), ball(), (1, 1, 1)) == -30).all()
    with pytest.raises(ValueError, match="lesion_mask has 7 voxels, expected at least 8"):
        lesion_spectrum(values, ball(radius=1.0), (1, 1, 1))


def test_coverage_is_the_share_that_tissue_fills():
    mask = ball()
    lung = np.full(mask.shape, -850.0)
    lung[:6] = 40  # a chest wall within the surroundings changes nothing
    full, half = np.where(mask, -30.0, lung), np.where(mask & (np.indices(mask.shape)[1] < 16), -30.0, lung)
    assert tissue_coverage(full, mask, (1, 1, 1)) == 1
    expected = (mask & (np.indices(mask.shape)[1] < 16)).sum() / mask.sum()
    assert tissue_coverage(half, mask, (1, 1, 1)) == pytest.approx(expected)
    faint = np.where(mask, -650.0, lung)  # ground glass fills its mask, too
    assert tissue_coverage(faint, mask, (1, 1, 1)) == 1
    with pytest.raises(ValueError, match="nothing valid around it"):
        tissue_coverage(full, mask, (1, 1, 1), mask)
