"""A loss on the lesion's border, which losses on the foreground alone do not see."""

import torch
from torch import Tensor

from autoencoder.losses.lesion_box import Reduction, lesion_crops, reduce_samples


def border_loss(pred: Tensor, target: Tensor, mask: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean absolute error of the steps between neighbouring voxels, one inside the lesion and one outside.

    The seam figure (`evaluation.lesions.hu_and_seam`) measures these steps. A constant offset on both sides costs
    nothing.

    Args:
        pred: Decoded prediction, (B, 1, D, H, W), ct_norm. Computed in float32 (float64 if given) also in autocast.
        target: Real image, same shape; gets no gradient.
        mask: Lesion mask, same shape, 1 inside. One without border gives 0 with zero gradient.
        reduction: "mean" over samples, or "none" for one value each, (B,).
    Returns: Scalar or (B,), ct_norm.
    Raises: ValueError: If a shape or an option does not fit.
    """
    with torch.autocast(pred.device.type, enabled=False):
        losses = []
        for crop in lesion_crops(pred, target, mask, margin=1, channels=1):
            error, inside = (crop.pred - crop.target)[0], crop.inside.to(crop.pred.dtype)
            steps = [(error.diff(dim=axis).abs(), inside.diff(dim=axis).abs()) for axis in range(3)]
            total = torch.stack([(step * border).sum() for step, border in steps]).sum()
            losses.append(total / torch.stack([border.sum() for _, border in steps]).sum().clamp_min(1))
        return reduce_samples(losses, reduction)
