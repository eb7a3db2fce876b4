"""Co-occurrence texture loss (eq. 7-9), exact and at the cost of the masked voxels.

Only masked voxels enter a pair with both ends in the mask. So the masked voxels are gathered once, softly binned
once, and each direction is one matrix product between the voxels and their neighbours.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from autoencoder.losses.lesion_box import LesionCrop, Reduction, lesion_crops, reduce_samples

Offset = tuple[int, int, int]


def direction_offsets(distances: Sequence[int] = (1,)) -> tuple[Offset, ...]:
    """The 13 directions of a 3D neighbourhood (one of each opposite pair), (z, y, x) voxels, at each distance.

    A diagonal at distance 2 is (2, 2, 0): the distance is the Chebyshev one, as in pyradiomics.
    """
    units = [offset for offset in itertools.product((-1, 0, 1), repeat=3) if offset > (0, 0, 0)]
    return tuple((z * d, y * d, x * d) for d in distances for z, y, x in units)


DIRECTIONS_13 = direction_offsets()


def cooccurrence_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor,
    bins: int = 32,
    tau: float | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    offsets: Sequence[Offset] = DIRECTIONS_13,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """L1 distance of soft grey-level co-occurrence distributions inside the lesion, mean over directions (eq. 7-9).

    C_ij(x) = sum_p m(p) m(p + offset) w_i(x(p)) w_j(x(p + offset)), with soft bins
    w_k(v) = softmax_k(-(v - c_k)^2 / tau^2); P = C / sum(C) for each direction on its own;
    loss = mean over directions of sum_ij |P_ij(pred) - P_ij(target)|, between 0 and 2. As in eq. 8 a direction is
    counted one way, so P need not be symmetric. A direction without any pair has P = 0 for both images and adds 0.

    Args:
        pred: Decoded prediction, (B, 1, D, H, W), ct_norm. Computed in float32 (float64 if given) also in autocast.
        target: Real image, same shape; gets no gradient.
        mask: Lesion mask, same shape, 1 inside. An empty one gives 0 with zero gradient.
        bins: Number K of grey-level bins, of equal width over `value_range`; c_k are their centres.
        tau: Softness of the bins, in the image's unit. None takes the width of a bin: an off-centre value is then
            shared by two or three bins. Much smaller values approach a hard histogram and lose the gradient.
        value_range: Grey values covered; values beyond fall in the outermost bin.
        offsets: Pair offsets (z, y, x) in voxels; `direction_offsets((1, 2))` adds a second distance. They are
            voxels, as in radiomics, so images of very unequal spacing should be resampled first.
        reduction: "mean" over samples, or "none" for one value each, (B,), which time weights need.
    Returns: Scalar or (B,), no unit.
    Raises: ValueError: If a shape or an option does not fit.
    Examples:
        >>> dark, bright = torch.full((1, 1, 8, 8, 8), -0.9), torch.full((1, 1, 8, 8, 8), 0.9)
        >>> mask = torch.ones_like(dark)
        >>> cooccurrence_loss(dark, dark, mask).item()
        0.0
        >>> round(cooccurrence_loss(dark, bright, mask).item(), 3)  # no pair of grey levels in common: the maximum
        2.0
    """
    low, high = value_range
    if bins < 2 or not low < high:
        raise ValueError(f"bins {bins}, value_range {value_range}: expected at least 2 bins over an increasing range")
    width = (high - low) / bins
    tau = width if tau is None else tau
    if tau <= 0:
        raise ValueError(f"tau {tau}: expected a positive width in the image's unit, or None for {width:g}")
    if len(offsets) == 0 or any(tuple(offset) == (0, 0, 0) for offset in offsets):
        raise ValueError(f"offsets {tuple(offsets)}: expected at least one, each different from (0, 0, 0)")
    with torch.autocast(pred.device.type, enabled=False):
        losses = []
        for crop in lesion_crops(pred, target, mask, channels=1):
            centres = low + width * (torch.arange(bins, device=pred.device, dtype=crop.pred.dtype) + 0.5)
            neighbours = _neighbours(crop, offsets)
            p_pred, p_target = (
                _distribution(image[0][crop.inside], neighbours, centres, tau) for image in (crop.pred, crop.target)
            )
            losses.append((p_pred - p_target).abs().sum() / len(offsets))
        return reduce_samples(losses, reduction)


def soft_bins(values: Tensor, centres: Tensor, tau: float) -> Tensor:
    """Eq. 7: weight of each bin for each value, (N,) -> (N, K), rows of sum 1.

    -(v - c)^2 is expanded and its v^2 dropped, which the softmax does not see: one product less a voxel, and no
    cancellation for values far out of range. Weights below 1e-18 are set to zero: they are far below float32's
    resolution of P, but their products are subnormal numbers, with which a CPU multiplies twenty times slower.
    """
    weights = torch.softmax(values[:, None] * (2 / tau**2 * centres) - (centres / tau) ** 2, dim=1)
    return F.threshold(weights, 1e-18, 0.0)


def _neighbours(crop: LesionCrop, offsets: Sequence[Offset]) -> Tensor:
    """Row number of every masked voxel's neighbour, ahead and behind: (2, N, directions); N where there is none."""
    reach = [max(abs(offset[axis]) for offset in offsets) for axis in range(3)]
    padded = F.pad(crop.inside, (reach[2], reach[2], reach[1], reach[1], reach[0], reach[0]))
    position = padded.flatten().nonzero()[:, 0]
    count = len(position)
    row = torch.full((padded.numel(),), count, device=position.device)
    row[position] = torch.arange(count, device=position.device)
    stride = torch.tensor(padded.stride(), device=position.device)
    step = (torch.tensor(offsets, device=position.device) * stride).sum(1)
    return torch.stack([row[position[:, None] + step], row[position[:, None] - step]])


def _distribution(values: Tensor, neighbours: Tensor, centres: Tensor, tau: float) -> Tensor:
    """P of eq. 8 for each direction, (directions, K, K); zeros for a direction without pairs."""
    counts = _PairCounts.apply(soft_bins(values, centres, tau), neighbours)
    pairs = (neighbours[0] < len(values)).sum(0)  # the sum of C, because each row of soft bins sums to 1
    return counts / pairs.clamp(min=1)[:, None, None]


class _PairCounts(torch.autograd.Function):
    """C_dij = sum_p w_pi w_n(p,d)j from soft bins (N, K) and neighbours (2, N, directions): (directions, K, K).

    Written by hand because the backward of a gather is a scatter, slow on a CPU and of random order on a GPU. Here it
    is a second gather, from the neighbours behind, and only the soft bins are kept.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, neighbours: Tensor) -> Tensor:
        ctx.save_for_backward(weights, neighbours)
        bins, directions = weights.shape[1], neighbours.shape[2]
        counts = weights.T @ _gather(weights, neighbours[0])
        return counts.view(bins, directions, bins).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weights, neighbours = ctx.saved_tensors
        bins = weights.shape[1]
        with torch.autocast(weights.device.type, enabled=False):
            ahead = _gather(weights, neighbours[0]) @ grad.mT.reshape(-1, bins)
            behind = _gather(weights, neighbours[1]) @ grad.reshape(-1, bins)
        return ahead + behind, None


def _gather(weights: Tensor, rows: Tensor) -> Tensor:
    """Soft bins of each voxel's neighbours side by side, (N, directions * K); row N, no neighbour, is zero."""
    return (
        F.pad(weights, (0, 0, 0, 1)).index_select(0, rows.flatten()).view(len(rows), rows.shape[1] * weights.shape[1])
    )
