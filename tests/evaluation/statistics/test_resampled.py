"""Figures by counts are those of scikit-learn, SciPy and the plain functions on the drawn rows, with ties."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, roc_auc_score

from evaluation.statistics import agreement, resampled

N, RESAMPLES = 80, 12


@pytest.fixture
def drawn():
    """Scores with ties (2, 3, N), classes, ratings, sizes, and resamples as rows and as counts."""
    rng = np.random.default_rng(7)
    scores, classes = np.round(rng.random((2, 3, N)), 1), rng.integers(0, 2, N).astype(float)
    ratings, sizes = rng.integers(1, 6, N) + rng.choice([0, 0.25], N), np.round(rng.normal(size=N), 1)
    rows = rng.integers(0, N, (RESAMPLES, N))
    return scores, classes, ratings, sizes, rows, np.array([np.bincount(row, minlength=N) for row in rows])


def assert_equal_to(made, plain, scores, rows):
    """`plain(scores, rows)` of every resample and version."""
    assert made.shape == (RESAMPLES, 2, 3)
    for number, index in np.ndindex(RESAMPLES, 6):
        version = np.unravel_index(index, (2, 3))
        expected = plain(scores[version][rows[number]], rows[number])
        assert made[number][version] == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_figures_of_classes_are_those_of_the_drawn_rows(drawn):
    scores, classes, _, sizes, rows, counts = drawn
    assert_equal_to(
        resampled.auroc(scores, classes, counts), lambda s, row: roc_auc_score(classes[row], s), scores, rows
    )
    assert_equal_to(
        resampled.matched_auroc(scores, classes, sizes, 0.3, counts),
        lambda s, row: agreement.matched_auroc(s, classes[row] > 0.5, sizes[row], 0.3),
        scores,
        rows,
    )
    assert_equal_to(
        resampled.calibration_error(scores, classes, counts),
        lambda s, row: resampled.calibration_error(s, classes[row]),
        scores,
        rows,
    )


def test_figures_of_ratings_are_those_of_the_drawn_rows(drawn):
    scores, _, ratings, sizes, rows, counts = drawn
    assert_equal_to(
        resampled.spearman(scores, ratings, counts), lambda s, row: spearmanr(s, ratings[row]).statistic, scores, rows
    )
    assert_equal_to(
        resampled.partial_spearman(scores, ratings, sizes, counts),
        lambda s, row: agreement.partial_spearman(s, ratings[row], sizes[row]),
        scores,
        rows,
    )
    assert_equal_to(
        resampled.mae(scores, ratings, counts), lambda s, row: mean_absolute_error(ratings[row], s), scores, rows
    )
    assert_equal_to(
        resampled.mae_by_rating(scores, ratings, counts),
        lambda s, row: resampled.mae_by_rating(s, ratings[row]),
        scores,
        rows,
    )


def test_pairs_in_blocks_are_all_pairs(drawn, monkeypatch):
    scores, classes, _, sizes, _, counts = drawn
    whole = resampled.matched_auroc(scores, classes, sizes, 0.3, counts)
    monkeypatch.setattr(resampled, "BLOCK", 7)
    np.testing.assert_allclose(resampled.matched_auroc(scores, classes, sizes, 0.3, counts), whole, rtol=1e-12)


def test_a_resample_without_a_class_or_with_one_value_has_no_figure(drawn):
    scores, classes, _, sizes, _, _ = drawn
    counts = np.stack([classes, 1 - classes, np.eye(N)[0]])
    for made in (
        resampled.auroc(scores, classes, counts),
        resampled.matched_auroc(scores, classes, sizes, 0.3, counts),
        resampled.spearman(scores, classes, counts),
        resampled.partial_spearman(scores, sizes, sizes, counts),
    ):
        assert np.isnan(made).all()
    assert resampled.mae(scores, classes, counts)[2, 0, 0] == abs(scores[0, 0, 0] - classes[0])
