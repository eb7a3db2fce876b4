"""Building blocks of the autoencoders: local operators by default, so that windows of a volume can be cut exactly."""

import math

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.networks.presets import Norm


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that takes oneDNN for a single volume on a CPU as well; same parameters, same convolution.

    For a batch of one and so few cells as a latent has, PyTorch falls back to im2col, which takes two to four times as
    long from 6³ cells on; below 4³ it is the faster one. This halves the time of sampling one lesion.

    Under autocast on a CPU, an input of depth 2 is convolved in float32: in bf16 oneDNN (with PyTorch 2.15) reads
    memory that nothing was written to, and the weights' gradient is whatever was there.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type == "cpu" and input.shape[-3] == 2 and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                made = super()._conv_forward(input.to(weight.dtype), weight, bias)
            return made.to(torch.get_autocast_dtype("cpu"))
        one_cpu_volume = len(input) == 1 and input.device.type == "cpu" and input.dtype == torch.float32
        if one_cpu_volume and input[0, 0].numel() >= 64 and torch.backends.mkldnn.is_available():
            padding = [int(cells) for cells in self.padding]
            return torch.mkldnn_convolution(input, weight, bias, padding, self.stride, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)


class VoxelRMSNorm(nn.Module):
    """Root-mean-square norm of each voxel over its channels (Zhang & Sennrich 2019), with a learned gain per channel.

    Statistics never mix voxels, unlike group or instance norm: a decoded window equals the window of the full decode.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> same shape."""
        scale = torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + self.eps).to(x.dtype)
        return x * scale * self.gain.to(x.dtype)[:, None, None, None]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """ "voxel_rms", or "group": group norm over space in up to 32 groups, the usual choice, for comparison."""
    return VoxelRMSNorm(channels) if kind == "voxel_rms" else nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two normalised 3x3x3 convolutions beside the identity; receptive field 5 voxels."""

    def __init__(self, channels: int, norm: Norm = "voxel_rms") -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, channels)
        self.conv1 = Conv3d(channels, channels, 3, padding=1)
        self.norm2 = norm_layer(norm, channels)
        self.conv2 = Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # starts as the identity, which lets deep stacks train at once

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class SelfAttention3D(nn.Module):
    """Self-attention over all cells of a volume beside the identity; no local operator, memory is linear in the cells.

    Vaswani et al. 2017, by Diffusers' `Attention`, in heads of up to 64 channels.
    """

    def __init__(self, channels: int, norm: Norm = "voxel_rms") -> None:
        super().__init__()
        self.norm = norm_layer(norm, channels)
        width = math.gcd(64, channels)
        self.attention = Attention(channels, heads=channels // width, dim_head=width, bias=True)
        for parameter in self.attention.to_out[0].parameters():
            nn.init.zeros_(parameter)  # starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> same shape."""
        cells = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(cells).transpose(1, 2).reshape(x.shape)


def level(channels: int, blocks: int, norm: Norm = "voxel_rms", attention: bool = False) -> nn.Sequential:
    """`blocks` residual blocks of one width and resolution, with self-attention behind them if asked for."""
    layers: list[nn.Module] = [ResBlock(channels, norm) for _ in range(blocks)]
    return nn.Sequential(*layers, *[SelfAttention3D(channels, norm)] * attention)


def downsample(channels_in: int, channels_out: int) -> nn.Conv3d:
    """Halves D, H, W: each output voxel sees its own 2x2x2 cube only."""
    return nn.Conv3d(channels_in, channels_out, 2, stride=2)


def upsample(channels_in: int, channels_out: int) -> nn.ConvTranspose3d:
    """Doubles D, H, W: each input voxel fills its own 2x2x2 cube."""
    return nn.ConvTranspose3d(channels_in, channels_out, 2, stride=2)
