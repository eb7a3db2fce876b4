"""Figures of translated crops, on crops whose errors are made."""

import numpy as np
import pytest

from evaluation.translation.figures import FIGURES, figures, markdown, paired_p, summary


def crop(seed=0):
    """Noise of 30 HU in lung, with a lesion, and masks."""
    true = -850 + 30 * np.random.default_rng(seed).standard_normal((40, 40, 40))
    lesion = np.zeros(true.shape, bool)
    lesion[26:32, 26:32, 26:32] = True
    return np.where(lesion, 40.0, true), lesion, np.ones(true.shape, bool)


def test_an_offset_is_a_bias_and_leaves_the_noise():
    true, lesion, valid = crop()
    found = figures(true + 15, true, lesion, valid, 1.0)
    assert found["psnr"] == pytest.approx(20 * np.log10(1500 / 15))
    assert found["bias_hu"] == pytest.approx(15) and found["lesion_hu"] == pytest.approx(15)
    assert found["noise_middle"] == pytest.approx(1) and found["noise_fine"] == pytest.approx(1)


def test_stronger_noise_has_more_power_and_a_lower_ssim():
    true, lesion, valid = crop()
    made = np.where(lesion, true, -850 + 2 * (true + 850))
    found = figures(made, true, lesion, valid, 1.0)
    assert found["noise_fine"] == pytest.approx(4, rel=1e-6) and found["lesion_hu"] == 0
    assert figures(true, true, lesion, valid, 1.0)["ssim"] == 1 > found["ssim"]


def test_what_lies_beyond_the_window_or_in_the_rim_does_not_count():
    true, lesion, valid = crop()
    bone = np.where(lesion, 900.0, true)
    worse = np.where(lesion, 1200.0, true)
    worse[:8], worse[:, :, -8:] = 0, 0
    assert figures(worse, bone, lesion, valid, 1.0)["psnr"] == np.inf
    assert np.isnan(figures(true, true, np.zeros_like(lesion), valid, 1.0)["lesion_hu"])


def test_a_table_has_a_row_for_each_method_and_its_p():
    better = [dict.fromkeys(FIGURES, 2.0 + 0.1 * n) for n in range(6)]
    worse = [dict.fromkeys(FIGURES, -1.0) for _ in range(6)]
    assert summary(worse)["lesion_hu"] == 1.0 and summary(better)["psnr"] == pytest.approx(2.25)
    assert paired_p(better, worse) == pytest.approx(2 / 2**6) and np.isnan(paired_p(worse, worse))
    lines = markdown({"ours": better, "other": worse}, "ours").splitlines()
    assert lines[2].startswith("| ours | 2.25 |") and lines[2].endswith("|  |") and lines[3].endswith("| 0.031 |")
