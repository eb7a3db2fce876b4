"""How well each texture metric sees blur: blurred copies of real lesions against real lesions of other patients.

    uv run benchmarks/quality/evaluation_blur.py --real data/nodules48 --train data/nodules48

Only the lesion is blurred. A metric that is meant to see texture has to rise with the blur, and its exchange tests have
to find it; the sooner, the better. Real vs real is measured in the same patient-wise splits.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from evaluation.lesions.features import Features, measure_features, merge
from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.lesions.openings import open_test_split
from evaluation.lesions.set_comparison import DistanceRow, distance_rows, set_metrics
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.reports.lesion_report import number
from foundation.config import config_dict, launch, parse_config


@dataclass(frozen=True)
class BlurConfig:
    """What to blur.

    Attributes:
        real: Prepared dataset or folder of NIfTI pairs; its test split is blurred.
        train: The same; with its training split, features are standardised.
        sigmas_mm: Standard deviations of the Gaussian, mm.
        repeats: Patient-wise splits.
        permutations: Exchanges of each test.
        seed: Of the splits and exchanges.
        workers: Processes for texture features.
    """

    real: Path
    train: Path
    sigmas_mm: tuple[float, ...] = (0.5, 1.0, 2.0)
    repeats: int = 200
    permutations: int = 999
    seed: int = 0
    workers: int = 1


def main(config: BlurConfig) -> None:
    openings = open_test_split(config.real, "test", "evaluation_blur", config_dict(config))
    lesions, train = load_lesions(config.real, "test")[0], load_lesions(config.train, "train")[0]
    network = load_nodule_net()

    def measure(some: list[Lesion], label: str) -> Features:
        return measure_features(some, label, config.workers, nodule_net=network)[0]

    real = measure(lesions, "real")
    pool = merge(real, measure(train, "training set"))
    metrics = set_metrics(pool)
    rows = {}
    for sigma in config.sigmas_mm:
        blurred = measure([blur(lesion, sigma) for lesion in lesions], f"blur {sigma}")
        found, _ = distance_rows(
            f"blur {sigma}", real, blurred, metrics, config.repeats, config.permutations, config.seed
        )
        rows[sigma] = {row.metric: row for row in found}  # without those of which too few lesions have the figure
    first = rows[config.sigmas_mm[0]]
    if all(row.floor is None for row in first.values()):
        raise ValueError(f"{config.real}: too few test lesions for real vs real; give more")
    titles = [f"σ = {sigma:g} mm" for sigma in config.sigmas_mm]
    print(f"{len(lesions)} lesions; blurred vs real of other patients / real vs real: p (farther), p (differs)\n")
    print("| metric | real vs real | " + " | ".join(titles) + " |")
    print("|---|---:|" + "---:|" * len(titles))
    for metric in first:
        floor, found = first[metric].floor, [by_metric.get(metric) for by_metric in rows.values()]
        real_vs_real = f"{number(floor.mean)} ({floor.sizes[0]} : {floor.sizes[1]})" if floor else number(None)
        print(f"| {metric} | {real_vs_real} | " + " | ".join(map(cell, found)) + " |")
    print(f"\n{openings or 'The folder has no splits.'}")


def cell(row: DistanceRow | None) -> str:
    """Ratio to real vs real, or the value where it may be negative, with both p-values."""
    if row is None or row.value is None:
        return number(None)
    shown = f"{row.ratio:.2f} ×" if row.ratio is not None else number(row.value)
    return f"{shown}: {number(row.p_farther)}, {number(row.p_differs)}"


def blur(lesion: Lesion, sigma_mm: float) -> Lesion:
    """The lesion smoothed inside its mask, the surroundings as they are."""
    blurred = gaussian_filter(lesion.ct_hu, [sigma_mm / spacing for spacing in lesion.spacing_mm])
    return replace(lesion, ct_hu=np.where(lesion.lesion_mask, blurred, lesion.ct_hu))


if __name__ == "__main__":
    launch(main, parse_config(BlurConfig))
