"""Orthonormal 3D Haar transform: the stem that halves the resolution without losing or learning anything."""

import numpy as np
import pywt
import torch
from torch import Tensor, nn


def haar_matrix() -> Tensor:
    """8x8 orthonormal matrix: row = sub-band (aaa, aad, ada, ... ddd in z, y, x), column = voxel of a 2x2x2 cube.

    The filters are those of PyWavelets (`pywt.Wavelet("haar")`); a row is their outer product over z, y, x.
    """
    wavelet = pywt.Wavelet("haar")
    filters = np.stack([wavelet.dec_lo[::-1], wavelet.dec_hi[::-1]])  # reversed: correlation, not convolution
    matrix = np.einsum("ai,bj,ck->abcijk", filters, filters, filters).reshape(8, 8)
    return torch.tensor(matrix, dtype=torch.float32)


class HaarTransform3D(nn.Module):
    """One level of the 3D Haar wavelet transform and its exact inverse; no parameters.

    Equals `pywt.dwtn(x, "haar")` on even sizes; the sub-bands become channels, channel c of the input giving the
    channels 8c ... 8c + 7 in the order of :func:`haar_matrix`.
    """

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", haar_matrix(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) with even D, H, W -> (B, 8C, D/2, H/2, W/2). Raises ValueError on odd sizes."""
        B, C, D, H, W = x.shape
        if D % 2 or H % 2 or W % 2:
            raise ValueError(f"Haar transform: size {(D, H, W)} is odd somewhere; pad or crop to even sizes")
        cubes = x.reshape(B, C, D // 2, 2, H // 2, 2, W // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        cubes = cubes.reshape(B, C, 8, D // 2 * (H // 2) * (W // 2))
        bands = torch.matmul(self.matrix.to(x.dtype), cubes)
        return bands.reshape(B, 8 * C, D // 2, H // 2, W // 2)

    def inverse(self, bands: Tensor) -> Tensor:
        """(B, 8C, D, H, W) -> (B, C, 2D, 2H, 2W)."""
        B, C8, D, H, W = bands.shape
        cubes = torch.matmul(self.matrix.T.to(bands.dtype), bands.reshape(B, C8 // 8, 8, D * H * W))
        cubes = cubes.reshape(B, C8 // 8, 2, 2, 2, D, H, W).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return cubes.reshape(B, C8 // 8, 2 * D, 2 * H, 2 * W)
