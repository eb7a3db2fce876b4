"""Building blocks shared by the diffusion U-Net and the noisy-latent classifiers."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.networks.blocks import Conv3d

Modulation = tuple[Tensor, Tensor]  # γ and β of one SPADE norm, each (B, C, d, h, w)


def group_count(channels: int) -> int:
    """Largest of 16, 8, 4, 2, 1 groups that divides the channels into groups of two or more.

    A group of one channel would lose the time embedding, which shifts each channel as a whole.
    """
    return next((groups for groups in (16, 8, 4, 2) if channels % groups == 0 and channels > groups), 1)


class SPADE(nn.Module):
    """Spatially adaptive norm: the semantic map says, voxel by voxel, how strong and how bright a feature is.

    Park et al. 2019, eq. 1: (1 + γ) · (h - μ) / σ + β, with μ, σ from group norm and γ, β convolved from the embedded
    map. :meth:`modulation` does not depend on h or t, so sampling computes it once for all steps.
    """

    def __init__(self, channels: int, map_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(group_count(channels), channels, affine=False)
        self.conv = Conv3d(map_channels, 2 * channels, 3, padding=1)

    def modulation(self, embedded_map: Tensor) -> Modulation:
        """Embedded map (B, map_channels, d, h, w) -> (γ, β), each (B, channels, d, h, w)."""
        gamma, beta = self.conv(embedded_map).chunk(2, dim=1)
        return gamma, beta

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        gamma, beta = modulation
        return self.norm(h) * (1 + gamma) + beta


class ResBlock3D(nn.Module):
    """Residual block with time embedding; its two norms are SPADE where `map_channels` is given, else group norm."""

    def __init__(
        self, channels_in: int, channels_out: int, time_channels: int, map_channels: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in, map_channels)
        self.conv1 = Conv3d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(time_channels, channels_out)
        self.norm2 = _norm(channels_out, map_channels)
        self.conv2 = Conv3d(channels_out, channels_out, 3, padding=1)
        self.skip = Conv3d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, h: Tensor, time_embedding: Tensor, modulations: Iterator[Modulation] | None = None) -> Tensor:
        """(B, C_in, d, h, w), (B, time_channels) -> (B, C_out, d, h, w); takes two of `modulations` if SPADE."""
        residual = self.conv1(F.silu(_normalise(self.norm1, h, modulations)))
        residual = residual + self.time(F.silu(time_embedding))[:, :, None, None, None]
        residual = self.conv2(F.silu(_normalise(self.norm2, residual, modulations)))
        return self.skip(h) + residual


class Attention3D(nn.Module):
    """Self-attention over all voxels of a level, with a residual; only for the lowest resolution."""

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = nn.GroupNorm(group_count(channels), channels)
        self.qkv = Conv3d(channels, 3 * channels, 1)
        self.out = Conv3d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, d, h, w) -> same shape."""
        q, k, v = self.qkv(self.norm(h)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return h + self.out(attended.transpose(-1, -2).reshape(h.shape))


def _norm(channels: int, map_channels: int | None) -> nn.Module:
    if map_channels is None:
        return nn.GroupNorm(group_count(channels), channels)
    return SPADE(channels, map_channels)


def _normalise(norm: nn.Module, h: Tensor, modulations: Iterator[Modulation] | None) -> Tensor:
    if isinstance(norm, SPADE):
        if modulations is None:
            raise ValueError("a block with SPADE norms needs the modulation of the semantic map")
        return norm(h, next(modulations))
    return norm(h)
