"""Whether synthetic lesions are copies of training lesions, and how much seeds differ for one mask."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from evaluation.lesions.features import FeatureSet
from evaluation.lesions.lesion_sets import Lesion, lesion_cube
from imaging.window import to_norm

COPY_FACTOR = 0.5  # of the smallest distance between two patients, which a new lesion may undercut by chance
SMOOTHING_MM = 1.0  # forgives shifts below a voxel and fresh noise over a copied lesion


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training lesion.

    Attributes:
        synthetic: (N,) of each synthetic lesion; see `pairwise_distances` for the unit.
        nearest: (N,) row of that training lesion.
        test: (M,) of each real test lesion.
        threshold: Half the smallest distance between real lesions of different patients (test or train to train).
        duplicates: Rows of synthetic lesions closer than that. Suspects to look at, not a verdict; a copied texture in
            a mask of quite another shape is not found.
        p_closer: One-sided Mann-Whitney p that synthetic lesions are closer to the training set than test lesions are.
    """

    synthetic: np.ndarray
    nearest: np.ndarray
    test: np.ndarray
    threshold: float
    duplicates: np.ndarray
    p_closer: float


def foreground_rows(lesions: list[Lesion]) -> tuple[np.ndarray, np.ndarray]:
    """Each lesion as a vector, smoothed within its mask, so that two can be subtracted.

    Args:
        lesions: N, of any spacing.
    Returns: `ct_norm` + 1 in the 32 mm cube, 0 outside the mask, (N, 32³) float32; and the masks, 0 or 1, alike.
    """
    rows, masks = [], []
    for lesion in lesions:
        cube, mask = lesion_cube(lesion)
        weight = gaussian_filter(mask.astype(np.float32), SMOOTHING_MM)
        smooth = gaussian_filter(np.where(mask, cube + 1, 0), SMOOTHING_MM) / np.maximum(weight, 1e-6)
        rows.append(np.where(mask, smooth, 0).ravel())
        masks.append(mask.ravel())
    return np.stack(rows).astype(np.float32), np.stack(masks).astype(np.float32)


def pairwise_distances(first: list[Lesion], second: list[Lesion]) -> np.ndarray:
    """Root mean square difference over the union of two lesions' masks, centroids aligned.

    Outside its own mask a lesion counts as air (-1), so a different shape is a difference too.

    Args:
        first, second: N and M lesions.
    Returns: (N, M), `ct_norm` units.
    """
    (a, mask_a), (b, mask_b) = foreground_rows(first), foreground_rows(second)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    union = mask_a.sum(1)[:, None] + mask_b.sum(1)[None] - mask_a @ mask_b.T
    return np.sqrt(np.maximum(squares, 0) / union)


def check_memorisation(synthetic: list[Lesion], train: list[Lesion], test: list[Lesion]) -> Memorisation:
    """Compare the synthetic lesions' nearest training lesions with what is usual between different patients.

    Args:
        synthetic: Lesions to check.
        train: What the model was trained on.
        test: Real lesions it has not seen, of other patients.
    Raises: ValueError: If a test patient is in the training set, for then its distances say nothing.
    """
    shared = {lesion.patient_id for lesion in train} & {lesion.patient_id for lesion in test}
    if shared:
        raise ValueError(f"patients {sorted(shared)[:3]} are in both real and train; give disjoint splits")
    to_train = pairwise_distances(synthetic, train)
    test_to_train = pairwise_distances(test, train).min(1)
    within = pairwise_distances(train, train)
    patients = np.array([lesion.patient_id for lesion in train])
    within[patients[:, None] == patients[None]] = np.inf
    threshold = COPY_FACTOR * min(test_to_train.min(), within.min())
    closest = to_train.min(1)
    return Memorisation(
        synthetic=closest,
        nearest=to_train.argmin(1),
        test=test_to_train,
        threshold=float(threshold),
        duplicates=np.flatnonzero(closest < threshold),
        p_closer=float(mannwhitneyu(closest, test_to_train, alternative="less").pvalue),
    )


def seed_spread(lesions: list[Lesion]) -> dict[str, float]:
    """How much the seed decides: the voxels' standard deviation over a mask's samples, averaged over the mask.

    Args:
        lesions: Those of masks with several `_seed<k>` samples count.
    Returns: mask name -> spread in `ct_norm` units; 0 says that the seed has no influence. Empty without seeds.
    """
    spread = {}
    for name, rows in _seed_groups(lesions).items():
        group = [lesions[row] for row in rows]
        if all(np.array_equal(lesion.lesion_mask, group[0].lesion_mask) for lesion in group):
            values = np.stack([to_norm(lesion.ct_hu)[lesion.lesion_mask] for lesion in group])
            spread[name] = float(values.std(axis=0, ddof=1, dtype=np.float64).mean())
    return spread


def feature_variety(synthetic: FeatureSet, real: FeatureSet) -> tuple[float | None, float | None]:
    """Mean distance between synthetic lesions of different masks, and between seeds of one mask, over the real one's.

    Distances are Euclidean in a feature space, averaged over pairs; the unit is the same mean between real lesions.

    Args:
        synthetic, real: One row of features a lesion.
    Returns: (different masks, seeds of one mask): about 1 and above 0 for a model without mode collapse; None where
        there are no two such lesions.
    """
    unit = _mean_distance(real.values[:, 0], [lesion.mask_name for lesion in real.lesions], same=False)
    if not unit:
        return None, None
    masks = [lesion.mask_name for lesion in synthetic.lesions]
    between = _mean_distance(synthetic.values[:, 0], masks, same=False)
    within = _mean_distance(synthetic.values[:, 0], masks, same=True)
    return (None if between is None else between / unit), (None if within is None else within / unit)


def _mean_distance(values: np.ndarray, masks: list[str], same: bool) -> float | None:
    first, second = np.triu_indices(len(values), 1)
    names = np.array(masks)
    chosen = (names[first] == names[second]) == same
    if not chosen.any():
        return None
    return float(np.linalg.norm(values[first[chosen]] - values[second[chosen]], axis=1).mean())


def _seed_groups(lesions: list[Lesion]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for row, lesion in enumerate(lesions):
        groups[lesion.mask_name].append(row)
    return {name: rows for name, rows in sorted(groups.items()) if len(rows) > 1}
