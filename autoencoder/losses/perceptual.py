"""LPIPS of volumes: the distance of random slices in the three planes, by a network for photographs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_SIDE = 64  # slices are enlarged to this many pixels at least: AlexNet halves them five times


def lpips_loss(network: nn.Module, pred: Tensor, target: Tensor, positions: Tensor) -> Tensor:
    """Mean LPIPS of one axial, one coronal and one sagittal slice of each volume (Zhang et al. 2018).

    Args:
        network: `lpips.LPIPS`, frozen, in eval mode; (N, 3, S, T) in [-1, 1] twice -> (N, 1, 1, 1).
        pred: ct_norm, (B, 1, D, H, W). Where padding is to have no influence, make it equal to the target's first.
        target: Same shape.
        positions: (B, 3) in [0, 1): where along z, y and x each volume is cut.
    Returns: Scalar, 0 for equal volumes.
    Raises: ValueError: If the shapes differ.
    """
    if pred.shape != target.shape:
        raise ValueError(f"shapes differ: {tuple(pred.shape)} and {tuple(target.shape)}; a loss never broadcasts")
    distances = [network(*(_slices(v, axis, positions[:, axis]) for v in (pred, target))) for axis in range(3)]
    return torch.stack([distance.mean() for distance in distances]).mean()


def _slices(volume: Tensor, axis: int, positions: Tensor) -> Tensor:
    """One slice of each volume along an axis, (B, 3, S, T), enlarged where it is small for the network."""
    moved = volume.movedim(2 + axis, 2)
    index = (positions.to(volume.device) * moved.shape[2]).long()
    images = moved[torch.arange(len(moved), device=volume.device), :, index]
    scale = SMALLEST_SIDE / min(images.shape[2:])
    if scale > 1:
        images = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1)
