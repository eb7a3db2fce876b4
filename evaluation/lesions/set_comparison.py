"""Distances between a synthetic and the real set, each beside real vs real of the same size."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from evaluation.lesions.features import TEXTURE, Features, real_spread
from evaluation.statistics.distances import (
    VectorDistance,
    frechet_distance,
    kernel_distance,
    standardised_wasserstein,
    wasserstein_per_feature,
)
from evaluation.statistics.resampling import (
    MIN_PATIENTS,
    bootstrap_interval,
    flat,
    floor_sizes,
    real_floor,
    same_size_value,
)


@dataclass(frozen=True)
class SetMetric:
    """A distance between two sets of lesions.

    Attributes:
        name: As printed.
        kind: Which features it looks at.
        measure: (N, F), (M, F) -> vector; its mean is the value, its standard deviation is given when it is longer
            than one.
        tested: Whether it takes part in the tests between methods (one of each family does, to spare the adjustment).
        feature_names: Of the vector's entries, where each is worth a look of its own.
    """

    name: str
    kind: str
    measure: VectorDistance
    tested: bool
    feature_names: tuple[str, ...] = ()

    def value(self, X: np.ndarray, Y: np.ndarray) -> float:
        return float(self.measure(X, Y).mean())


@dataclass(frozen=True)
class FloorRow:
    """Real vs real: the distance between two patient-wise halves with `sizes` lesions.

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
    """One distance of one method to the real set.

    Attributes:
        value, std: Over all lesions; the standard deviation is over features, None for a single figure.
        low, high: 95 % bootstrap interval of the value.
        floor: Real vs real; None if there are too few real patients.
        same_size: The value at the floor's sizes: compare this one with the floor.
        share_above: Share of the splits at least as far apart as `same_size`; a small one tells the method from real.
    """

    method: str
    metric: str
    real_lesions: int
    synthetic_lesions: int
    value: float
    std: float | None
    low: float
    high: float
    floor: FloorRow | None = None
    same_size: float | None = None
    share_above: float | None = None


def set_metrics(pool: Features) -> list[SetMetric]:
    """The distances that these features allow; `pool` are the real lesions whose spread standardises."""
    metrics = []
    for kind in TEXTURE:
        if kind in pool:
            scale = real_spread(pool[kind])
            metrics.append(SetMetric(f"{kind} WD", kind, wasserstein_per_feature, tested=False))
            names = tuple(name for name, spread in zip(pool[kind].names, scale, strict=True) if spread > 0)
            if names:
                measure = standardised_wasserstein(scale)
                metrics.append(SetMetric(f"{kind} WD, standardised", kind, measure, True, names))
    for kind, name in (("Inception", "FID"), ("Nodule net", "Fréchet 3D")):
        if kind in pool:
            metrics.append(SetMetric(name, kind, _as_vector(frechet_distance), tested=True))
            kernel_name = "KID" if kind == "Inception" else "KID 3D"
            metrics.append(SetMetric(kernel_name, kind, _as_vector(kernel_distance), tested=False))
    metrics.append(SetMetric("Mean HU WD", "HU", lambda X, Y: wasserstein_per_feature(X[:, :1], Y[:, :1]), True))
    metrics.append(SetMetric("HU deviation WD", "HU", lambda X, Y: wasserstein_per_feature(X[:, 1:], Y[:, 1:]), False))
    if "Seam" in pool:
        metrics.append(SetMetric("Seam WD", "Seam", wasserstein_per_feature, tested=True))
    return metrics


def distance_rows(
    method: str,
    real: Features,
    synthetic: Features,
    pool: Features,
    metrics: list[SetMetric],
    repeats: int,
    seed: int,
) -> tuple[list[DistanceRow], dict[str, np.ndarray], list[str]]:
    """All distances of one method.

    Args:
        method: Its name.
        real, synthetic: The two sets.
        pool: Real lesions that floors are split from: the real set, with the training set where there is one.
        metrics: From `set_metrics`.
        repeats: Splits, bootstrap resamples.
        seed: Each metric starts anew from it, so that leaving one out changes no other.
    Returns: Rows; metric -> values of the splits, for the pictures; a sentence for each metric left out.
    """
    rows, floors, notes = [], {}, []
    for metric in tqdm(metrics, f"distances of {method}", leave=False):
        if any(metric.kind not in features for features in (real, synthetic)):
            notes.append(f"{method}: {metric.name} left out, no lesion of one set could be measured")
            continue
        x, y, reals = real[metric.kind], synthetic[metric.kind], pool[metric.kind]
        if min(len(x.lesions), len(y.lesions)) < 2:
            notes.append(f"{method}: {metric.name} left out, a set has only one lesion and a distance needs two")
            continue
        rng = np.random.default_rng(seed)
        vector = metric.measure(flat(x.values), flat(y.values))
        low, high = bootstrap_interval((x.values, x.patients), (y.values, y.patients), metric.value, repeats, rng)
        row = DistanceRow(
            method=method,
            metric=metric.name,
            real_lesions=len(x.lesions),
            synthetic_lesions=len(y.lesions),
            value=float(vector.mean()),
            std=float(vector.std()) if len(vector) > 1 else None,
            low=low,
            high=high,
        )
        patients = len(set(reals.patients))
        if patients < MIN_PATIENTS:
            notes.append(
                f"{metric.name}: no real vs real, it needs {MIN_PATIENTS} real patients and there are {patients}; "
                "give more real lesions"
            )
            rows.append(row)
            continue
        sizes = floor_sizes(len(reals.lesions), len(x.lesions), len(y.lesions))
        same_size = same_size_value(x.values, y.values, metric.value, sizes, repeats, rng)
        splits = real_floor(reals.values, reals.patients, metric.measure, sizes, repeats, rng)
        floors[metric.name] = splits.mean(axis=1)
        share = float((floors[metric.name] >= same_size).mean())
        rows.append(replace(row, floor=floor_row(metric.name, sizes, splits), same_size=same_size, share_above=share))
    return rows, floors, notes


def floor_rows(pool: Features, metrics: list[SetMetric], repeats: int, seed: int) -> list[FloorRow]:
    """Real vs real at 8, 16, 32, ... lesions a half, and at the largest half that the real lesions allow."""
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
    """Summarise `real_floor`'s (repeats, features)."""
    values = splits.mean(axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    std = float(splits.std(axis=1).mean()) if splits.shape[1] > 1 else None
    return FloorRow(metric, sizes, len(splits), float(values.mean()), std, float(low), float(high))


def _as_vector(distance: Callable[[np.ndarray, np.ndarray], float]) -> VectorDistance:
    return lambda X, Y: np.array([distance(X, Y)])
