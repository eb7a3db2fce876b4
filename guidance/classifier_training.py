"""Training of the attribute classifiers: labels, balanced sampling, and the step with a label-shuffled control.

The control is a second network of the same architecture. Its labels were shuffled among the training nodules. Its
performance on held-out nodules is what architecture, sampling and chance reach without any knowledge. It has several
heads for each attribute, each with its own shuffle. A single head would order nodules by what its network sees first,
such as size, and that may agree with a rating by chance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.process import add_noise, network_times
from guidance.classifier import NoduleClassifier3D, log_likelihood
from guidance.lesion_crop import lesion_crops
from imaging.dataset.label_policy import LabelPolicy, malignancy_label

CLASSES = {"malignancy": ["benign", "malignant"]}
RATING_VARIANCE = 2.0  # of a rating from 1 to 5 whose levels are drawn equally often


def attribute_targets(ratings: Mapping[str, Sequence[float]], policy: LabelPolicy) -> np.ndarray:
    """What the heads learn, (N, attributes), in the order of `ratings`; NaN where a nodule has no label.

    Args:
        ratings: Attribute -> mean rating of each nodule, NaN or None where it is not rated. Malignancy becomes the
            index of its class, and none where the policy calls it neither; the others stay ratings, 1 to 5.
        policy: Which mean malignancy is benign and malignant.
    """

    def target(name: str, rating: float | None) -> float:
        if rating is None or math.isnan(rating):
            return math.nan
        if name not in CLASSES:
            return float(rating)
        label = malignancy_label(float(rating), policy)
        return float(CLASSES[name].index(label)) if label else math.nan

    return np.array([[target(name, rating) for rating in column] for name, column in ratings.items()], np.float32).T


def balanced_weights(targets: np.ndarray) -> np.ndarray:
    """Sampling weight of each row, (N,), sum 1: the mean over the attributes of 1 / how often a row's level occurs.

    A level is a class, or a rating to the nearest whole number. With a single attribute every level is drawn equally
    often; with several, each is drawn at least 1 / attributes as often as alone. Rows without any label are not drawn.

    Args:
        targets: (N, attributes), NaN where there is no label.
    Raises: ValueError: If no row has a label.
    """
    weights = np.zeros(len(targets))
    for column in targets.T:
        known = np.flatnonzero(np.isfinite(column))
        if len(known):
            levels, place, counts = np.unique(np.rint(column[known]), return_inverse=True, return_counts=True)
            weights[known] += 1 / (counts[place] * len(levels))
    if not weights.any():
        raise ValueError("no row has a label of any attribute; check the dataset's ratings")
    return weights / weights.sum()


def shuffled_targets(targets: np.ndarray, nodules: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """The targets of the rows, each nodule's taken from another one drawn at random; all rows of a nodule agree.

    Args:
        targets: (N, attributes).
        nodules: The nodule of each row; variants of one share it.
        rng: Source of the permutation.
    """
    _, first, place = np.unique(np.asarray(nodules), return_index=True, return_inverse=True)
    return targets[first][rng.permutation(len(first))][place]


def control_name(name: str, shuffle: int) -> str:
    """What the control's head of a shuffle is called."""
    return f"{name}/{shuffle}"


def control_of(classifier: NoduleClassifier3D, shuffles: int) -> NoduleClassifier3D:
    """A fresh network of the same architecture with a head for every attribute and shuffle."""
    config = {name: value for name, value in classifier.config.items() if not name.startswith("_")}
    numbers = range(shuffles)
    config["classes"] = {control_name(n, k): names for n, names in classifier.classes.items() for k in numbers}
    config["regressions"] = [control_name(n, k) for n in classifier.config["regressions"] for k in numbers]
    return NoduleClassifier3D(**config)


class ClassifierTraining(nn.Module):
    """The classifier and its control; forward gives the loss of a batch, so that distributed training sees one graph.

    Args:
        classifier: What is trained.
        shuffles: Heads of the control for each attribute; 0 trains none.
    """

    def __init__(self, classifier: NoduleClassifier3D, shuffles: int = 8) -> None:
        super().__init__()
        self.classifier = classifier
        self.control = control_of(classifier, shuffles) if shuffles else None

    def forward(
        self, vae: Any, scheduler: Any, batch: Mapping[str, Any], x0: Tensor, noise: Tensor, rows: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch.

        Args:
            vae: Frozen autoencoder of the latents.
            scheduler: Training scheduler of the pipeline.
            batch: `lesion_mask`, (B, 1, D, H, W); `targets`, attribute -> (B,), NaN where there is no label, and with
                a control `control_targets`, its heads -> (B,).
            x0, noise: Standardised latent and noise, (B, C, d, h, w).
            rows: Of the schedule, (B,), integer.
        Returns: (scalar; loss of each attribute over the samples that have a label, and of the control as `control`):
            cross-entropy of classes, squared error of ratings in units of `RATING_VARIANCE`.
        """
        noisy, times = add_noise(scheduler, x0, noise, rows), network_times(scheduler, rows)
        said, of_control = self.said(noisy, times, batch["lesion_mask"], vae)
        losses = _losses(said, batch["targets"])
        total = torch.stack(list(losses.values())).sum()
        if of_control:
            shuffled = torch.stack(list(_losses(of_control, batch["control_targets"]).values()))
            losses["control"] = len(losses) * shuffled.mean()  # comparable with the sum of the others
            total = total + losses["control"]
        return total, {name: loss.detach() for name, loss in losses.items()}

    def said(
        self, noisy: Tensor, times: Tensor, lesion_mask: Tensor, vae: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the heads of the classifier and of the control say; (B,) or (B, classes) by name.

        Args:
            noisy: x_t, (B, C, d, h, w), standardised.
            times: What the denoiser is given, (B,).
            lesion_mask: (B, 1, D, H, W).
            vae: As in :meth:`forward`.
        """
        config = self.classifier.config
        with torch.no_grad():
            crops = lesion_crops(lesion_mask, config["cells"], config["space"], vae)
            crop = crops.of(noisy, vae)
        said = self.classifier(crop, times, crops.lesion)
        return said, {} if self.control is None else self.control(crop, times, crops.lesion)


def _losses(said: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean over the samples that have a label, 0 where none has."""
    losses = {}
    for name, value in said.items():
        unit = 1.0 if value.ndim == 2 else RATING_VARIANCE
        count = torch.isfinite(targets[name]).sum().clamp_min(1)
        losses[name] = -log_likelihood(value, targets[name]).sum() / (unit * count)
    return losses
