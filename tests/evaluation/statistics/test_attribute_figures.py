"""Figures of attribute classifiers: against scikit-learn and SciPy, closed forms, and what the intervals say."""

import json
import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, roc_auc_score

from evaluation.statistics.attribute_figures import attribute_figures, reliability, said_by_rating
from evaluation.statistics.resampled import auroc, calibration_error, mae, mae_by_rating, spearman

RNG = np.random.default_rng(0)


def test_auroc_is_that_of_scikit_learn_with_ties_and_undefined_without_both_classes():
    truth = RNG.integers(0, 2, 40)
    scores = np.round(RNG.random((2, 3, 40)), 1)
    made = auroc(scores, truth)
    for index in np.ndindex(2, 3):
        assert made[index] == pytest.approx(roc_auc_score(truth, scores[index]))
    assert np.isnan(auroc(scores, np.ones(40))).all() and made.shape == (2, 3)


def test_spearman_is_that_of_scipy_and_undefined_for_a_constant():
    truth = RNG.integers(1, 6, 30).astype(float)
    scores = np.round(truth + RNG.normal(0, 2, (4, 30)), 0)
    for row, made in zip(scores, spearman(scores, truth), strict=True):
        assert made == pytest.approx(spearmanr(row, truth).statistic)
    assert np.isnan(spearman(np.ones((2, 30)), truth)).all() and np.isnan(spearman(scores, np.ones(30))).all()


def test_errors_of_ratings_are_those_of_scikit_learn_plain_and_by_rating():
    truth = np.repeat([1.0, 2.0, 5.0], [20, 4, 1])
    scores = truth + RNG.normal(0, 1, (3, 25))
    weights = 1 / np.repeat([20, 4, 1], [20, 4, 1])
    for index in range(3):
        assert mae(scores, truth)[index] == pytest.approx(mean_absolute_error(truth, scores[index]))
        expected = mean_absolute_error(truth, scores[index], sample_weight=weights)
        assert mae_by_rating(scores, truth)[index] == pytest.approx(expected)


def test_calibration_error_is_zero_for_true_probabilities_and_the_shift_for_shifted_ones():
    truth = np.tile([0, 0, 0, 1, 0, 1, 1, 1], 5)
    honest = np.tile([0.25] * 4 + [0.75] * 4, 5)
    assert calibration_error(honest, truth) == pytest.approx(0)
    assert calibration_error(np.stack([honest + 0.1, honest - 0.04]), truth) == pytest.approx([0.1, 0.04])
    rows = reliability(np.stack([honest, honest]), truth)
    assert rows == [(pytest.approx(0.25), pytest.approx(0.25), 20), (pytest.approx(0.75), pytest.approx(0.75), 20)]
    assert calibration_error(np.array([0.0, 1.0]), np.array([0, 1])) == 0  # the ends lie in the outer bins
    assert said_by_rating(np.array([[1.0, 2, 4], [2, 2, 6]]), np.array([1.2, 1, 5])) == [(1, 1.75, 2), (5, 5, 1)]


def figures(classes=True, strength=2.0, control_strength=0.0, nodules=120, **options):
    """Of a made-up classifier: what it says is the truth, `strength` times, and noise; at the second level less."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, nodules).astype(float) if classes else rng.integers(1, 6, nodules).astype(float)
    truth[::10] = math.nan
    patients = [f"p{index // 2}" for index in range(nodules)]

    def scores(by, versions):
        raw = np.array([s * by * truth + rng.normal(0, 1, (versions, nodules)) for s in (1, 0.2)])
        return 1 / (1 + np.exp(-raw)) if classes else raw

    control = scores(control_strength, 4) if control_strength is not None else None
    given = {"timesteps": [0, 500], "decisive": [0], "classes": classes, "repeats": 200, **options}
    return attribute_figures(scores(strength, 2), control, truth, patients, **given)


@pytest.mark.parametrize("classes", [True, False])
def test_a_knowing_classifier_is_told_from_its_control_and_a_guessing_one_is_not(classes):
    knowing, guessing = figures(classes), figures(classes, strength=0.0)
    assert knowing.nodules == 108 and knowing.chance == (0.5 if classes else 0.0)
    assert knowing.summary.low > knowing.chance and knowing.ahead.low > 0.1
    assert knowing.control.low < knowing.chance < knowing.control.high
    assert guessing.ahead.low < 0 < guessing.ahead.high
    measure = knowing.measure
    assert measure == ("AUROC" if classes else "Spearman")
    assert knowing.levels["0"][measure].value > knowing.levels["500"][measure].value
    assert knowing.summary == knowing.levels["0"][measure]
    both = figures(classes, decisive=[0, 500])
    values = [both.levels[t][measure].value for t in ("0", "500")]
    assert both.summary.value == pytest.approx(np.mean(values))
    assert both.ahead.value == pytest.approx(both.summary.value - both.control.value)


def test_what_size_alone_tells_is_nothing_at_equal_size():
    rng = np.random.default_rng(5)
    log_volumes = rng.normal(6, 1.5, 300)
    for classes in (True, False):
        truth = (log_volumes + rng.normal(0, 1, 300) > 6).astype(float)
        truth = truth if classes else 1 + 2 * truth + rng.integers(0, 3, 300)
        patients, levels = [str(index) for index in range(300)], {"timesteps": [0], "decisive": [0], "classes": classes}
        scores = log_volumes + rng.normal(0, 0.1, (1, 2, 300))  # two versions of one level
        scores = 1 / (1 + np.exp(-scores)) if classes else scores
        made = attribute_figures(scores, None, truth, patients, repeats=50, log_volumes=log_volumes, **levels)
        assert made.summary.low > made.chance + 0.2
        assert abs(made.at_equal_size.value - made.chance) < 0.12
        knowing = attribute_figures(
            scores + 2 * truth, None, truth, patients, repeats=50, log_volumes=log_volumes, **levels
        )
        assert knowing.at_equal_size.low > made.at_equal_size.high
        assert made.levels["0"][made.measure + " at equal size"] == made.at_equal_size
        kept = json.loads(json.dumps(made.for_guide()))
        assert kept["at_equal_size"]["value"] == made.at_equal_size.value


def test_interval_of_a_figure_covers_it_and_is_wider_where_patients_are_fewer():
    few, many = figures(nodules=40), figures(nodules=400)
    for made in (few, many):
        assert made.summary.low < made.summary.value < made.summary.high
    assert few.summary.high - few.summary.low > 1.8 * (many.summary.high - many.summary.low)


def test_what_cannot_be_told_is_none_and_the_guides_part_is_plain():
    alone = figures(control_strength=None)
    assert alone.control is None and alone.ahead is None and alone.control_levels == {}
    kept = alone.for_guide()
    assert kept["control"] is None and "ahead_low" not in kept
    kept = figures().for_guide()
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    assert kept["low"] < kept["value"] < kept["high"] and kept["ahead_low"] > 0
    one_class = attribute_figures(np.ones((1, 1, 4)), None, np.ones(4), list("abcd"), [0], [0], True, 20)
    assert one_class.summary.value is None and one_class.summary.low is None


def test_shapes_and_levels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"scores \(1, 1, 4\): expected \(2 levels, versions, 4 nodules\)"):
        attribute_figures(np.ones((1, 1, 4)), None, np.ones(4), list("abcd"), [0, 1], [0], True)
    with pytest.raises(ValueError, match=r"decisive timesteps \[7\]: none is among \[0\]"):
        attribute_figures(np.ones((1, 1, 4)), None, np.ones(4), list("abcd"), [0], [7], True)
