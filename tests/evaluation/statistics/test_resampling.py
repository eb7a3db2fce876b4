import numpy as np
import pytest
from scipy.stats import wilcoxon

from evaluation.statistics.distances import frechet_distance, wasserstein_per_feature
from evaluation.statistics.resampling import (
    holm,
    mean_interval,
    paired_set_test,
    paired_value_test,
    patient_split,
    real_floor,
)

PATIENTS = [f"p{n // 3}" for n in range(60)]  # 20 patients with 3 lesions each


def _mean_wasserstein(X, Y):
    return float(wasserstein_per_feature(X, Y).mean())


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(60, 1, 4))


def test_a_split_shares_no_patient_and_has_the_requested_for_sizes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = patient_split(PATIENTS, (20, 31), rng)
        assert (len(first), len(second)) == (20, 31)
        assert not {PATIENTS[i] for i in first} & {PATIENTS[i] for i in second}
        assert len(set(first)) == 20 and len(set(second)) == 31


def test_too_few_patients_cannot_be_split():
    with pytest.raises(ValueError, match="3 patients, expected at least 4"):
        patient_split(["a", "b", "c", "c"], (2, 2), np.random.default_rng(0))


def test_the_floor_is_one_distance_per_split_and_repeatable(features):
    runs = [
        real_floor(features, PATIENTS, wasserstein_per_feature, (20, 20), 7, np.random.default_rng(3)) for _ in range(2)
    ]
    assert runs[0].shape == (7, 4)
    assert len(np.unique(runs[0][:, 0])) == 7
    np.testing.assert_array_equal(*runs)


def test_the_floor_shrinks_with_the_number_of_lesions(features):
    def floor(size):
        rng = np.random.default_rng(0)
        return real_floor(features, PATIENTS, wasserstein_per_feature, (size, size), 30, rng).mean()

    assert floor(6) > 1.5 * floor(30)


def test_the_interval_of_a_mean_narrows_to_the_mean_of_equal_values():
    assert mean_interval(np.full(9, 4.0), list("abcabcabc"), 20, np.random.default_rng(0)) == (4.0, 4.0)


def test_the_interval_of_a_mean_is_as_wide_as_patients_and_not_lesions_say():
    by_patient = np.random.default_rng(0).normal(size=40)
    low, high = mean_interval(
        np.repeat(by_patient, 5), np.repeat(np.arange(40), 5).tolist(), 4000, np.random.default_rng(1)
    )
    error = by_patient.std() / np.sqrt(40)
    assert (low, high) == pytest.approx(by_patient.mean() + 1.96 * error * np.array([-1, 1]), abs=0.2 * error)


def test_two_equal_methods_are_not_told_apart_and_a_worse_one_is(features):
    real, good = features[:30], features[30:]
    patients = PATIENTS[:30]
    bad = good + 1.5
    rng = np.random.default_rng(0)
    difference, p = paired_set_test(real, good, good, patients, frechet_distance, 50, rng)
    assert (difference, p) == (0, 1)
    difference, p = paired_set_test(real, good, bad, patients, frechet_distance, 199, rng)
    assert difference < 0 and p < 0.02


def test_permutation_p_values_are_uniform_when_methods_are_exchangeable():
    p_values = []
    for draw in range(60):
        rng = np.random.default_rng(draw)
        real, a, b = rng.normal(size=(3, 12, 1, 1))
        p_values.append(paired_set_test(real, a, b, [str(n) for n in range(12)], _mean_wasserstein, 39, rng)[1])
    assert 0.35 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15


def test_paired_values_are_tested_by_wilcoxon_on_patient_means():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60), rng.normal(0.3, 1, size=60)
    means = (a - b).reshape(20, 3).mean(1)
    difference, p = paired_value_test(a, b, [f"p{n // 3:02d}" for n in range(60)])
    assert difference == pytest.approx(np.median(means))
    assert p == pytest.approx(wilcoxon(means).pvalue)
    assert paired_value_test(a, a, PATIENTS) == (0, 1)


def test_holm_steps_down():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    assert holm([]).size == 0
