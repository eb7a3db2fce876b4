"""Whether synthetic lesions are copies of training lesions, and how much seeds differ for one mask."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from evaluation.lesions.features import FeatureSet
from evaluation.lesions.lesion_sets import Lesion, lesion_cube
from imaging.window import to_norm

COPY_FACTOR = 0.5  # of the smallest distance between two patients, which a new lesion may undercut by chance
BLOCK = 256  # lesions whose cubes are in memory at a time
PAIRS, BLOCK_PAIRS = 2**20, 2**16  # of lesions in a mean distance: its error is then below 0.1 %
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
    return np.concatenate([rows for _, rows in _distance_blocks(first, second)])


def _distance_blocks(first: list[Lesion], second: list[Lesion]) -> Iterator[tuple[slice, np.ndarray]]:
    """The distances of some of the first lesions to all of the second, (n, M), with their slice of the first.

    Of `first` a block is in memory, of `second` all the voxels that lie in a mask.
    """
    columns = [
        (sparse.csr_array(rows), sparse.csr_array(masks), (rows**2).sum(1), masks.sum(1))
        for rows, masks in (_foreground64(second[start : start + BLOCK]) for start in range(0, len(second), BLOCK))
    ]
    for start in tqdm(range(0, len(first), BLOCK), "nearest lesions", leave=False, disable=len(first) <= BLOCK):
        rows, masks = (np.ascontiguousarray(one.T) for one in _foreground64(first[start : start + BLOCK]))
        square, size = (rows**2).sum(0)[:, None], masks.sum(0)[:, None]
        parts = []
        for b, mask_b, square_b, size_b in columns:
            squares, union = square + square_b - 2 * (b @ rows).T, size + size_b - (mask_b @ masks).T
            parts.append(np.sqrt(np.maximum(squares, 0) / union))
        yield slice(start, start + len(size)), np.concatenate(parts, axis=1)


def _foreground64(lesions: list[Lesion]) -> list[np.ndarray]:
    """`foreground_rows` in float64: the differences of equal lesions' squares are then 0 to the ninth digit."""
    return [rows.astype(np.float64) for rows in foreground_rows(lesions)]


def _nearest(first: list[Lesion], second: list[Lesion], not_of_patient: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest of the second lesions and its row, (N,) each; if wanted, of those of other patients."""
    patients = np.array([lesion.patient_id for lesion in second])
    distance, row = np.empty(len(first)), np.empty(len(first), int)
    for block, distances in _distance_blocks(first, second):
        if not_of_patient:
            own = np.array([lesion.patient_id for lesion in first[block]])
            distances[own[:, None] == patients[None]] = np.inf
        distance[block], row[block] = distances.min(1), distances.argmin(1)
    return distance, row


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
    closest, nearest = _nearest(synthetic, train)
    test_to_train, _ = _nearest(test, train)
    within, _ = _nearest(train, train, not_of_patient=True)
    threshold = COPY_FACTOR * min(test_to_train.min(), within.min())
    return Memorisation(
        synthetic=closest,
        nearest=nearest,
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
    """Mean over the pairs of rows of the same mask, or of different ones; over `PAIRS` of them where there are more."""
    ids = np.unique(np.array(masks), return_inverse=True)[1]
    if same:
        groups = (np.flatnonzero(ids == mask) for mask in np.flatnonzero(np.bincount(ids) > 1))
        pairs = [group[np.stack(np.triu_indices(len(group), 1))] for group in groups]
        first, second = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), int)
    elif len(ids) * (len(ids) - 1) // 2 <= PAIRS:
        first, second = np.triu_indices(len(ids), 1)
    else:
        first, second = np.random.default_rng(0).integers(len(ids), size=(2, PAIRS))
    chosen = (first != second) & ((ids[first] == ids[second]) == same)
    if not chosen.any():
        return None
    pairs_at_a_time = np.array_split(np.stack([first[chosen], second[chosen]]), -(-chosen.sum() // BLOCK_PAIRS), axis=1)
    sums = [np.linalg.norm(values[a] - values[b], axis=1).sum() for a, b in pairs_at_a_time]
    return float(sum(sums) / chosen.sum())


def _seed_groups(lesions: list[Lesion]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for row, lesion in enumerate(lesions):
        groups[lesion.mask_name].append(row)
    return {name: rows for name, rows in sorted(groups.items()) if len(rows) > 1}
