import numpy as np
import pytest
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score

from evaluation.statistics.agreement import (
    auroc,
    group_aurocs,
    group_spearmans,
    jackknife_interval,
    matched_auroc,
    partial_spearman,
    patient_interval,
    spearman,
)


@pytest.fixture
def scored():
    """Scores with ties, and labels."""
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.4
    return np.round(rng.normal(size=60) + positive, 1), positive


def test_auroc_and_rank_correlation_are_those_of_scikit_learn_and_scipy(scored):
    scores, positive = scored
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    other = np.round(scores + np.random.default_rng(1).normal(size=60), 1)
    assert spearman(scores, other) == pytest.approx(spearmanr(scores, other).statistic)
    assert np.isnan(auroc(scores, np.ones(60, bool))) and np.isnan(spearman(scores, np.ones(60)))


def test_matching_by_nothing_is_the_auroc_and_matching_closely_ignores_what_is_matched(scored):
    scores, positive = scored
    size = np.random.default_rng(2).normal(size=60)
    assert matched_auroc(scores, positive, size, 1e6) == pytest.approx(roc_auc_score(positive, scores))
    rng = np.random.default_rng(3)
    positive = rng.random(2000) < 0.5
    size = positive + rng.normal(size=2000)
    assert roc_auc_score(positive, size) > 0.7  # 0.76: Φ(1/√2)
    assert matched_auroc(size, positive, size, 0.02) == pytest.approx(0.5, abs=0.01)
    assert matched_auroc(positive.astype(float), positive, size, 0.02) == 1
    assert np.isnan(matched_auroc(scores, np.ones(60, bool), scores, 1.0))


def test_within_groups_what_groups_fix_plays_no_part():
    groups = ["a", "a", "b", "b", "c"]
    scores, positive = np.array([0.1, 0.2, 8.1, 8.1, 9.0]), np.array([False, True, False, True, True])
    assert group_aurocs(scores, positive, groups) == {"a": 1.0, "b": 0.5}  # c has no pair, b is a tie
    x, y = np.array([1.0, 2.0, 1.0, 2.0, 1.0]), np.array([100.0, 101.0, 2.0, 1.0, 5.0])
    assert group_spearmans(x, y, groups) == {"a": pytest.approx(1), "b": pytest.approx(-1)}


def test_partial_rank_correlation_is_the_closed_form_of_the_three_plain_ones():
    rng = np.random.default_rng(4)
    z = rng.normal(size=200)
    x, y = z + rng.normal(size=200), z + rng.normal(size=200)
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, z) == pytest.approx(expected)
    assert np.isnan(partial_spearman(x, 2 * z, z))


def test_the_interval_of_a_mean_is_the_normal_one_and_counts_patients_not_rows():
    values = np.random.default_rng(5).normal(size=400)
    low, high = patient_interval(
        lambda rows: values[rows].mean(), [str(n) for n in range(400)], 2000, np.random.default_rng(0)
    )
    reach = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - reach, abs=0.01)
    assert high == pytest.approx(values.mean() + reach, abs=0.01)
    few = np.repeat(values[:20], 20)
    low, high = patient_interval(
        lambda rows: few[rows].mean(), [str(n // 20) for n in range(400)], 2000, np.random.default_rng(0)
    )
    assert high - low == pytest.approx(2 * 1.96 * values[:20].std() / np.sqrt(20), rel=0.1)
    assert patient_interval(lambda rows: float("nan"), ["a", "b"], 10, np.random.default_rng(0)) is None


def test_the_jackknife_of_a_mean_is_students_interval_of_the_patients():
    values = np.random.default_rng(6).normal(size=15)
    patients = [f"p{n // 2}" for n in range(30)]
    low, high = jackknife_interval(lambda rows: np.repeat(values, 2)[rows].mean(), patients)
    expected = student_t.interval(0.95, 14, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(15))
    assert (low, high) == pytest.approx(expected)
    assert jackknife_interval(lambda rows: 1.0, ["one", "one"]) is None
    assert jackknife_interval(lambda rows: float("nan") if 0 not in rows else 1.0, ["a", "b"]) is None
