"""The figures of many crops as one table of rows, and their means by lesion diameter."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.autoencoders.power_spectrum import power_ratio, shell_edges_per_mm
from evaluation.autoencoders.reconstruction import CropRegions, Spacing
from evaluation.statistics.resampling import mean_interval

DIAMETERS = {"< 3 mm": 3.0, "3-6 mm": 6.0, "6-10 mm": 10.0, "10-20 mm": 20.0, "> 20 mm": np.inf}  # up to, mm
ALL = "all"
NO_POWER = 1e-6  # a power ratio below it counts as this one in a geometric mean


@dataclass(frozen=True)
class CropRow:
    """One version of one crop.

    Attributes:
        version: "unchanged", "autoencoder NAME" or "blur of the same PSNR as NAME".
        nodule_id, patient_id, diameter_mm: Of the lesion.
        figures: From `evaluation.autoencoders.reconstruction.reconstruction_figures`, with `sigma_mm` for a blur.
        curves: "crop" and "noise" -> power ratio in the shells of `power_spectrum`, where measured.
    """

    version: str
    nodule_id: str
    patient_id: str
    diameter_mm: float
    figures: dict[str, float]
    curves: dict[str, list[float]]


@dataclass(frozen=True)
class SummaryRow:
    """Mean of one figure over the crops of a diameter group, with its 95 % interval; None stands for infinite."""

    version: str
    group: str
    figure: str
    crops: int
    mean: float | None
    low: float | None
    high: float | None


def diameter_group(diameter_mm: float) -> str:
    """The group of a lesion.

    Args:
        diameter_mm: Of the lesion.
    Returns: Its name in `DIAMETERS`; a border belongs to the smaller group, but 3 mm to 3-6.
    """
    if diameter_mm < DIAMETERS["< 3 mm"]:
        return "< 3 mm"
    return next(name for name, most in DIAMETERS.items() if diameter_mm <= most and name != "< 3 mm")


def ratio_curves(
    reconstruction_norm: np.ndarray, original_norm: np.ndarray, regions: CropRegions, spacing_mm: Spacing
) -> dict[str, list[float]]:
    """Power ratio in each shell of `power_spectrum`.

    Args:
        reconstruction_norm, original_norm: ct_norm, (D, H, W).
        regions: Whose boxes are looked at.
        spacing_mm: (z, y, x).
    Returns: "crop" and "noise", where there is such a box -> SHELLS ratios, no unit.
    """
    edges = shell_edges_per_mm(spacing_mm)
    return {
        name: power_ratio(reconstruction_norm[box], original_norm[box], spacing_mm, edges).tolist()
        for name, box in regions.boxes.items()
    }


def mean_curves(rows: Iterable[CropRow], place: str) -> dict[str, np.ndarray]:
    """Geometric mean over crops of the power ratio in each shell.

    Args:
        rows: Of any versions and crops.
        place: "crop" or "noise"; rows without it do not count.
    Returns: Version -> (SHELLS,), no unit.
    """
    curves: dict[str, list[list[float]]] = {}
    for row in rows:
        if place in row.curves:
            curves.setdefault(row.version, []).append(row.curves[place])
    return {version: np.exp(np.log(np.maximum(r, NO_POWER)).mean(axis=0)) for version, r in curves.items()}


def summarise(rows: Sequence[CropRow], repeats: int, seed: int) -> list[SummaryRow]:
    """Mean of every figure of every version, over all crops and by diameter.

    Power ratios are averaged geometrically: two noises of equal strength have ratios of r and 1 / r equally often, and
    an arithmetic mean of few frequencies would exceed 1.

    Args:
        rows: Of all versions and crops.
        repeats: Bootstrap resamples; patients are drawn, since lesions of one patient resemble each other.
        seed: Each mean starts anew from it, so that versions of the same crops are resampled alike.
    Returns: In the order of versions, groups (`ALL` first, those without crops missing) and figures.
    """
    summary = []
    for version in dict.fromkeys(row.version for row in rows):
        for group in (ALL, *DIAMETERS):
            chosen = [r for r in rows if r.version == version and group in (ALL, diameter_group(r.diameter_mm))]
            for figure in dict.fromkeys(name for row in chosen for name in row.figures):
                measured = [row for row in chosen if figure in row.figures]
                values = np.array([row.figures[figure] for row in measured])
                mean = low = high = None
                if np.isfinite(values).all():
                    patients, rng = [row.patient_id for row in measured], np.random.default_rng(seed)
                    if "power_ratio" in figure:
                        logs = np.log(np.maximum(values, NO_POWER))
                        mean, low, high = (
                            math.exp(v) for v in (logs.mean(), *mean_interval(logs, patients, repeats, rng))
                        )
                    else:
                        mean, (low, high) = float(values.mean()), mean_interval(values, patients, repeats, rng)
                summary.append(SummaryRow(version, group, figure, len(measured), mean, low, high))
    return summary
