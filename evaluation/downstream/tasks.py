"""Three tasks that labs augment: segmenting a nodule, telling malignant from benign, and finding nodules.

Each names its network (MONAI's), its loss, what it says of a test crop, and the figure over test crops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from skimage.feature import peak_local_max
from torch import Tensor, nn

from evaluation.downstream.arms import Sample
from evaluation.downstream.crops import Crop, window_of
from evaluation.statistics.agreement import auroc

EDGE = 32  # voxels of the training cubes
HEAT_VOXELS = 2.0  # Gaussian that marks a nodule's centre
LEAST_HIT_VOXELS = 3.0  # a peak within the lesion's radius, or within so much of its centre, has found it
CANDIDATES = 20  # peaks of a crop
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # per crop, of the competition metric (LUNA16)

Outcome = dict[str, Any]  # what a network says of one test crop; JSON


def networks() -> Any:
    """`monai.networks.nets`. Raises ValueError if MONAI is not installed."""
    try:
        from monai.networks import nets
    except ImportError as error:
        raise ValueError(
            "the downstream networks are MONAI's; install it: pip install 'lesion-diffusion[downstream]'"
        ) from error
    return nets


def unet() -> nn.Module:
    """A small 3D U-Net with one output channel.

    Batch normalisation: with that of instances, the lung's brightness depends on how much wall is in sight.
    """
    made: nn.Module = networks().UNet(3, 1, 1, channels=(8, 16, 32), strides=(2, 2), num_res_units=1, norm="batch")
    return made


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        network: Builds it.
        loss: (network, batch) -> scalar.
        outcome: (network, test crop) -> what it says, JSON.
        figure: Outcomes -> the figure, higher is better; NaN where it is not defined.
        usable: Whether a crop can take part.
        name: Of the figure.
        away: Share of the training cubes that lie anywhere.
        jitter: How far the lesion is from the middle of the other ones, at most, voxels along each axis.
    """

    network: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Sequence[Sample]], Tensor]
    outcome: Callable[[nn.Module, Crop], Outcome]
    figure: Callable[[Sequence[Outcome]], float]
    usable: Callable[[Crop], bool]
    name: str
    away: float = 0.0
    jitter: float = 4.0


