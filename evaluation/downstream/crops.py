"""The crops that downstream networks learn from and are tested on, in memory as small integers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.lesions.free_sites import free_site
from imaging.compositing import composite, edge_weight
from imaging.dataset.label_policy import LabelPolicy, malignancy_label
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.lesions.mask import grown_mask
from imaging.window import to_norm

PASTE_MARGIN_MM = 2.0  # of its own surroundings that a pasted lesion brings along, blended in


@dataclass(frozen=True)
class Crop:
    """A crop around one lesion.

    Attributes:
        name: Of the lesion.
        patient_id: Whose scan it is.
        ct_hu: int16 (D, H, W).
        lesion_mask, valid_mask: bool, same shape.
        spacing_mm: (z, y, x).
        malignant: Whether the readers call it malignant; None if the label policy says neither.
    """

    name: str
    patient_id: str
    ct_hu: np.ndarray
    lesion_mask: np.ndarray
    valid_mask: np.ndarray
    spacing_mm: tuple[float, float, float]
    malignant: bool | None

    @property
    def centre(self) -> np.ndarray:
        """Centroid of the mask, voxels, (3,)."""
        return np.argwhere(self.lesion_mask).mean(0)


def load_crops(path: Path, split: str, policy: LabelPolicy = "exclude_between") -> list[Crop]:
    """All lesions of a split of a prepared dataset. Raises ValueError as `load_nodules`."""
    nodules = load_nodules(path, split)
    crops = []
    for index in tqdm(range(len(nodules)), desc=f"{path.name} {split}", leave=False):
        row = read_nodule(nodules, index)
        rating = None if row["malignancy"] is None or np.isnan(row["malignancy"]) else float(row["malignancy"])
        label = malignancy_label(rating, policy)
        crops.append(
            Crop(
                name=row["nodule_id"],
                patient_id=row["patient_id"],
                ct_hu=np.asarray(row["ct_hu"], np.int16),
                lesion_mask=row["lesion_mask"] > 0,
                valid_mask=row["valid_mask"] > 0,
                spacing_mm=_triple(row["spacing_mm"]),
                malignant={"benign": False, "malignant": True}.get(label),
            )
        )
    return crops


def pasted(crops: Sequence[Crop], seed: int) -> list[Crop]:
    """Copy-paste: each lesion with a thin rim cut out and blended into lesion-free lung of another of the crops.

    Args:
        crops: Real ones, of one spacing.
        seed: Chooses places.
    Returns: One for each lesion that finds a place.
    """
    random = np.random.default_rng(seed)
    result = []
    for crop in crops:
        hosts = (
            vars(host) | {"nodule_id": host.name} for host in (crops[int(k)] for k in random.permutation(len(crops)))
        )
        placed = free_site(vars(crop), hosts, random)
        if placed is None:
            continue
        host = placed[0]
        mask = host["lesion_mask"] > 0
        if not mask.any():
            continue
        shift = np.argwhere(mask).min(0) - np.argwhere(crop.lesion_mask).min(0)
        moved = np.roll(crop.ct_hu, tuple(shift), (0, 1, 2))
        known = np.roll(crop.valid_mask, tuple(shift), (0, 1, 2)) & (host["valid_mask"] > 0)
        painted = (grown_mask(mask.astype(np.uint8), PASTE_MARGIN_MM, crop.spacing_mm) > 0) & known
        weight = edge_weight(painted, np.array(crop.spacing_mm), PASTE_MARGIN_MM)
        ct_hu = composite(host["ct_hu"], moved.astype(np.float32) - host["ct_hu"], weight)
        lesion = replace(crop, name=f"{crop.name}_pasted", ct_hu=ct_hu, lesion_mask=mask, valid_mask=known | painted)
        result.append(lesion)
    return result


def share_of_patients(crops: Sequence[Crop], fraction: float, seed: int) -> list[Crop]:
    """The crops of a share of the patients, at least two; a larger share of the same seed holds a smaller one."""
    patients = sorted({crop.patient_id for crop in crops})
    order = np.random.default_rng(seed).permutation(len(patients))
    kept = {patients[index] for index in order[: max(2, round(fraction * len(patients)))]}
    return [crop for crop in crops if crop.patient_id in kept]


def window_of(crop: Crop, start: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cube of a crop: `ct_norm`, lesion mask and valid mask, float32.

    Where nothing is valid, a crop repeats its border. Air there would shift what instance normalisation makes of the
    lung in crops that are small.

    Args:
        crop: At least as large as the cube.
        start: First voxel, (3,).
        edge: Of the cube.
    """
    box = tuple(slice(int(s), int(s) + edge) for s in start)
    ct_norm = to_norm(crop.ct_hu[box].astype(np.float32))
    return ct_norm, crop.lesion_mask[box].astype(np.float32), crop.valid_mask[box].astype(np.float32)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    z, y, x = (float(value) for value in values)
    return z, y, x
