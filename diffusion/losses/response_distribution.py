"""A texture loss that compares which filter responses a lesion has, not where they are.

Many images can be right for one mask. A pointwise loss (eq. 6, eq. 10) is smallest at the mean of these images, which
is a blur. The distribution of filter responses is the same for two lesions of one texture, wherever each grain lies. It
differs for their mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from autoencoder.losses.lesion_box import LesionCrop, Reduction, lesion_crops, reduce_samples, spacing_rows
from diffusion.losses.gabor import PLANES, GaborBank, plane_responses

LEAST_SPREAD = 0.1  # of a filter, as a share of the mean filter's: what hardly responds is not blown up


def gabor_distribution_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor,
    bank: GaborBank,
    projections: int = 32,
    most_voxels: int = 2048,
    *,
    spacing_mm: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
    reduction: Reduction = "mean",
) -> Tensor:
    """Sliced Wasserstein distance of Gabor responses over the lesion's voxels (Heitz et al. 2021, eq. 4, on Gabor's).

    Per plane, each masked voxel is a point of 2 N_f dimensions: the real and imaginary responses of the N_f filters to
    the foreground less the real lesion's mean, each divided by its standard deviation in the real lesion. Projected on
    random unit vectors, both sets of points are sorted: the mean absolute difference of their order statistics is the
    first Wasserstein distance of the projections; the loss is its mean over projections and planes.

    Args:
        pred: Decoded prediction, (B, 1, D, H, W), ct_norm. Computed in float32 (float64 if given) also in autocast.
        target: Real image, same shape; gets no gradient.
        mask: Lesion mask, same shape, 1 inside. Fewer than two voxels give 0 with zero gradient.
        bank: The filters; their trainable weights are not used.
        projections: Random directions, drawn from PyTorch's own generator.
        most_voxels: Of a larger lesion so many evenly spaced ones are compared.
        spacing_mm: (z, y, x) of all samples, or (B, 3).
        reduction: "mean" over samples, or "none" for one value each, (B,).
    Returns: Scalar or (B,), in standard deviations of the real lesion's responses.
    Raises: ValueError: If a shape or an option does not fit, or no filter can be sampled at the spacing.
    """
    if projections < 1 or most_voxels < 2:
        raise ValueError(f"projections {projections}, most_voxels {most_voxels}: expected at least 1 and 2")
    spacings = spacing_rows(spacing_mm, len(pred))
    with torch.autocast(pred.device.type, enabled=False):
        losses = []
        for crop, spacing in zip(lesion_crops(pred, target, mask, channels=1), spacings, strict=True):
            if int(crop.inside.sum()) < 2:
                losses.append(0.0 * crop.pred.sum())
                continue
            planes = [_plane_distance(crop, bank, axes, spacing, projections, most_voxels) for axes in PLANES.values()]
            losses.append(torch.stack(planes).mean())
        return reduce_samples(losses, reduction)


def _plane_distance(
    crop: LesionCrop,
    bank: GaborBank,
    axes: tuple[int, int, int],
    spacing: tuple[float, ...],
    projections: int,
    most_voxels: int,
) -> Tensor:
    """The distance in one plane of one sample: scalar."""
    mean = crop.target[:, crop.inside].mean()
    inside = crop.inside.permute(axes)
    count = int(inside.sum())
    chosen = torch.linspace(0, count - 1, min(count, most_voxels), device=inside.device).long()
    points = []
    for image in (crop.pred, crop.target):
        centred = torch.where(crop.inside, image[0] - mean, 0).permute(axes)
        responses = plane_responses(centred, bank, (spacing[axes[1]], spacing[axes[2]]))[:, inside][:, chosen]
        points.append(torch.view_as_real(responses).movedim(2, 1).flatten(0, 1))  # (2 N_f, N)
    spread = points[1].std(dim=1, keepdim=True)
    spread = spread.clamp_min(LEAST_SPREAD * float(spread.mean())).clamp_min(1e-6)
    directions = torch.randn(projections, len(spread), device=spread.device, dtype=spread.dtype)
    directions = directions / directions.norm(dim=1, keepdim=True) / spread[:, 0]
    pred, target = ((directions @ each).sort(dim=1).values for each in points)
    return (pred - target).abs().mean()
