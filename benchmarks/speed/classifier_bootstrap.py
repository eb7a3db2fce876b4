"""CPU seconds of the bootstrap in the classifiers' report: all resamples at once, and each by itself.

    uv run benchmarks/speed/classifier_bootstrap.py

scripts/train_classifier.py resamples the held-out nodules to give every figure an interval. `all at once` computes the
resamples from how often each row was drawn (`evaluation.statistics.resampled`). `each by itself` computes the AUROC,
plain and at equal size, on the rows of each resample (SciPy's ranks, `evaluation.statistics.agreement`); a few are
measured and multiplied. Both give the same figures, which is checked.
"""

import time
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from tqdm.auto import tqdm

from evaluation.statistics import agreement, resampled
from evaluation.statistics.attribute_figures import EQUAL_SIZE, RESAMPLES_AT_ONCE
from foundation.config import launch, parse_config


@dataclass(frozen=True)
class BootstrapConfig:
    """What to measure.

    Attributes:
        nodules: Numbers of held-out nodules.
        levels: Noise levels of the report.
        versions: Draws of the noise.
        resamples: Of the bootstrap.
        by_itself: Of these, how many are computed by themselves.
    """

    nodules: tuple[int, ...] = (300, 1500)
    levels: int = 6
    versions: int = 4
    resamples: int = 1000
    by_itself: int = 3


def all_at_once(scores: np.ndarray, truth: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC and AUROC at equal size, (2, R, levels, versions)."""
    parts = [counts[first : first + RESAMPLES_AT_ONCE] for first in range(0, len(counts), RESAMPLES_AT_ONCE)]
    plain = [resampled.auroc(scores, truth, part) for part in parts]
    matched = [resampled.matched_auroc(scores, truth, sizes, EQUAL_SIZE, part) for part in parts]
    return np.stack([np.concatenate(plain), np.concatenate(matched)])


def one_by_itself(scores: np.ndarray, truth: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The same of one resample's rows, (2, levels, versions)."""
    made, positive = np.empty((2, *scores.shape[:-1])), truth > 0.5
    m, n = positive.sum(), (~positive).sum()
    made[0] = (rankdata(scores, axis=-1)[..., positive].sum(-1) - m * (m + 1) / 2) / (m * n)
    for index in np.ndindex(scores.shape[:-1]):
        made[1][index] = agreement.matched_auroc(scores[index], positive, sizes, EQUAL_SIZE)
    return made


def main(config: BootstrapConfig) -> None:
    """Print the table."""
    print(f"{config.levels} noise levels, {config.versions} draws of the noise, {config.resamples} resamples\n")
    print("| nodules | each by itself, s | all at once, s | ratio |\n|---|---|---|---|")
    for size in tqdm(config.nodules, leave=False):
        rng = np.random.default_rng(0)
        truth, sizes = rng.integers(0, 2, size).astype(float), rng.normal(6, 1.5, size)
        scores = np.round(truth + rng.normal(0, 2, (config.levels, config.versions, size)), 2)
        rows = rng.integers(0, size, (config.resamples, size))
        counts = np.array([np.bincount(row, minlength=size) for row in rows], float)

        began = time.process_time()
        figures = all_at_once(scores, truth, sizes, counts)
        together = time.process_time() - began
        began = time.process_time()
        alone = [one_by_itself(scores[..., row], truth[row], sizes[row]) for row in rows[: config.by_itself]]
        apart = (time.process_time() - began) * config.resamples / config.by_itself
        np.testing.assert_allclose(figures[:, : config.by_itself], np.stack(alone, axis=1), rtol=1e-9)
        print(f"| {size} | {apart:.0f} | {together:.1f} | {apart / together:.0f} |")


if __name__ == "__main__":
    launch(main, parse_config(BootstrapConfig))
