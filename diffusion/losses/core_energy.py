"""A loss on how uneven the core of a lesion is, not on where: mottled cores give synthetic solid lesions away."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from autoencoder.losses.lesion_box import Reduction, lesion_crops, reduce_samples
from diffusion.losses.dog import blur

SIGMAS = (0.0, 0.7, 1.4, 2.8)  # voxels, between which the bands lie; 0 leaves the image as it is
RIM = 2  # voxels of the lesion's rim that are not core: the step to the lung would hide everything else
LEAST_VOXELS = 12  # of a core
VOXELS = 3 * (1.0,)  # Gaussians are measured in voxels
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
            core = -F.max_pool3d(-inside, 2 * RIM + 1, stride=1, padding=RIM)[0, 0]  # eroded
            if int(core.sum()) < LEAST_VOXELS:
                losses.append(0.0 * crop.pred.sum())
                continue
            made, real = (
                torch.stack([(band**2).sum() / core.sum() for band in _bands(image[0], core)]) + FLOOR**2
                for image in (crop.pred, crop.target)
            )
            losses.append((made / real).log().abs().mean() / 2)
        return reduce_samples(losses, reduction)


def _bands(image: Tensor, core: Tensor) -> list[Tensor]:
    """Band-pass images (d, h, w), 0 outside the core."""
    means = [image]
    for sigma in SIGMAS[1:]:
        means.append(blur(image * core, sigma, VOXELS) / blur(core, sigma, VOXELS).clamp_min(1e-6))
    return [(fine - coarse) * core for fine, coarse in pairwise(means)]
