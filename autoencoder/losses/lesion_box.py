"""What every loss over a lesion needs: each sample's box around its mask in full precision, and one value a sample."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]


class LesionCrop(NamedTuple):
    """One sample cut to the box of its lesion mask.

    Attributes:
        pred: Prediction, (C, d, h, w), float32 (float64 if it was), with the gradient of the whole.
        target: Reference, same shape and type, detached: a loss moves the prediction only.
        inside: Bool mask, (d, h, w).
    """

    pred: Tensor
    target: Tensor
    inside: Tensor


def lesion_crops(
    pred: Tensor, target: Tensor, mask: Tensor, *, margin: int = 0, multiple: int = 1, channels: int | None = None
) -> list[LesionCrop]:
    """Cut each sample of a batch to the smallest box that holds its mask.

    A loss over the lesion then costs what the lesion costs, not what the volume costs. An empty mask gives a box of
    `multiple` voxels with nothing inside, so callers need no special case. The boxes are found with one transfer from
    the device.

    Args:
        pred: Prediction, (B, C, D, H, W), any floating type.
        target: Reference, same shape.
        mask: 1 inside the lesion, (B, 1, D, H, W), any type; above 0.5 counts as inside.
        margin: Voxels added on every side, as far as the volume reaches.
        multiple: Box starts are multiples of this (2 keeps the phase of a wavelet transform).
        channels: Number of channels the loss is defined for; None takes any.
    Returns: One crop per sample, in order.
    Raises: ValueError: If a shape does not fit.
    """
    if pred.ndim != 5 or target.shape != pred.shape:
        raise ValueError(
            f"pred {tuple(pred.shape)} and target {tuple(target.shape)}: expected equal shapes (B, C, D, H, W); "
            "broadcasting would hide a mistake"
        )
    if channels is not None and pred.shape[1] != channels:
        raise ValueError(f"pred {tuple(pred.shape)}: expected {channels} channel(s); decode latents first")
    if mask.shape != (pred.shape[0], 1, *pred.shape[2:]):
        raise ValueError(
            f"mask {tuple(mask.shape)}: expected {(pred.shape[0], 1, *pred.shape[2:])}, one mask per sample; "
            "use mask.expand(...) if all samples share one"
        )
    inside = mask[:, 0] > 0.5
    dtype = torch.float64 if torch.float64 in (pred.dtype, target.dtype) else torch.float32
    columns = inside.any(dim=3)
    profiles = [columns.any(dim=2), columns.any(dim=1), inside.any(dim=1).any(dim=1)]  # lesion at this z, y, x?
    occupied = torch.cat(profiles, dim=1).cpu().split(list(inside.shape[1:]), dim=1)
    crops = []
    for sample in range(len(pred)):
        z, y, x = (_reach(profile[sample], margin, multiple) for profile in occupied)
        pred_box, target_box = (image[sample, :, z, y, x].to(dtype) for image in (pred, target.detach()))
        crops.append(LesionCrop(pred_box, target_box, inside[sample, z, y, x]))
    return crops


def spacing_rows(spacing_mm: Sequence[float] | Tensor, batch: int) -> list[tuple[float, ...]]:
    """One (z, y, x) in mm per sample, from one for all or from (B, 3). Raises ValueError for anything else."""
    spacing = torch.as_tensor(spacing_mm, dtype=torch.float64).cpu()
    if spacing.shape not in ((3,), (batch, 3)) or not bool((spacing > 0).all()):
        raise ValueError(f"spacing_mm {spacing.tolist()}: expected positive (z, y, x) in mm, or one row per sample")
    return [tuple(row) for row in spacing.expand(batch, 3).tolist()]


def reduce_samples(losses: Sequence[Tensor], reduction: Reduction) -> Tensor:
    """Per-sample scalars as their "mean", or ("none") as a (B,) tensor. Raises ValueError for another word."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction {reduction!r}: expected one of {get_args(Reduction)}")
    return torch.stack(list(losses)).mean() if reduction == "mean" else torch.stack(list(losses))


def _reach(occupied: Tensor, margin: int, multiple: int) -> slice:
    index = occupied.nonzero()
    if len(index) == 0:
        return slice(0, multiple)
    start = max(int(index[0]) - margin, 0) // multiple * multiple
    return slice(start, min(int(index[-1]) + 1 + margin, len(occupied)))
