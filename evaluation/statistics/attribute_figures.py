"""How well an attribute is predicted for held-out nodules at each noise level, beside a control, with intervals.

Scores come in several versions: draws of the noise, and for the control its shuffles. A figure is the mean over the
versions; its interval is a percentile bootstrap over patients, in which all versions and levels share the resamples.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.statistics.resampled import (
    BINS,
    auroc,
    calibration_error,
    mae,
    mae_by_rating,
    matched_auroc,
    partial_spearman,
    spearman,
)
from evaluation.statistics.resampling import patient_rows

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # scores (..., N), truth (N,), counts (R, N)
ByLevel = dict[str, np.ndarray]  # statistic -> (levels,)
RESAMPLES_AT_ONCE = 250
EQUAL_SIZE = 0.25  # of log volume: a pair of lesions whose diameters differ by 9 % counts 0.6 of an equal one
AT_EQUAL_SIZE = " at equal size"


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; None where it cannot be told.

    Attributes:
        value: Over all nodules.
        low, high: 2.5 and 97.5 % of the bootstrap.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class AttributeFigures:
    """What is known of one attribute's classifier.

    Attributes:
        measure: "AUROC" of two classes, "Spearman" of ratings: the figure that decides.
        chance: What guessing gives.
        nodules: How many have a label.
        summary: The figure's mean over the decisive levels.
        at_equal_size: The same among nodules of one size (`evaluation.statistics.agreement`): what is told beyond
            size, which a mask fixes; None where volumes are not given.
        control: The same of the control; None without one.
        ahead: summary - control.
        levels: Timestep -> measure -> figure: "AUROC" or "Spearman", with volumes also at equal size; "MAE" of ratings,
            over all nodules, and "MAE by rating", over the ratings with equal weight; "calibration error" of classes,
            the expected one.
        control_levels: The same of the control.
        reliability: Timestep -> rows (said, found, nodules): of classes the mean probability and the share of the
            second class in bins of probability; of ratings the rating and the mean of what is said.
    """

    measure: str
    chance: float
    nodules: int
    summary: Interval
    at_equal_size: Interval | None
    control: Interval | None
    ahead: Interval | None
    levels: Mapping[str, Mapping[str, Interval]]
    control_levels: Mapping[str, Mapping[str, Interval]]
    reliability: Mapping[str, Sequence[tuple[float, float, int]]]

    def for_guide(self) -> dict[str, Any]:
        """What `guidance.MultiClassifierGuidance` keeps of it: plain values."""
        kept: dict[str, Any] = {"measure": self.measure, "chance": self.chance, "nodules": self.nodules}
        kept |= asdict(self.summary) | {"control": None if self.control is None else self.control.value}
        kept["at_equal_size"] = None if self.at_equal_size is None else asdict(self.at_equal_size)
        if self.ahead is not None:
            kept |= {"ahead": self.ahead.value, "ahead_low": self.ahead.low, "ahead_high": self.ahead.high}
        return kept | {"by_timestep": {t: asdict(figures[self.measure]) for t, figures in self.levels.items()}}


def attribute_figures(
    scores: np.ndarray,
    control_scores: np.ndarray | None,
    truth: np.ndarray,
    patients: Sequence[str],
    timesteps: Sequence[int],
    decisive: Sequence[int],
    classes: bool,
    repeats: int = 1000,
    seed: int = 0,
    log_volumes: np.ndarray | None = None,
) -> AttributeFigures:
    """Figures of one attribute.

    Args:
        scores: Probability of the second class, or the rating, (levels, versions, N).
        control_scores: Of the control, (levels, its versions, N), or None.
        truth: Index of the class, 0 or 1, or the rating, (N,); NaN where a nodule has no label.
        patients: The patient of each nodule.
        timesteps: Of the levels.
        decisive: The timesteps over which the summary is the mean.
        classes: Whether the attribute has classes.
        repeats: Resamples of the bootstrap.
        seed: Of these.
        log_volumes: Of the lesions' masks, (N,), log mm³, for figures at equal size.
    Raises: ValueError: If shapes differ, or no decisive timestep is among the levels.
    """
    if scores.ndim != 3 or scores.shape[0] != len(timesteps) or scores.shape[2] != len(truth):
        raise ValueError(f"scores {scores.shape}: expected ({len(timesteps)} levels, versions, {len(truth)} nodules)")
    chosen = [index for index, t in enumerate(timesteps) if t in decisive]
    if not chosen:
        raise ValueError(f"decisive timesteps {list(decisive)}: none is among {list(timesteps)}")
    known = np.flatnonzero(np.isfinite(truth))
    scores, truth = scores[:, :, known], truth[known]
    volumes = None if log_volumes is None else log_volumes[known]
    control_scores = None if control_scores is None else control_scores[:, :, known]
    people = [str(patients[int(index)]) for index in known]
    measure = "AUROC" if classes else "Spearman"
    statistics: dict[str, Statistic] = {measure: auroc if classes else spearman}
    statistics |= {"calibration error": calibration_error} if classes else {"MAE": mae, "MAE by rating": mae_by_rating}

    if volumes is not None:

        def at_equal_size(values: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
            if classes:
                return matched_auroc(values, truth, volumes, EQUAL_SIZE, counts)
            return partial_spearman(values, truth, volumes, counts)

        own_statistics = statistics | {measure + AT_EQUAL_SIZE: at_equal_size}
    else:
        own_statistics = statistics

    rng = np.random.default_rng(seed)
    groups = list(patient_rows(people).values())
    counts = np.ones((1 + repeats, len(truth)))  # how often each row is drawn; first, everyone once
    for drawn_counts in counts[1:]:
        rows = np.concatenate([groups[g] for g in rng.choice(len(groups), len(groups))])
        drawn_counts[:] = np.bincount(rows, minlength=len(truth))

    def by_level(values: np.ndarray, statistics: Mapping[str, Statistic]) -> tuple[ByLevel, list[ByLevel]]:
        """Each statistic at each level, mean over the versions, (levels,): of all nodules, and of each resample."""
        parts = [counts[first : first + RESAMPLES_AT_ONCE] for first in range(0, len(counts), RESAMPLES_AT_ONCE)]
        made = {
            name: np.concatenate([statistic(values, truth, part).mean(2) for part in parts])
            for name, statistic in statistics.items()
        }
        rows = [{name: levels[row] for name, levels in made.items()} for row in range(len(counts))]
        return rows[0], rows[1:]

    own, own_drawn = by_level(scores, own_statistics)
    summary, drawn = own[measure][chosen].mean(), np.array([d[measure][chosen].mean() for d in own_drawn])
    sized, sized_name = None, measure + AT_EQUAL_SIZE
    if sized_name in own:
        sized = _interval(own[sized_name][chosen].mean(), [d[sized_name][chosen].mean() for d in own_drawn])
    control = ahead = None
    control_levels: dict[str, dict[str, Interval]] = {}
    if control_scores is not None:
        other, other_drawn = by_level(control_scores, statistics)
        theirs, theirs_drawn = other[measure][chosen].mean(), [d[measure][chosen].mean() for d in other_drawn]
        control, ahead = _interval(theirs, theirs_drawn), _interval(summary - theirs, drawn - np.array(theirs_drawn))
        control_levels = _levels(other, other_drawn, timesteps)
    curve = reliability if classes else said_by_rating
    return AttributeFigures(
        measure,
        0.5 if classes else 0.0,
        len(truth),
        _interval(summary, drawn),
        sized,
        control,
        ahead,
        _levels(own, own_drawn, timesteps),
        control_levels,
        {str(t): curve(scores[index], truth) for index, t in enumerate(timesteps)},
    )


def reliability(scores: np.ndarray, truth: np.ndarray) -> list[tuple[float, float, int]]:
    """Mean probability, share of the second class and nodules in each equal bin that has some; scores (versions, N)."""
    flat, found = scores.ravel(), np.broadcast_to(truth, scores.shape).ravel()
    place = np.minimum((flat * BINS).astype(int), BINS - 1)
    bins = [place == index for index in range(BINS)]
    versions = len(scores)
    return [(float(flat[b].mean()), float(found[b].mean()), round(b.sum() / versions)) for b in bins if b.any()]


def said_by_rating(scores: np.ndarray, truth: np.ndarray) -> list[tuple[float, float, int]]:
    """Rating to the nearest whole number, mean of what is said of it, and its nodules; scores (versions, N)."""
    level = np.rint(truth)
    return [(float(v), float(scores[:, level == v].mean()), int((level == v).sum())) for v in np.unique(level)]


def _levels(
    values: Mapping[str, np.ndarray], drawn: Sequence[Mapping[str, np.ndarray]], timesteps: Sequence[int]
) -> dict[str, dict[str, Interval]]:
    return {
        str(t): {name: _interval(value[index], [d[name][index] for d in drawn]) for name, value in values.items()}
        for index, t in enumerate(timesteps)
    }


def _interval(value: float, drawn: Sequence[float] | np.ndarray) -> Interval:
    """Resamples without the figure, in which a class is missing for example, are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of quantiles of nothing, which are NaN
        low, high = np.nanquantile(np.asarray(drawn, float), [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return Interval(*(None if np.isnan(number) else float(number) for number in (value, low, high)))
