"""Whole crops made from their semantic map, against the real crops of these maps: the figures of LSDM's tables.

Distances and paired figures are those of the lesions' report (`set_comparison`, `pair_comparison`). Two regions are
looked at: the lesion, and the crop, as far as it lies in its scan.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evaluation.lesions.features import Features, FeatureSet
from evaluation.lesions.lesion_sets import Lesion, load_lesions, match_pairs
from evaluation.lesions.pair_comparison import PairedRow, pair_values, paired_rows
from evaluation.lesions.set_comparison import DistanceRow, SetMetric, distance_rows, set_metrics
from evaluation.networks.inception import inception_features
from evaluation.networks.nodule_net import NoduleNet, nodule_features
from imaging.boxes import mask_box

LEAST_EDGE = 22  # voxels of a crop that is compared voxel by voxel: two scales of MS-SSIM
CROP, LESION = "crop", "lesion"
OTHERS = "real, of another patient"


@dataclass
class Fidelity:
    """How near sets of crops are to the real ones.

    Attributes:
        distances: Region -> rows of every set.
        pairs: Paired figures of the whole crops of every set, and of the real crops with those of other patients.
        left_out: A sentence for each thing that could not be measured.
    """

    distances: dict[str, list[DistanceRow]] = field(default_factory=lambda: {CROP: [], LESION: []})
    pairs: list[PairedRow] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Networks:
    """What measures: the 3D network, and those whose weights were given.

    Attributes:
        nodule_net: From `load_nodule_net`.
        inception, lpips: From `load_inception` and `load_lpips`, or None.
        device: Where they run.
    """

    nodule_net: NoduleNet
    inception: nn.Module | None = None
    lpips: nn.Module | None = None
    device: str | torch.device = "cpu"

    def features(self, lesions: list[Lesion]) -> Features:
        """Those of the Fréchet distances."""
        found = {"Nodule net": FeatureSet(nodule_features(self.nodule_net, lesions, self.device)[:, None], lesions)}
        if self.inception is not None:
            found["Inception"] = FeatureSet(inception_features(self.inception, lesions, self.device), lesions)
        return found


def fidelity(
    real: list[Lesion],
    sets: Mapping[str, Path],
    split: str,
    networks: Networks,
    repeats: int = 200,
    permutations: int = 99,
    seed: int = 0,
) -> Fidelity:
    """Measure sets of whole crops.

    Args:
        real: The crops whose maps were used; those that are not in the first set are left out.
        sets: Name -> prepared dataset of made crops, at least one.
        split: Of the sets.
        networks: What measures.
        repeats, permutations, seed: As for `distance_rows`.
    """
    found = Fidelity()
    made_of = {lesion.mask_name for lesion in load_lesions(next(iter(sets.values())), split)[0]}
    real = [lesion for lesion in real if lesion.name in made_of]
    truth = {region: networks.features(lesions) for region, lesions in _regions(real)}
    patients = {lesion.name: lesion.patient_id for lesion in real}
    for name, lesions in _loaded(sets, split, found):
        for region, made in _regions(lesions):
            metrics = measured(truth[region])
            rows, notes = distance_rows(
                name, truth[region], networks.features(made), metrics, repeats, permutations, seed
            )
            found.distances[region] += rows
            found.left_out += [note for note in notes if note not in found.left_out]
        found.pairs += _paired(name, real, lesions, patients, networks, repeats, seed)
    found.pairs += _paired(OTHERS, real, of_other_patients(real), patients, networks, repeats, seed)
    return found


def measured(features: Features) -> list[SetMetric]:
    """The distances between features that are there."""
    return [metric for metric in set_metrics(features) if metric.kind in features]


def as_crop(lesion: Lesion) -> Lesion:
    """The crop as far as it lies in its scan, with a mask that is all of it."""
    box = mask_box(lesion.valid_mask)
    valid = lesion.valid_mask[box]
    return replace(lesion, ct_hu=lesion.ct_hu[box], lesion_mask=valid, valid_mask=valid)


def shown_by_both(first: Lesion, second: Lesion) -> np.ndarray | None:
    """Voxels that lie in the scans of two crops, (D, H, W) bool; None if fewer than `LEAST_EDGE` along an axis."""
    both = first.valid_mask & second.valid_mask
    enough = both.any() and min(both[mask_box(both)].shape) >= LEAST_EDGE
    return both if enough else None


def of_other_patients(real: list[Lesion]) -> list[Lesion]:
    """For each crop, under its name, the next one of another patient that shows enough of the same voxels, if any."""
    others = []
    for index, lesion in enumerate(real):
        following = real[index + 1 :] + real[:index]
        foreign = (one for one in following if one.patient_id != lesion.patient_id)
        other = next((one for one in foreign if shown_by_both(lesion, one) is not None), None)
        if other is not None:
            others.append(replace(lesion, ct_hu=other.ct_hu, valid_mask=other.valid_mask))
    return others


def _regions(lesions: list[Lesion]) -> Iterator[tuple[str, list[Lesion]]]:
    yield CROP, [as_crop(lesion) for lesion in lesions]
    yield LESION, lesions


def _loaded(sets: Mapping[str, Path], split: str, found: Fidelity) -> Iterator[tuple[str, list[Lesion]]]:
    for name, path in sets.items():
        lesions, left_out = load_lesions(path, split)
        found.left_out += [f"{name}, {sentence}" for sentence in left_out]
        yield name, lesions


def _paired(
    name: str,
    real: list[Lesion],
    made: list[Lesion],
    patients: dict[str, str],
    networks: Networks,
    repeats: int,
    seed: int,
) -> list[PairedRow]:
    """SSIM, MS-SSIM, MSE, PSNR and LPIPS of the crops that both show `LEAST_EDGE` voxels along each axis."""
    pairs = []
    for original, other in match_pairs(real, made)[0]:
        both = shown_by_both(original, other)
        if both is not None:
            pairs.append((as_crop(replace(original, valid_mask=both)), as_crop(replace(other, valid_mask=both))))
    if not pairs:
        return []
    values, _ = pair_values(pairs, {}, {}, {}, networks.lpips, networks.device)
    return paired_rows(name, values, patients, repeats, seed)
