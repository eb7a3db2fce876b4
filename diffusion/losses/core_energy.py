"""A loss on how uneven the core of a lesion is, not on where: mottled cores give synthetic solid lesions away."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from autoencoder.losses.lesion_box import Reduction, lesion_crops, reduce_samples

SIGMAS = (0.0, 0.7, 1.4, 2.8)  # voxels, between which the bands lie; 0 leaves the image as it is
RIM = 2  # voxels of the lesion's rim that are not core: the step to the lung would hide everything else
LEAST_VOXELS = 12  # of a core
FLOOR = 0.004  # ct_norm, a few HU: below it a band counts as even


def core_energy_loss(pred: Tensor, target: Tensor, mask: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean over bands of |½ log((E(pred) + f²) / (E(target) + f²))|, E the mean square of a band in the core.

    A band is the difference of two means, each weighted by a Gaussian over the core alone, so the rim does not count.
    Two lesions whose cores are equally uneven have a loss of 0 wherever each grain lies. Their mean, a blur, has not.

    Args:
        pred: Decoded prediction, (B, 1, D, H, W), ct_norm. Computed in float32 (float64 if given) also in autocast.
        target: Real image, same shape; gets no gradient.
        mask: Lesion mask, same shape, 1 inside. A lesion without a core gives 0 with zero gradient.
        reduction: "mean" over samples, or "none" for one value each, (B,).
    Returns: Scalar or (B,); log 2 where the prediction deviates twice as much as the target in every band.
    Raises: ValueError: If a shape or an option does not fit.
    """
    with torch.autocast(pred.device.type, enabled=False):
        losses = []
        for crop in lesion_crops(pred, target, mask, margin=RIM, channels=1):
            inside = crop.inside.to(crop.pred.dtype)[None, None]
            core = -F.max_pool3d(-inside, 2 * RIM + 1, stride=1, padding=RIM)  # eroded
            if int(core.sum()) < LEAST_VOXELS:
                losses.append(0.0 * crop.pred.sum())
                continue
            images = torch.stack([crop.pred, crop.target])  # (2, 1, d, h, w)
            energy = torch.stack([(band**2).sum((1, 2, 3, 4)) / core.sum() for band in _bands(images, core)])
            made, real = (energy + FLOOR**2).unbind(1)
            losses.append((made / real).log().abs().mean() / 2)
        return reduce_samples(losses, reduction)


def _bands(images: Tensor, core: Tensor) -> list[Tensor]:
    """Band-pass images (2, 1, d, h, w), 0 outside the core."""
    means = [
        images if sigma == 0 else _blurred(images * core, sigma) / _blurred(core, sigma).clamp_min(1e-6)
        for sigma in SIGMAS
    ]
    return [(fine - coarse) * core for fine, coarse in pairwise(means)]


def _blurred(volume: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian; what lies outside the box is 0."""
    reach = int(3 * sigma + 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=volume.device, dtype=volume.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(taps), reach
        volume = F.conv3d(volume, taps.view(shape), padding=padding)
    return volume
