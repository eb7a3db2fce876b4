"""What a network is trained with: real lesions, synthetic ones, copies, and classical augmentation, by shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from evaluation.downstream.crops import Crop, window_of

Sample = tuple[np.ndarray, np.ndarray, np.ndarray, Crop]  # ct_norm, lesion mask, valid mask, where from
TURN_DEGREES, ZOOM, NOISE, BLUR_VOXELS, CONTRAST = 30.0, 0.15, 0.05, 0.7, 0.15  # of classical augmentation


@dataclass(frozen=True)
class Arm:
    """Shares of a batch.

    Attributes:
        real, synthetic, pasted: Share of each source; together 1.
        classical: Whether samples are also turned, zoomed, blurred and given noise and contrast. All are mirrored.
    """

    real: float = 0.0
    synthetic: float = 0.0
    pasted: float = 0.0
    classical: bool = False


ARMS: dict[str, Arm] = {
    "real": Arm(real=1.0),
    "classical": Arm(real=1.0, classical=True),
    "copy_paste": Arm(real=0.5, pasted=0.5),
    "synthetic": Arm(real=0.5, synthetic=0.5),
    "synthetic_classical": Arm(real=0.5, synthetic=0.5, classical=True),
    "synthetic_only": Arm(synthetic=1.0),
}


def draw_batch(
    arm: Arm,
    sources: Mapping[str, Sequence[Crop]],
    size: int,
    edge: int,
    away: float,
    jitter: float,
    random: np.random.Generator,
) -> list[Sample]:
    """A batch of cubes.

    Args:
        arm: Its shares.
        sources: "real", "synthetic", "pasted" -> crops; those of a share of 0 are not looked at.
        size: Samples.
        edge: Of the cubes, voxels.
        away: Share of the cubes that lie anywhere in their crop; the others hold the lesion's centre.
        jitter: How far it is from the middle of these, at most, voxels along each axis.
        random: Of this batch.
    """
    names = ("real", "synthetic", "pasted")
    shares = np.array([getattr(arm, name) for name in names])
    samples = []
    for name in random.choice(names, size, p=shares / shares.sum()):
        crop = sources[name][int(random.integers(len(sources[name])))]
        room = np.array(crop.ct_hu.shape) - edge
        if random.random() < away:
            start = random.integers(0, room + 1)
        else:
            start = np.clip(np.rint(crop.centre - edge / 2 + random.uniform(-jitter, jitter, 3)), 0, room)
        ct, lesion, valid = window_of(crop, np.asarray(start, int), edge)
        ct, lesion, valid = mirrored((ct, lesion, valid), random)
        if arm.classical:
            ct, lesion, valid = augmented(ct, lesion, valid, random)
        samples.append((ct, lesion, valid, crop))
    return samples


def mirrored(volumes: Sequence[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
    """All volumes mirrored alike, along each axis with probability one half."""
    axes = tuple(axis for axis in range(3) if random.random() < 0.5)
    return [np.ascontiguousarray(np.flip(volume, axes)) for volume in volumes]


def augmented(
    ct_norm: np.ndarray, lesion: np.ndarray, valid: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classical augmentation: a turn in the plane, a zoom, contrast, and noise or blur; (D, H, W) each, same shapes."""
    angle, zoom = np.deg2rad(random.uniform(-TURN_DEGREES, TURN_DEGREES)), 1 + random.uniform(-ZOOM, ZOOM)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]) / zoom
    middle = (np.array(ct_norm.shape) - 1) / 2
    moved = {"matrix": turn, "offset": middle - turn @ middle, "mode": "nearest"}
    ct_norm = affine_transform(ct_norm, order=1, **moved)
    lesion, valid = (affine_transform(mask, order=0, **moved) for mask in (lesion, valid))
    ct_norm = ct_norm * (1 + random.uniform(-CONTRAST, CONTRAST)) + random.uniform(-CONTRAST, CONTRAST) / 2
    if random.random() < 0.5:
        ct_norm = gaussian_filter(ct_norm, random.uniform(0, BLUR_VOXELS))
    else:
        ct_norm = ct_norm + random.normal(0, random.uniform(0, NOISE), ct_norm.shape)
    return ct_norm.astype(np.float32), lesion, valid
