"""Distances between a synthetic and the real set, each beside real vs real in the same patient-wise splits."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from evaluation.lesions.features import TEXTURE, Features, real_spread
from evaluation.lesions.shared_masks import comparable_sets
from evaluation.statistics.distances import (
    VectorDistance,
    frechet_distance,
    kernel_distance,
    standardised_wasserstein,
    wasserstein_per_feature,
)
from evaluation.statistics.exchange import TEST_SPLITS, draw_splits, exchange_tests, ratio_interval, split_distances
from evaluation.statistics.resampling import MIN_PATIENTS, flat, real_floor


@dataclass(frozen=True)
class SetMetric:
    """A distance between two sets of lesions.

    Attributes:
        name: As printed.
        kind: Which features it looks at.
        measure: (..., N, F), (..., M, F) -> (..., values); their mean is the value, their standard deviation is given
            where there are several.
        tested: Whether it takes part in the tests between methods (one of each family does, to spare the adjustment).
        feature_names: Of the values, where each is worth a look of its own.
        signed: Whether it may be negative; such a distance has no ratio.
    """

    name: str
    kind: str
    measure: VectorDistance
    tested: bool
    feature_names: tuple[str, ...] = ()
    signed: bool = False

    def value(self, X: np.ndarray, Y: np.ndarray) -> float:
        """The distance of (N, F) and (M, F), averaged over its values."""
        return float(self.measure(X, Y).mean())


@dataclass(frozen=True)
class FloorRow:
    """Real vs real: the distance between two patient-wise groups with `sizes` lesions.

    Attributes:
        splits: How often the real lesions were split.
        mean: Over the splits.
        std: Mean over the splits of the standard deviation over features; None for a single figure.
        low, high: 2.5 and 97.5 % of the splits.
    """

    metric: str
    sizes: tuple[int, int]
    splits: int
    mean: float
    std: float | None
    low: float
    high: float


@dataclass(frozen=True)
class DistanceRow:
    """One distance of one method to the real set; see `evaluation.statistics.exchange` for the comparison.

    Attributes:
        shared: Whether the synthetic lesions were made in real lesions' masks, or in their patients.
        real_lesions, synthetic_lesions: In the two sets.
        whole: Between the two whole sets, as published tables give it. It depends on their sizes and, of shared masks,
            lies below real vs real even for a poor generator: no figure of this row may be read beside it.
        value: Synthetic lesions to real lesions of other patients, mean over patient-wise splits; None, with all that
            follows, if there are too few patients.
        std: Mean over the splits of the standard deviation over features; None for a single figure.
        floor: Real to real lesions in the same splits, at the same sizes.
        ratio: value / floor, 1 for a perfect generator; None where the distance may be negative.
        low, high: 95 % interval of the ratio (jackknife over patients).
        p_farther: Exchange test of the synthetic lesions being farther; None if no patients are shared.
        p_differs: Exchange test of any difference between the whole sets.
    """

    method: str
    metric: str
    shared: bool
    real_lesions: int
    synthetic_lesions: int
    whole: float
    value: float | None = None
    std: float | None = None
    floor: FloorRow | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_farther: float | None = None
    p_differs: float | None = None


def set_metrics(pool: Features) -> list[SetMetric]:
    """The distances that these features allow.

    Args:
        pool: Features of real lesions, whose spread standardises.
    Returns: In the order of the report.
    """
    metrics = []
    for kind in TEXTURE:
        if kind in pool:
            scale = real_spread(pool[kind])
            metrics.append(SetMetric(f"{kind} WD", kind, wasserstein_per_feature, tested=False))
            names = tuple(name for name, spread in zip(pool[kind].names, scale, strict=True) if spread > 0)
            if names:
                measure = standardised_wasserstein(scale)
                metrics.append(SetMetric(f"{kind} WD, standardised", kind, measure, True, names))
    if "Spectrum" in pool:
        scale = real_spread(pool["Spectrum"])
        if scale.any():
            names = tuple(name for name, spread in zip(pool["Spectrum"].names, scale, strict=True) if spread > 0)
            metrics.append(
                SetMetric("Spectrum WD, standardised", "Spectrum", standardised_wasserstein(scale), True, names)
            )
    for kind, name in (("Inception", "FID"), ("Nodule net", "Fréchet 3D")):
        if kind in pool:
            metrics.append(SetMetric(name, kind, _as_vector(frechet_distance), tested=True))
            kernel_name = "KID" if kind == "Inception" else "KID 3D"
            metrics.append(SetMetric(kernel_name, kind, _as_vector(kernel_distance), tested=False, signed=True))
    metrics.append(SetMetric("Mean HU WD", "HU", lambda X, Y: wasserstein_per_feature(X[..., :1], Y[..., :1]), True))
    metrics.append(
        SetMetric("HU deviation WD", "HU", lambda X, Y: wasserstein_per_feature(X[..., 1:], Y[..., 1:]), False)
    )
    if "Core" in pool:
        metrics.append(SetMetric("Core deviation WD", "Core", wasserstein_per_feature, tested=True))
    if "Coverage" in pool:
        metrics.append(SetMetric("Coverage WD", "Coverage", wasserstein_per_feature, tested=True))
    if "Seam" in pool:
        metrics.append(SetMetric("Seam WD", "Seam", wasserstein_per_feature, tested=True))
    return metrics


def distance_rows(
    method: str,
    real: Features,
    synthetic: Features,
    metrics: list[SetMetric],
    repeats: int,
    permutations: int,
    seed: int,
) -> tuple[list[DistanceRow], list[str]]:
    """All distances of one method.

    Args:
        method: Its name.
        real, synthetic: The two sets.
        metrics: From `set_metrics`.
        repeats: Patient-wise splits; tests and intervals use the first 20 of them.
        permutations: Exchanges of each test.
        seed: Each metric starts anew from it, so that leaving one out changes no other.
    Returns: Rows, and a sentence for each metric or lesion left out.
    """
    rows, notes = [], []
    for metric in tqdm(metrics, f"distances of {method}", leave=False):
        if any(metric.kind not in features for features in (real, synthetic)):
            notes.append(f"{method}: {metric.name} left out, no lesion of one set could be measured")
            continue
        x, y = real[metric.kind], synthetic[metric.kind]
        if min(len(x.lesions), len(y.lesions)) < 2:
            notes.append(f"{method}: {metric.name} left out, a set has only one lesion and a distance needs two")
            continue
        sets, remarks = comparable_sets(x, y)
        notes += [f"{method}: {remark}" for remark in remarks]
        row = DistanceRow(
            method=method,
            metric=metric.name,
            shared=sets.shared,
            real_lesions=len(x.lesions),
            synthetic_lesions=len(y.lesions),
            whole=metric.value(flat(x.values), flat(y.values)),
        )
        rng = np.random.default_rng(seed)
        try:
            splits = draw_splits(sets, repeats, rng)
        except ValueError as error:
            notes.append(f"{method}: no real vs real and no test, {error}")
            rows.append(row)
            continue
        values, floors = split_distances(sets, splits, metric.measure)
        few = splits.first(TEST_SPLITS)
        interval = None if metric.signed else ratio_interval(sets, few, metric.measure)
        p_farther, p_differs = exchange_tests(sets, few, metric.measure, permutations, rng)
        row = replace(
            row,
            value=float(values.mean()),
            std=float(values.std(axis=1).mean()) if values.shape[1] > 1 else None,
            floor=floor_row(metric.name, (splits.half, splits.half), floors),
            p_farther=p_farther,
            p_differs=p_differs,
        )
        if interval is not None:
            ratio = float(values.mean() / floors.mean())
            row = replace(
                row, ratio=ratio, low=ratio * interval[1] / interval[0], high=ratio * interval[2] / interval[0]
            )
        rows.append(row)
    return rows, list(dict.fromkeys(notes))


def floor_rows(pool: Features, metrics: list[SetMetric], repeats: int, seed: int) -> list[FloorRow]:
    """Real vs real at 8, 16, 32, ... lesions a half, and at the largest half that the real lesions allow.

    Args:
        pool: Features of all real lesions.
        metrics: From `set_metrics`.
        repeats: Splits of each size.
        seed: Each size starts anew from it.
    Returns: A row for each metric and size; none with fewer than 4 patients.
    """
    rows = []
    for metric in tqdm(metrics, "real vs real", leave=False):
        reals = pool[metric.kind]
        if len(set(reals.patients)) < MIN_PATIENTS:
            continue
        half = len(reals.lesions) // 2
        for size in [s for s in (8, 16, 32, 64, 128, 256) if s < half] + [half]:
            rng = np.random.default_rng(seed)
            splits = real_floor(reals.values, reals.patients, metric.measure, (size, size), repeats, rng)
            rows.append(floor_row(metric.name, (size, size), splits))
    return rows


def floor_row(metric: str, sizes: tuple[int, int], splits: np.ndarray) -> FloorRow:
    """Summarise the distances of real vs real.

    Args:
        metric: Its name.
        sizes: Lesions in the two groups.
        splits: (splits, values of the distance).
    """
    values = splits.mean(axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    std = float(splits.std(axis=1).mean()) if splits.shape[1] > 1 else None
    return FloorRow(metric, sizes, len(splits), float(values.mean()), std, float(low), float(high))


def _as_vector(distance: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> VectorDistance:
    return lambda X, Y: distance(X, Y)[..., None]
