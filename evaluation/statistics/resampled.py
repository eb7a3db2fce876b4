"""Figures of predictions in all resamples of a bootstrap at once, from how often each row was drawn.

A resample has the order of the whole sample, so one sort serves all of them: ranks follow from cumulative counts. Every
function takes `counts`, (R, N), how often each of the N rows is in each of R resamples; None is every row once. Scores
are (..., N); the result is (R, ...), and (...) without counts.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BINS = 5  # of a reliability curve
BLOCK = 1024  # positive rows whose pairs are in memory at a time


def auroc(scores: NDArray, truth: NDArray, counts: NDArray | None = None) -> NDArray:
    """Area under the ROC curve for truth 0 or 1: Mann-Whitney's U, ties count half. NaN where a class is missing."""
    positive = truth > 0.5

    def one(row: NDArray, drawn: NDArray) -> NDArray:
        m, n = drawn[:, positive].sum(1), drawn[:, ~positive].sum(1)
        ranks = _ranks(row, drawn)
        return _divided((drawn * ranks)[:, positive].sum(1) - m * (m + 1) / 2, m * n)

    return _each(one, scores, counts)


def matched_auroc(
    scores: NDArray, truth: NDArray, matched_by: NDArray, bandwidth: float, counts: NDArray | None = None
) -> NDArray:
    """`evaluation.statistics.agreement.matched_auroc` of each resample: pairs of a positive and a negative row, with
    the weight exp(-(difference of `matched_by`)² / 2 bandwidth²). The pairs are formed once for all resamples."""
    ones, zeros = np.flatnonzero(truth > 0.5), np.flatnonzero(~(truth > 0.5))

    def one(row: NDArray, drawn: NDArray) -> NDArray:
        higher, total = np.zeros(len(drawn)), np.zeros(len(drawn))
        for block in (ones[first : first + BLOCK] for first in range(0, len(ones), BLOCK)):
            weight = np.exp(-0.5 * ((matched_by[block][:, None] - matched_by[zeros]) / bandwidth) ** 2)
            difference = row[block][:, None] - row[zeros]
            higher += ((drawn[:, block] @ (weight * (0.5 + 0.5 * np.sign(difference)))) * drawn[:, zeros]).sum(1)
            total += ((drawn[:, block] @ weight) * drawn[:, zeros]).sum(1)
        return _divided(higher, total)

    return _each(one, scores, counts)


def spearman(scores: NDArray, truth: NDArray, counts: NDArray | None = None) -> NDArray:
    """Spearman's ρ: Pearson's r of the ranks, NaN where one is constant."""
    return _each(lambda row, drawn: _correlation(_ranks(row, drawn), _ranks(truth, drawn), drawn), scores, counts)


def partial_spearman(scores: NDArray, truth: NDArray, given: NDArray, counts: NDArray | None = None) -> NDArray:
    """`evaluation.statistics.agreement.partial_spearman` of each resample: rank correlation with a third one held."""

    def one(row: NDArray, drawn: NDArray) -> NDArray:
        x, y, z = _ranks(row, drawn), _ranks(truth, drawn), _ranks(given, drawn)
        return _correlation(_rest(x, z, drawn), _rest(y, z, drawn), drawn)

    return _each(one, scores, counts)


def mae(scores: NDArray, truth: NDArray, counts: NDArray | None = None) -> NDArray:
    """Mean absolute error of ratings."""
    return _each(lambda row, drawn: drawn @ np.abs(row - truth) / drawn.sum(1), scores, counts)


def mae_by_rating(scores: NDArray, truth: NDArray, counts: NDArray | None = None) -> NDArray:
    """The same with equal weight for each rating, to the nearest whole number, that occurs: skewed ratings are not
    served by always saying the commonest."""
    level = np.rint(truth)
    members = np.array([level == value for value in np.unique(level)], float).T  # (N, ratings)

    def one(row: NDArray, drawn: NDArray) -> NDArray:
        errors = drawn @ (members * np.abs(row - truth)[:, None])
        return np.nanmean(_divided(errors, drawn @ members), axis=1)

    return _each(one, scores, counts)


def calibration_error(scores: NDArray, truth: NDArray, counts: NDArray | None = None) -> NDArray:
    """Expected calibration error of probabilities: |mean probability - share| over equal bins (Naeini et al. 2015)."""

    def one(row: NDArray, drawn: NDArray) -> NDArray:
        inside = np.minimum((row * BINS).astype(int), BINS - 1)[:, None] == np.arange(BINS)
        return np.abs(drawn @ (inside * (row - truth)[:, None])).sum(1) / drawn.sum(1)

    return _each(one, scores, counts)


def _each(figure: Callable[[NDArray, NDArray], NDArray], scores: NDArray, counts: NDArray | None) -> NDArray:
    """The figure (R,) of every row of scores."""
    shape, size = scores.shape[:-1], scores.shape[-1]
    drawn = np.ones((1, size)) if counts is None else np.asarray(counts, float)
    rows = [figure(row, drawn) for row in np.asarray(scores, float).reshape(-1, size)]
    made = np.stack(rows, axis=-1).reshape(len(drawn), *shape)
    return made[0] if counts is None else made


def _ranks(values: NDArray, drawn: NDArray) -> NDArray:
    """Mean rank of each row's copies among all drawn rows, (R, N); ties share theirs."""
    _, place, sizes = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    upto = np.cumsum(drawn[:, order], axis=1)[:, np.cumsum(sizes) - 1]  # drawn rows up to the end of each tie
    before = np.concatenate([np.zeros((len(drawn), 1)), upto[:, :-1]], axis=1)
    return ((before + upto + 1) / 2)[:, place]


def _centred(values: NDArray, drawn: NDArray) -> NDArray:
    return values - (drawn * values).sum(1, keepdims=True) / drawn.sum(1, keepdims=True)


def _rest(values: NDArray, given: NDArray, drawn: NDArray) -> NDArray:
    """What a straight line of `given` leaves of the values, (R, N)."""
    values, given = _centred(values, drawn), _centred(given, drawn)
    slope = (drawn * values * given).sum(1) / np.maximum((drawn * given**2).sum(1), np.finfo(float).tiny)
    return values - slope[:, None] * given


def _correlation(a: NDArray, b: NDArray, drawn: NDArray) -> NDArray:
    a, b = _centred(a, drawn), _centred(b, drawn)
    norm = np.sqrt((drawn * a**2).sum(1) * (drawn * b**2).sum(1))
    return _divided((drawn * a * b).sum(1), np.where(norm > 1e-9, norm, 0.0))


def _divided(a: NDArray, b: NDArray) -> NDArray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(b), np.nan), where=b > 0)
