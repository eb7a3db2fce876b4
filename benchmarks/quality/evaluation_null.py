"""Does the comparison of sets accept a perfect generator and find a poor one? A simulation, beside the old comparison.

    uv run benchmarks/quality/evaluation_null.py --real data/nodules48

A lesion's features are drawn as an effect of its mask and patient, shared by the real and the synthetic lesion, and a
texture of its own; both normal, each feature of unit variance, features correlated. The old comparison (the whole sets
of shared patients, beside real vs real of different patients) is repeated on the same draws. With `--real` the share
of the mask's effect is estimated from real lesions, too: how much of each feature's variance a random forest predicts,
in tenfold cross-validation, from the mask's size and shape and the HU around it. That is a lower limit of what mask
and background decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy.ndimage import binary_dilation
from scipy.stats import kstest
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold, cross_val_predict
from tqdm import tqdm

from evaluation.lesions.features import TEXTURE, measure_features
from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.statistics.distances import wasserstein_per_feature
from evaluation.statistics.exchange import (
    TEST_SPLITS,
    LesionSets,
    draw_splits,
    exchange_tests,
    ratio_interval,
    split_distances,
)
from evaluation.statistics.resampling import real_floor
from foundation.config import launch, parse_config

FEATURES = 8
CORRELATION = 0.55  # root mean square between two texture features of 97 real lesions: 0.50 to 0.63 by family
OLD_POOL = 5  # real lesions per test lesion in the old pool: 23 test and 97 training lesions
OLD_SPLITS = 200
LEVEL = 0.05


@dataclass(frozen=True)
class Generator:
    """How synthetic lesions differ from real ones, in standard deviations of the real ones."""

    bias: float = 0.0
    spread: float = 1.0
    own_texture: float = 1.0


GENERATORS = {
    "perfect": Generator(),
    "bias of 0.3 sd": Generator(bias=0.3),
    "bias of 0.5 sd": Generator(bias=0.5),
    "variance 20 % too small": Generator(spread=float(np.sqrt(0.8))),
    "standard deviation 20 % too small": Generator(spread=0.8),
    "collapse: each mask's mean": Generator(own_texture=0.0),
    "collapse: the mean of all": Generator(spread=0.0),
}


@dataclass(frozen=True)
class Outcome:
    """Of one trial: the ratio, whether its interval holds 1 (of the perfect generator, else None), both p-values; the
    old ratio, and whether the old comparison passed."""

    ratio: float
    holds_1: bool | None
    p_farther: float
    p_differs: float
    old_ratio: float
    old_passes: bool


@dataclass(frozen=True)
class NullConfig:
    """What to simulate.

    Attributes:
        real: Prepared dataset or folder of NIfTI pairs whose training split gives the estimate; none without it.
        lesions: Sizes of the test set, one lesion for each patient.
        mask_shares: Share of a feature's variance that mask and patient decide.
        trials: Sets drawn for each generator.
        null_trials: The same for the perfect one.
        permutations: Exchanges of each test.
        seed: Of all draws.
        workers: Processes.
    """

    real: Path | None = None
    lesions: tuple[int, ...] = (23, 95)
    mask_shares: tuple[float, ...] = (0.35, 0.8)
    trials: int = 200
    null_trials: int = 600
    permutations: int = 99
    seed: int = 0
    workers: int = 1


def main(config: NullConfig) -> None:
    if config.real is not None:
        print_mask_shares(load_lesions(config.real, "train")[0], config.workers)
    for share in config.mask_shares:
        print(f"Mask and patient decide {100 * share:.0f} % of the variance:\n")
        header = "| generator | lesions | ratio | p (farther) ≤ 0.05 | p (differs) ≤ 0.05 | old ratio | old: passes |"
        print(header + "\n|---|---:|---:|---:|---:|---:|---:|")
        checks = []
        for lesions in config.lesions:
            for name, generator in GENERATORS.items():
                trials = config.null_trials if name == "perfect" else config.trials
                seeds = np.random.SeedSequence([config.seed, lesions, round(1000 * share)]).generate_state(trials)
                jobs = (delayed(trial)(int(s), lesions, share, generator, config.permutations) for s in seeds)
                outcomes = list(tqdm(Parallel(config.workers, return_as="generator")(jobs), name, trials, leave=False))
                print(table_row(name, lesions, outcomes), flush=True)
                if name == "perfect":
                    checks.append(null_sentence(lesions, outcomes, config.permutations))
        print("\n" + "\n".join(checks) + "\n")


def draw_lesions(
    rng: np.random.Generator, lesions: int, mask_share: float, generator: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Features of real lesions and of one synthetic lesion in each of their masks, both (lesions, FEATURES)."""

    def effect() -> np.ndarray:
        common, unique = rng.standard_normal((lesions, 1)), rng.standard_normal((lesions, FEATURES))
        return np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * unique

    of_mask, own, made = effect(), effect(), effect()
    real = np.sqrt(mask_share) * of_mask + np.sqrt(1 - mask_share) * own
    texture = generator.own_texture * np.sqrt(1 - mask_share) * made
    return real, generator.bias + generator.spread * (np.sqrt(mask_share) * of_mask + texture)


