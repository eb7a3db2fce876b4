"""The benchmark's simulation with few draws; its figures stand in benchmarks/quality/evaluation_null.md."""

import numpy as np
import pytest

from benchmarks.quality.evaluation_null import GENERATORS, Generator, draw_lesions, trial


def outcomes(name, lesions=23, trials=24, mask_share=0.8):
    return [trial(seed, lesions, mask_share, GENERATORS[name], permutations=39) for seed in range(trials)]


def found(trials, test):
    return np.mean([getattr(one, test) <= 0.05 for one in trials])


def test_the_drawn_features_have_the_stated_variance_and_share_that_of_the_mask():
    real, made = draw_lesions(np.random.default_rng(0), 20_000, 0.8, Generator(bias=0.3, spread=0.5))
    np.testing.assert_allclose([real.std(), made.std(), (made - real).mean()], [1, 0.5, 0.3], atol=0.02)
    correlation = [np.corrcoef(real[:, n], made[:, n])[0, 1] for n in range(real.shape[1])]
    np.testing.assert_allclose(correlation, 0.8, atol=0.02)


def test_a_perfect_generator_scores_1_where_the_old_comparison_gave_two_thirds():
    perfect = outcomes("perfect")
    ratios = np.array([one.ratio for one in perfect])
    assert ratios.mean() == pytest.approx(1, abs=3 * ratios.std() / np.sqrt(len(ratios)))
    assert np.mean([one.old_ratio for one in perfect]) == pytest.approx(0.66, abs=0.04)
    assert np.mean([one.holds_1 for one in perfect]) >= 0.85
    for test in ("p_farther", "p_differs"):
        assert found(perfect, test) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(perfect))


def test_a_bias_that_the_old_comparison_passed_is_found():
    small, large = outcomes("bias of 0.3 sd"), outcomes("bias of 0.5 sd", trials=12)
    assert np.mean([one.old_passes for one in small]) >= 0.9
    assert found(small, "p_differs") >= 0.5 and found(small, "p_farther") >= 0.25
    assert found(large, "p_differs") >= 0.9 and found(large, "p_farther") >= 0.75


def test_too_little_spread_is_found_though_its_ratio_may_be_below_1():
    narrow = outcomes("standard deviation 20 % too small", lesions=95, trials=6)
    assert found(narrow, "p_differs") >= 0.75
    assert np.mean([one.ratio for one in outcomes("standard deviation 20 % too small", trials=12)]) < 1
    collapsed = outcomes("collapse: the mean of all", trials=3)
    assert found(collapsed, "p_differs") == found(collapsed, "p_farther") == 1
