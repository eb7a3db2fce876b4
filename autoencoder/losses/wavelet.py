"""Wavelet texture loss (eq. 10-11) and the differentiable wavelet transform under it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import pywt
import torch
from torch import Tensor

from autoencoder.losses.lesion_box import Reduction, lesion_crops, reduce_samples

Transform = Literal["triplanar", "volume"]
TRANSFORM_AXES = {"triplanar": ((-2, -1), (-3, -1), (-3, -2)), "volume": ((-3, -2, -1),)}


def dwtn(
    x: Tensor, wavelet: str = "haar", axes: Sequence[int] = (-3, -2, -1), mode: str = "symmetric"
) -> dict[str, Tensor]:
    """One level of the separable wavelet transform, with the coefficients and keys of `pywt.dwtn`.

    Along an axis of n voxels the transform is an (n_out, n) matrix, which PyWavelets itself gives when it transforms
    the identity; so every filter and every boundary mode agrees, and gradients come from a matrix product.

    Args:
        x: Real tensor of any shape.
        wavelet: Name of a discrete wavelet of PyWavelets.
        axes: Axes to transform; two for the slices of a plane, three for a volume.
        mode: Boundary extension, by its name in PyWavelets.
    Returns: Sub-bands by key, a letter per axis: "a" low-pass, "d" high-pass; "ad" is low along axes[0].
    Raises: ValueError: For a wavelet or mode that PyWavelets does not know.
    """
    bands = {"": x}
    for axis in axes:
        matrices = [torch.as_tensor(m, dtype=x.dtype, device=x.device) for m in _matrices(x.shape[axis], wavelet, mode)]
        bands = {
            key + letter: _along(axis, matrix, band)
            for key, band in bands.items()
            for letter, matrix in zip("ad", matrices, strict=True)
        }
    return bands


def wavelet_texture_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    eps: float = 1e-3,
    wavelet: str = "haar",
    *,
    transform: Transform = "triplanar",
    reduction: Reduction = "mean",
) -> Tensor:
    """High-frequency wavelet error, heavier where the real image has texture (eq. 10-11).

    R = sum_b |W_b(y)|^2 / max(sum_b |W_b(y)|^2) from the real image y, with its maximum over one sample's plane or
    volume; loss = mean over coefficients of sum_b (alpha + beta R) rho(W_b(x) - W_b(y)), rho(z) = sqrt(z^2 + eps^2),
    where b runs over the high-frequency sub-bands: LH, HL and HH of each 2D slice, or all but LLL of the volume. As
    rho(0) = eps, equal images have a loss of eps times the mean weight, not zero.

    With a mask, both images are reduced by the real lesion's mean and set to zero outside before the transform, so
    that nothing outside has any influence and the mask's rim does not pass for texture; the mean is taken over the
    coefficients whose filter meets the mask, and only the lesion's box is transformed.

    Args:
        pred: Prediction x, (B, C, D, H, W), ct_norm. Computed in float32 (float64 if given) also in autocast.
        target: Real image y, same shape; gets no gradient.
        mask: Voxels that count (a lesion or valid mask), (B, 1, D, H, W); None counts all. Empty gives 0.
        alpha: Weight of every high-frequency coefficient.
        beta: Additional weight where the real image's texture is strongest (R = 1).
        eps: Width of the smooth minimum of rho, ct_norm.
        wavelet: Name of a discrete wavelet of PyWavelets.
        transform: "triplanar" averages 2D transforms of the xy, xz and yz slices, in 2D as in the texture-loss
            proposal; "volume" is one 3D transform, with 7 sub-bands.
        reduction: "mean" over samples, or "none" for one value each, (B,).
    Returns: Scalar or (B,), ct_norm.
    Raises: ValueError: If a shape or an option does not fit.
    """
    if eps <= 0:
        raise ValueError(f"eps {eps}: expected above 0, since rho has no derivative at 0 without it")
    if transform not in get_args(Transform):
        raise ValueError(f"transform {transform!r}: expected one of {get_args(Transform)}")
    everything = torch.ones_like(target[:, :1], dtype=torch.bool) if mask is None else mask
    margin = pywt.Wavelet(wavelet).dec_len  # coefficients that meet the mask see only voxels this near
    with torch.autocast(pred.device.type, enabled=False):
        losses = []
        for crop in lesion_crops(pred, target, everything, margin=margin, multiple=2):
            inside = crop.inside
            mean = torch.where(inside, crop.target, 0).sum((1, 2, 3), keepdim=True) / inside.sum().clamp(min=1)
            centred = torch.where(inside, crop.target - mean, 0)
            diff = torch.where(inside, crop.pred - crop.target, 0)
            planes = [
                _plane_loss(diff, centred, inside, axes, alpha, beta, eps, wavelet)
                for axes in TRANSFORM_AXES[transform]
            ]
            losses.append(torch.stack(planes).mean())
        return reduce_samples(losses, reduction)


def _plane_loss(
    diff: Tensor,
    target: Tensor,
    inside: Tensor,
    axes: tuple[int, ...],
    alpha: float,
    beta: float,
    eps: float,
    wavelet: str,
) -> Tensor:
    """Eq. 10-11 of one sample over the slices along two axes, or the volume along three: scalar."""
    low = "a" * len(axes)
    # W(x) - W(y) = W(x - y)
    errors = [torch.sqrt(w.square() + eps**2) for band, w in dwtn(diff, wavelet, axes).items() if band != low]
    energies = [w.square() for band, w in dwtn(target, wavelet, axes).items() if band != low]
    energy = torch.stack(energies).sum(0)
    R = energy / energy.max().clamp(min=torch.finfo(energy.dtype).tiny)
    weighted = (alpha + beta * R) * torch.stack(errors).sum(0)
    meets = inside.to(weighted.dtype)
    for axis in axes:
        support = np.abs(_matrices(inside.shape[axis], wavelet, "symmetric")).sum(0) > 1e-12
        meets = _along(axis, torch.as_tensor(support, dtype=meets.dtype, device=meets.device), meets)
    counted = (meets > 0.5).to(weighted.dtype)
    return (weighted * counted).sum() / (len(diff) * counted.sum().clamp(min=1))


def _along(axis: int, matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply one axis of x by a matrix (n_out, n)."""
    return (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


@lru_cache(maxsize=256)
def _matrices(size: int, wavelet: str, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Low-pass and high-pass transform of `size` voxels, each (n_out, size)."""
    low, high = pywt.dwt(np.eye(size), wavelet, mode, axis=0)
    return low, high
