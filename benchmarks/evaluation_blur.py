"""How well each texture metric sees blur: real lesions against blurred copies of themselves, beside real vs real.

    python benchmarks/evaluation_blur.py --real data/nodules48 --train data/nodules48

Only the lesion is blurred. A metric that is meant to see texture has to rise with the blur, and to leave the range of
real vs real (95 % of patient-wise splits of the same size) at some blur; the sooner, the better.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from evaluation.lesions.features import Features, measure_features, merge
from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.lesions.set_comparison import distance_rows, set_metrics
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.reports.lesion_report import number
from foundation.config import launch


@dataclass(frozen=True)
class BlurConfig:
    """What to blur.

    Attributes:
        real: Prepared dataset or folder of NIfTI pairs; its test split is blurred.
        train: The same; its training split joins the real vs real pool.
        sigmas_mm: Standard deviations of the Gaussian, mm.
        repeats: Splits of real vs real.
        seed: Of the splits.
        workers: Processes for texture features.
    """

    real: Path
    train: Path
    sigmas_mm: tuple[float, ...] = (0.5, 1.0, 2.0)
    repeats: int = 100
    seed: int = 0
    workers: int = 1


def main(config: BlurConfig) -> None:
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
        rows[sigma] = distance_rows(f"blur {sigma}", real, blurred, pool, metrics, config.repeats, config.seed)[0]
    titles = [f"σ = {sigma:g} mm" for sigma in config.sigmas_mm]
    print(f"{len(lesions)} lesions; real vs real of the same size: mean [95 % of splits]\n")
    print("| metric | real vs real | " + " | ".join(titles) + " | rises |")
    print("|---|---:|" + "---:|" * (len(titles) + 1))
    for index, metric in enumerate(metrics):
        found = [rows[sigma][index] for sigma in config.sigmas_mm]
        floor = found[0].floor
        if floor is None:
            continue
        marked = [number(row.value) + (" *" if row.value > floor.high else "") for row in found]
        rises = "yes" if np.all(np.diff([row.value for row in found]) > 0) else "no"
        cells = [f"{number(floor.mean)} [{number(floor.low)} … {number(floor.high)}]", *marked, rises]
        print(f"| {metric.name} | " + " | ".join(cells) + " |")
    print("\n* beyond 97.5 % of the real vs real splits")


def blur(lesion: Lesion, sigma_mm: float) -> Lesion:
    """The lesion smoothed inside its mask, the surroundings as they are."""
    blurred = gaussian_filter(lesion.ct_hu, [sigma_mm / spacing for spacing in lesion.spacing_mm])
    return replace(lesion, ct_hu=np.where(lesion.lesion_mask, blurred, lesion.ct_hu))


if __name__ == "__main__":
    launch(main, BlurConfig)
