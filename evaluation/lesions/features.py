"""All per-lesion feature vectors of a set, measured once: everything later only resamples rows of these arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import nn
from tqdm import tqdm

from evaluation.lesions.hu_and_seam import core_deviation, hu_statistics, seam_score, tissue_coverage
from evaluation.lesions.label_agreement import label_agreement
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.radiomics import BIN_WIDTH_HU, radiomics_available, radiomics_features
from evaluation.lesions.spectrum import SPECTRUM_NAMES, lesion_spectrum
from evaluation.lesions.texture import GABOR_NAMES, gabor_features
from evaluation.networks.inception import inception_features
from evaluation.networks.nodule_net import NoduleNet, nodule_features
from imaging.window import to_norm


@dataclass(frozen=True)
class FeatureSet:
    """One kind of features of one set of lesions.

    Attributes:
        values: (N, rows, F), finite, float64, or float32 of Inception; rows is 3 for slice features, else 1.
        lesions: The N measured lesions, in the order of the rows; those that could not be measured are missing.
        names: (F,) of the features, or empty where they have none.
    """

    values: np.ndarray
    lesions: list[Lesion]
    names: tuple[str, ...] = ()

    @property
    def patients(self) -> list[str]:
        """The patient of each measured lesion."""
        return [lesion.patient_id for lesion in self.lesions]

    def subset(self, names: Sequence[str]) -> "FeatureSet":
        """Only the lesions with these names, in this order."""
        row = {lesion.name: index for index, lesion in enumerate(self.lesions)}
        rows = [row[name] for name in names]
        return FeatureSet(self.values[rows], [self.lesions[index] for index in rows], self.names)


Features = dict[str, FeatureSet]  # kind -> features
TEXTURE = ("Gabor", "GLCM", "GLRLM")


def merge(first: Features, second: Features) -> Features:
    """The lesions of two sets as one.

    Args:
        first, second: Measured alike.
    Returns: The kinds that both have, with the lesions of `first` before those of `second`.
    """
    return {
        kind: FeatureSet(
            np.concatenate([first[kind].values, second[kind].values]),
            first[kind].lesions + second[kind].lesions,
            first[kind].names,
        )
        for kind in first
        if kind in second
    }


def real_spread(pool: FeatureSet) -> np.ndarray:
    """Standard deviation of each feature over real lesions.

    Args:
        pool: One row of features a lesion.
    Returns: (F,), each in its feature's unit; exactly 0 where it is only rounding.
    """
    values = pool.values[:, 0]
    spread = values.std(axis=0)
    return np.where(spread > 1e-9 * np.abs(values).max(axis=0), spread, 0.0)


def measure_features(
    lesions: list[Lesion],
    label: str,
    workers: int = 1,
    bin_width_hu: float = BIN_WIDTH_HU,
    inception: nn.Module | None = None,
    nodule_net: NoduleNet | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Features, list[str]]:
    """Measure a set of lesions.

    Args:
        lesions: At least one.
        label: Of the set, for progress bars and messages.
        workers: Processes for the texture features.
        bin_width_hu: Grey level of GLCM and GLRLM.
        inception: From `load_inception`; None leaves "Inception" out.
        nodule_net: From `load_nodule_net`; None leaves "Nodule net" out.
        device: Where the two networks run.
    Returns: Kind -> features, for the kinds Gabor, GLCM, GLRLM (if pyradiomics is there), Spectrum, HU, Core, Label,
        Coverage, Seam, Inception and Nodule net that could be measured for at least one lesion; and a sentence for each
        lesion and kind left out, but for Core, which large solid lesions alone have, and
        Label, which needs lung around.
    """
    with_radiomics = radiomics_available()
    jobs = (delayed(_measure_one)(lesion, bin_width_hu, with_radiomics) for lesion in lesions)
    results = Parallel(n_jobs=workers, return_as="generator")(jobs)
    vectors: dict[str, list[np.ndarray]] = {}
    measured: dict[str, list[Lesion]] = {}
    names: dict[str, tuple[str, ...]] = {"Gabor": GABOR_NAMES, "HU": ("mean", "standard deviation")}
    problems = []
    for lesion, (found, failed) in zip(lesions, tqdm(results, f"texture of {label}", len(lesions)), strict=True):
        problems += [f"{label}, {lesion.name}: {sentence}" for sentence in failed]
        for kind, features in found.items():
            vectors.setdefault(kind, []).append(np.array(list(features.values())))
            measured.setdefault(kind, []).append(lesion)
            names.setdefault(kind, tuple(features))
    sets = {kind: FeatureSet(np.stack(v)[:, None], measured[kind], names[kind]) for kind, v in vectors.items()}
    if inception is not None:
        sets["Inception"] = FeatureSet(inception_features(inception, lesions, device), lesions)
    if nodule_net is not None:
        sets["Nodule net"] = FeatureSet(nodule_features(nodule_net, lesions, device)[:, None], lesions)
    return sets, problems


def _measure_one(
    lesion: Lesion, bin_width_hu: float, with_radiomics: bool
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Kind -> named features of one lesion, and why a kind is missing."""
    mean, std = hu_statistics(lesion.ct_hu, lesion.lesion_mask)
    found = {"HU": {"mean": mean, "standard deviation": std}}
    uneven = core_deviation(lesion.ct_hu, lesion.lesion_mask, lesion.spacing_mm)
    if uneven is not None:
        found["Core"] = {"log deviation": float(np.log(max(uneven, 1.0)))}  # a factor: some real cores have cavities
    agreement = label_agreement(lesion.ct_hu, lesion.lesion_mask, lesion.spacing_mm, lesion.valid_mask)
    if not np.isnan(agreement.dice):
        found["Label"] = {"Dice of own outline": agreement.dice, "empty share": agreement.empty_share}
    failed = []
    if std == 0:
        failed.append("constant inside the mask; its texture features are those of a flat region")
    try:
        features = gabor_features(to_norm(lesion.ct_hu), lesion.lesion_mask)
        found["Gabor"] = dict(zip(GABOR_NAMES, features, strict=True))
        spectrum = lesion_spectrum(lesion.ct_hu, lesion.lesion_mask, lesion.spacing_mm)
        found["Spectrum"] = dict(zip(SPECTRUM_NAMES, spectrum, strict=True))
        if with_radiomics:
            found["GLCM"], found["GLRLM"] = radiomics_features(
                lesion.ct_hu, lesion.lesion_mask, lesion.spacing_mm, bin_width_hu
            )
    except ValueError as error:
        failed.append(f"no texture features: {error}")
    try:
        share = tissue_coverage(lesion.ct_hu, lesion.lesion_mask, lesion.spacing_mm, lesion.valid_mask)
        found["Coverage"] = {"share of the mask": share}
    except ValueError as error:
        failed.append(f"no coverage: {error}")
    try:
        found["Seam"] = {"seam": seam_score(lesion.ct_hu, lesion.lesion_mask, lesion.valid_mask)}
    except ValueError as error:
        failed.append(f"no seam score: {error}")
    return found, failed