def _stacked(batch: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    volumes = zip(*(sample[:3] for sample in batch), strict=True)
    ct, lesion, valid = (torch.from_numpy(np.stack(alike))[:, None] for alike in volumes)
    return ct, lesion, valid


def _centred(crop: Crop) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The cube of `EDGE` around a test lesion, (1, 1, E, E, E), its mask, and where it is valid."""
    room = np.array(crop.ct_hu.shape) - EDGE
    start = np.clip(np.rint(crop.centre - EDGE / 2), 0, room).astype(int)
    ct, lesion, valid = window_of(crop, start, EDGE)
    return torch.from_numpy(ct)[None, None], lesion > 0, valid > 0


def segmentation_loss(network: nn.Module, batch: Sequence[Sample]) -> Tensor:
    """Soft Dice loss over the batch's lesions plus cross-entropy, both where the crop is valid."""
    ct, lesion, valid = _stacked(batch)
    logit = network(ct).float()
    entropy = (F.binary_cross_entropy_with_logits(logit, lesion, reduction="none") * valid).sum() / valid.sum()
    said = torch.sigmoid(logit) * valid
    overlap = 2 * (said * lesion).flatten(1).sum(1) / ((said + lesion).flatten(1).sum(1)).clamp_min(1)
    return entropy + 1 - overlap.mean()


def segmentation_outcome(network: nn.Module, crop: Crop) -> Outcome:
    """Dice of the network's mask with the real one in the cube around the lesion, where it is valid."""
    ct, lesion, valid = _centred(crop)
    found = (network(ct)[0, 0].numpy() > 0) & valid
    return {"dice": float(2 * (found & lesion).sum() / max(int(found.sum() + lesion.sum()), 1))}


def classification_loss(network: nn.Module, batch: Sequence[Sample]) -> Tensor:
    """Cross-entropy of benign against malignant."""
    ct, _, _ = _stacked(batch)
    labels = torch.tensor([float(bool(crop.malignant)) for *_, crop in batch])
    return F.binary_cross_entropy_with_logits(network(ct).float()[:, 0], labels)


def classification_outcome(network: nn.Module, crop: Crop) -> Outcome:
    """The network's score and the readers' label."""
    return {"score": float(network(_centred(crop)[0])[0, 0]), "malignant": bool(crop.malignant)}


def classification_figure(outcomes: Sequence[Outcome]) -> float:
    """AUROC."""
    return auroc(np.array([o["score"] for o in outcomes]), np.array([o["malignant"] for o in outcomes]))


def heat_map(lesion: np.ndarray) -> np.ndarray:
    """A Gaussian at the mask's centroid, as high as 1; zeros for an empty mask."""
    if not lesion.any():
        return np.zeros(lesion.shape, np.float32)
    at = np.indices(lesion.shape).reshape(3, -1).T - np.argwhere(lesion).mean(0)
    heat: np.ndarray = np.exp(-(at**2).sum(1) / (2 * HEAT_VOXELS**2)).reshape(lesion.shape).astype(np.float32)
    return heat


def detection_loss(network: nn.Module, batch: Sequence[Sample]) -> Tensor:
    """Focal loss of a heat map with Gaussian peaks (CenterNet's: Zhou et al. 2019, eq. 1), where the crop is valid."""
    ct, lesion, valid = _stacked(batch)
    heat = torch.from_numpy(np.stack([heat_map(mask > 0) for mask in lesion[:, 0].numpy()]))[:, None]
    said = torch.sigmoid(network(ct).float()).clamp(1e-4, 1 - 1e-4)
    at_peak = heat >= heat.flatten(1).amax(1).view(-1, 1, 1, 1, 1).clamp_min(1e-3)
    found = (1 - said) ** 2 * torch.log(said) * at_peak
    false = (1 - heat) ** 4 * said**2 * torch.log(1 - said) * ~at_peak
    return -((found + false) * valid).sum() / at_peak.sum().clamp_min(1)


def heat_peaks(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest `CANDIDATES` peaks of a heat map (D, H, W): voxels (N, 3), and their scores (N,)."""
    peaks = peak_local_max(heat, min_distance=2, num_peaks=CANDIDATES, exclude_border=False)
    return peaks, heat[tuple(peaks.T)]


def detection_outcome(network: nn.Module, crop: Crop) -> Outcome:
    """Scores of the peaks that find the lesion and of those that do not, in the whole crop."""
    ct, lesion, valid = window_of(crop, np.zeros(3, int), min(crop.ct_hu.shape) // 4 * 4)
    score = torch.sigmoid(network(torch.from_numpy(ct)[None, None]).float())[0, 0].numpy() * valid
    peaks, scores = heat_peaks(score)
    radius = max(LEAST_HIT_VOXELS, (3 * float(lesion.sum()) / (4 * np.pi)) ** (1 / 3))
    near = np.linalg.norm(peaks - crop.centre, axis=1) <= radius
    return {"hit": float(scores[near].max(initial=0.0)), "false": [float(s) for s in scores[~near]]}


def froc(outcomes: Sequence[Outcome], rates: Sequence[float] = FALSE_POSITIVES) -> np.ndarray:
    """Sensitivity at numbers of false positives per crop, (R,): at the lowest threshold that keeps to the number."""
    false = np.sort(np.concatenate([[], *(np.asarray(o["false"], float) for o in outcomes)]))[::-1]
    hits = np.array([o["hit"] for o in outcomes])
    sensitivity = []
    for rate in rates:
        allowed = int(rate * len(outcomes))
        above = false[allowed] if allowed < len(false) else 0.0  # the first false peak too many
        sensitivity.append(float((hits > above).mean()))
    return np.array(sensitivity)


def competition_metric(outcomes: Sequence[Outcome]) -> float:
    """Mean sensitivity at `FALSE_POSITIVES` (LUNA16: Setio et al. 2017)."""
    return float(froc(outcomes).mean())


TASKS: dict[str, Task] = {
    "segmentation": Task(
        network=unet,
        loss=segmentation_loss,
        outcome=segmentation_outcome,
        figure=lambda outcomes: float(np.mean([o["dice"] for o in outcomes])),
        usable=lambda crop: True,
        name="Dice",
    ),
    "classification": Task(
        network=lambda: networks().DenseNet(3, 1, 1, init_features=16, growth_rate=8, block_config=(2, 2, 2)),
        loss=classification_loss,
        outcome=classification_outcome,
        figure=classification_figure,
        usable=lambda crop: crop.malignant is not None,
        name="AUROC",
    ),
    "detection": Task(
        network=unet,
        loss=detection_loss,
        outcome=detection_outcome,
        figure=competition_metric,
        usable=lambda crop: True,
        name="competition metric",
        away=0.5,
        jitter=EDGE / 4,
    ),
}
