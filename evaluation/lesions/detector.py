"""The detector: a classifier two-sample test that asks how well made lesions are told from real ones.

A classifier is trained to tell the two sets apart, and its AUROC is taken on patients that it has not seen (Lopez-Paz &
Oquab 2017). 0.5 is a perfect generator: nothing distinguishes its lesions. Every mask is in both sets, once each, so
that shape, size and patient say nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from joblib import Parallel, delayed
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from evaluation.lesions.detector_figures import FIGURES, detector_figures
from evaluation.lesions.lesion_sets import Lesion
from evaluation.statistics.agreement import auroc, patient_interval

LEAST = 10  # lesions of each kind
FOLDS, REPEATS = 5, 5  # folds of patients; repetitions with other folds, whose scores are averaged
RESAMPLES = 1000
SIZES = (("below 8 mm", 0.0, 8.0), ("8 to 14 mm", 8.0, 14.0), ("from 14 mm", 14.0, np.inf))  # diameters
TELLTALES = 5


@dataclass(frozen=True)
class Detection:
    """How well a detector tells one set from the real one.

    Attributes:
        label: Of the set.
        pairs: Masks that are in both sets.
        patients: Of these masks.
        auroc, low, high: Of scores on patients not seen in training, with a 95 % interval over patients; None if they
            are too few.
        by_diameter: (text, pairs, AUROC) for small, middle and large masks.
        telltales: (figure, AUROC of this figure alone), the most telling first; above 0.5 it is larger in made lesions.
        network: (AUROC, low, high) of the small 3D network; None if it was not trained.
    """

    label: str
    pairs: int
    patients: int
    auroc: float
    low: float | None
    high: float | None
    by_diameter: list[tuple[str, int, float]]
    telltales: list[tuple[str, float]]
    network: tuple[float, float | None, float | None] | None = None


def paired_by_mask(real: Sequence[Lesion], made: Sequence[Lesion]) -> tuple[list[Lesion], list[Lesion]]:
    """The first made lesion of each mask that the real set has, and the real lesions in the same order.

    Args:
        real, made: Any order; `<mask>_seed<k>` names samples of one mask.
    """
    first: dict[str, Lesion] = {}
    for lesion in made:
        first.setdefault(lesion.mask_name, lesion)
    kept = [lesion for lesion in real if lesion.mask_name in first]
    return kept, [first[lesion.mask_name] for lesion in kept]


def measure_figures(lesions: Sequence[Lesion], workers: int = 1) -> np.ndarray:
    """`FIGURES` of each lesion, (N, F)."""
    rows = Parallel(n_jobs=workers)(delayed(detector_figures)(lesion) for lesion in lesions)
    return np.stack(list(rows))


def detect(
    label: str,
    real: Sequence[Lesion],
    made: Sequence[Lesion],
    seed: int = 0,
    workers: int = 1,
    network: bool = False,
) -> Detection:
    """Tell made lesions from real ones by interpretable figures and gradient boosting.

    Args:
        label: Of the made set.
        real, made: N lesions each, made[i] in the mask of real[i]; see :func:`paired_by_mask`.
        seed: Of the folds, the classifier and the resamples.
        workers: Processes that measure.
        network: Whether a small 3D network is trained as well, which takes a minute for a hundred pairs.
    Raises: ValueError: If there are fewer than ten pairs or five patients.
    """
    figures = np.concatenate([measure_figures(real, workers), measure_figures(made, workers)])
    made_rows = np.arange(2 * len(real)) >= len(real)
    scores = held_out_scores(figures, made_rows, patients_of(real), seed)
    found = detection_of(label, real, figures, scores, seed)
    if not network:
        return found
    from evaluation.networks.detector_net import network_scores

    seen = detection_of(label, real, None, network_scores(real, made, seed), seed)
    return replace(found, network=(seen.auroc, seen.low, seen.high))


def real_against_real(
    real: Sequence[Lesion], seed: int = 0, workers: int = 1, halves: int = 20
) -> tuple[float, float, float]:
    """What the detector finds where there is nothing to find: half of the patients are called made, drawn anew.

    Args:
        real: N lesions.
        seed, workers: As :func:`detect`.
        halves: How often it is drawn.
    Returns: Mean AUROC and the 2.5 and 97.5 % of the halves. Half as many lesions of each kind as in
        :func:`detect`, and not in the same masks.
    Raises: ValueError: If there are fewer than twenty lesions or ten patients.
    """
    figures = measure_figures(real, workers)
    patients = [lesion.patient_id for lesion in real]
    random = np.random.default_rng(seed)
    found = []
    for half in range(halves):
        names = random.permutation(np.unique(patients))
        called_made = np.isin(patients, names[: len(names) // 2])
        found.append(auroc(held_out_scores(figures, called_made, patients, seed + half), called_made))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(np.mean(found)), float(low), float(high)


def are_enough(real: Sequence[Lesion]) -> bool:
    """Whether :func:`detect` can be trained on pairs in the masks of these lesions."""
    return len(real) >= LEAST and len({lesion.patient_id for lesion in real}) >= FOLDS


def patients_of(real: Sequence[Lesion]) -> list[str]:
    """The patient of each row, real lesions before made ones in the same masks."""
    return 2 * [lesion.patient_id for lesion in real]


def held_out_scores(figures: np.ndarray, made: np.ndarray, patients: Sequence[str], seed: int) -> np.ndarray:
    """Probability of "made" for each row by classifiers that were trained without its patient, (N,).

    Args:
        figures: (N, F); NaN where a figure is not defined.
        made: (N,) bool.
        patients: (N,).
        seed: Of folds and classifiers.
    Raises: ValueError: If there are fewer than ten lesions of a kind or five patients.
    """
    groups = np.unique(patients, return_inverse=True)[1]
    fewest = int(min(made.sum(), (~made).sum()))
    if fewest < LEAST or groups.max() + 1 < FOLDS:
        raise ValueError(
            f"{fewest} lesions of {groups.max() + 1} patients, expected at least {LEAST} of each kind and {FOLDS} "
            "patients"
        )
    scores = np.zeros(len(figures))
    for repeat in range(REPEATS):
        order = np.random.default_rng((seed, repeat)).permutation(groups.max() + 1)
        for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed + repeat).split(
            figures, made, order[groups]
        ):
            model = HistGradientBoostingClassifier(
                max_iter=60, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=5, random_state=seed
            )
            known = ~np.isnan(figures[train]).all(axis=0)  # no small lesion has a core, for example
            model.fit(figures[train][:, known], made[train])
            scores[test] += model.predict_proba(figures[test][:, known])[:, 1] / REPEATS
    return scores


def detection_of(
    label: str, real: Sequence[Lesion], figures: np.ndarray | None, scores: np.ndarray, seed: int
) -> Detection:
    """The AUROC of held-out scores, with its interval, by diameter, and what gave the made lesions away.

    Args:
        label: Of the made set.
        real: N lesions, whose masks both sets have.
        figures: (2 N, F) as in :func:`held_out_scores`; None for a detector without figures.
        scores: (2 N,), higher for made.
        seed: Of the resamples.
    """
    patients, count = patients_of(real), len(real)
    made = np.arange(2 * count) >= count
    interval = patient_interval(
        lambda rows: auroc(scores[rows], made[rows]), patients, RESAMPLES, np.random.default_rng(seed)
    )
    low, high = interval or (None, None)
    diameters = 2 * np.array([_diameter_mm(lesion) for lesion in real]).tolist()
    by_diameter = []
    for text, smallest, largest in SIZES:
        rows = np.array([smallest <= d < largest for d in diameters])
        if rows.any():
            by_diameter.append((text, int(rows.sum() // 2), auroc(scores[rows], made[rows])))
    telltales = [] if figures is None else _telltales(figures, made)
    return Detection(label, count, len(set(patients)), auroc(scores, made), low, high, by_diameter, telltales)


def _telltales(figures: np.ndarray, made: np.ndarray) -> list[tuple[str, float]]:
    alone = []
    for name, values in zip(FIGURES, figures.T, strict=True):
        known = ~np.isnan(values)
        if len(set(made[known].tolist())) == 2:
            alone.append((name, auroc(values[known], made[known])))
    return sorted(alone, key=lambda one: -abs(one[1] - 0.5))[:TELLTALES]


def _diameter_mm(lesion: Lesion) -> float:
    """Of the sphere that has the mask's volume."""
    return float((6 / np.pi * lesion.lesion_mask.sum() * np.prod(lesion.spacing_mm)) ** (1 / 3))