def trial(seed: int, lesions: int, mask_share: float, generator: Generator, permutations: int) -> Outcome:
    """One test set and its synthetic set, judged by the present and by the old comparison."""
    rng = np.random.default_rng(seed)
    real, made = draw_lesions(rng, lesions, mask_share, generator)
    patients = [f"p{n:04d}" for n in range(lesions)]
    sets = LesionSets(real[:, None], made[:, None, None], patients, patients, shared=True)
    splits = draw_splits(sets, TEST_SPLITS, rng)
    values, floors = split_distances(sets, splits, wasserstein_per_feature)
    interval = ratio_interval(sets, splits, wasserstein_per_feature) if generator == Generator() else None
    holds_1 = None if interval is None else interval[1] <= 1 <= interval[2]
    p_farther, p_differs = exchange_tests(sets, splits, wasserstein_per_feature, permutations, rng)

    others, _ = draw_lesions(rng, (OLD_POOL - 1) * lesions, mask_share, Generator())
    pool = np.concatenate([real, others])[:, None]
    names = [f"p{n:04d}" for n in range(len(pool))]
    floor = real_floor(pool, names, wasserstein_per_feature, (lesions, lesions), OLD_SPLITS, rng).mean(axis=1)
    whole = wasserstein_per_feature(real, made).mean()
    passes = bool((floor >= whole).mean() >= LEVEL)
    ratio, old_ratio = float(values.mean() / floors.mean()), float(whole / floor.mean())
    return Outcome(ratio, holds_1, float(p_farther or 0.0), p_differs, old_ratio, passes)


def table_row(name: str, lesions: int, outcomes: Sequence[Outcome]) -> str:
    ratio, margin = mean_and_margin([one.ratio for one in outcomes])
    farther, differs = ([getattr(one, p) <= LEVEL for one in outcomes] for p in ("p_farther", "p_differs"))
    old, passes = np.mean([one.old_ratio for one in outcomes]), np.mean([one.old_passes for one in outcomes])
    cells = [f"{ratio:.3f} ± {margin:.3f}", percent(farther), percent(differs), f"{old:.2f}", f"{100 * passes:.0f} %"]
    return f"| {name} | {lesions} | " + " | ".join(cells) + " |"


def null_sentence(lesions: int, outcomes: Sequence[Outcome], permutations: int) -> str:
    """Whether p-values are uniform and intervals hold 1 under the null hypothesis."""
    uniform = [
        kstest(np.array([getattr(one, name) for one in outcomes]) - 0.5 / (permutations + 1), "uniform").pvalue
        for name in ("p_farther", "p_differs")
    ]
    covered = [bool(one.holds_1) for one in outcomes]
    return (
        f"- Perfect generator, {lesions} lesions, {len(outcomes)} trials: p-values against the uniform distribution, "
        f"Kolmogorov-Smirnov p = {uniform[0]:.2g} (farther) and {uniform[1]:.2g} (differs); the ratio's 95 % interval "
        f"holds 1 in {percent(covered)}."
    )


def mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and 1.96 standard errors of it."""
    return float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))


def percent(events: Sequence[bool]) -> str:
    share, margin = mean_and_margin([float(event) for event in events])
    return f"{100 * share:.1f} ± {100 * margin:.1f} %"


def print_mask_shares(lesions: list[Lesion], workers: int) -> None:
    """The share of variance that mask and background predict, and how features correlate, for each family."""
    features, _ = measure_features(lesions, "real", workers, nodule_net=load_nodule_net())
    print(f"Estimated from {len(lesions)} real training lesions:\n")
    print("| features | variance predicted from mask and background | correlation of two features, root mean square |")
    print("|---|---:|---:|")
    for kind in (*(kind for kind in TEXTURE if kind in features), "Nodule net"):
        values = features[kind].values[:, 0]
        values = (values - values.mean(axis=0))[:, values.std(axis=0) > 1e-9 * np.abs(values).max(axis=0)]
        values /= values.std(axis=0)
        surroundings = np.array([describe_mask(lesion) for lesion in features[kind].lesions])
        forest = RandomForestRegressor(200, min_samples_leaf=3, random_state=0, n_jobs=workers)
        predicted = cross_val_predict(forest, surroundings, values, cv=KFold(10, shuffle=True, random_state=0))
        off_diagonal = np.corrcoef(values.T)[~np.eye(values.shape[1], dtype=bool)]
        share, correlation = 1 - ((values - predicted) ** 2).mean(), np.sqrt((off_diagonal**2).mean())
        print(f"| {kind} | {100 * share:.0f} % | {correlation:.2f} |")
    print()


def describe_mask(lesion: Lesion) -> list[float]:
    """Logarithms of volume, axes and surface, and mean and deviation of HU two to four voxels outside."""
    mask = lesion.lesion_mask
    axes = np.sort(np.linalg.eigvalsh(np.cov(np.argwhere(mask).T)))
    around = binary_dilation(mask, iterations=4) & ~binary_dilation(mask) & lesion.valid_mask
    surface = (binary_dilation(mask) & ~mask).sum()
    ct_hu = lesion.ct_hu[around]
    return [float(v) for v in (np.log(mask.sum()), *np.log(axes + 0.1), np.log(surface), ct_hu.mean(), ct_hu.std())]


if __name__ == "__main__":
    launch(main, parse_config(NullConfig))
