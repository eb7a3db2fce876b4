"""Stage 1: the KL autoencoder between windowed CT and latent."""

import math
from itertools import pairwise
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.blocks import Conv3d, VoxelRMSNorm, downsample, level, upsample
from autoencoder.haar import HaarTransform3D


class Encoder(nn.Module):
    """ct_norm -> parameters of the posterior. Widths are those of the levels at 1/2, 1/4, ... of the resolution."""

    def __init__(self, channels: tuple[int, ...], blocks: int, out_channels: int, stem: str) -> None:
        super().__init__()
        self.stem: nn.Module = HaarTransform3D() if stem == "haar" else Conv3d(1, 8, 2, stride=2)
        self.conv_in = Conv3d(8, channels[0], 3, padding=1)
        self.levels = nn.ModuleList([level(width, blocks) for width in channels])
        self.down = nn.ModuleList([downsample(a, b) for a, b in pairwise(channels)])
        self.norm_out = VoxelRMSNorm(channels[-1])
        self.conv_out = Conv3d(channels[-1], out_channels, 3, padding=1)

    def forward(self, ct_norm: Tensor) -> Tensor:
        h = self.conv_in(self.stem(ct_norm))
        for index, blocks in enumerate(self.levels):
            h = blocks(self.down[index - 1](h) if index else h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """latent -> ct_norm; the encoder mirrored."""

    def __init__(self, channels: tuple[int, ...], blocks: int, in_channels: int, stem: str) -> None:
        super().__init__()
        self.conv_in = Conv3d(in_channels, channels[-1], 3, padding=1)
        self.levels = nn.ModuleList([level(width, blocks) for width in reversed(channels)])
        self.up = nn.ModuleList([upsample(b, a) for a, b in reversed(list(pairwise(channels)))])
        self.norm_out = VoxelRMSNorm(channels[0])
        self.conv_out = Conv3d(channels[0], 8, 3, padding=1)
        self.stem: nn.Module = HaarTransform3D() if stem == "haar" else nn.ConvTranspose3d(8, 1, 2, stride=2)

    def forward(self, latent: Tensor) -> Tensor:
        h = self.conv_in(latent)
        for index, blocks in enumerate(self.levels):
            h = blocks(self.up[index - 1](h) if index else h)
        bands = self.conv_out(F.silu(self.norm_out(h)))
        return self.stem.inverse(bands) if isinstance(self.stem, HaarTransform3D) else self.stem(bands)


class AutoencoderKL3D(ModelMixin, ConfigMixin):
    """3D variational autoencoder with the interface of Diffusers' `AutoencoderKL`.

    The first factor of two is an orthonormal Haar transform, so no convolution runs at full resolution; every norm is
    per voxel, so encoder and decoder are local operators (a window with margin equals the window of the whole).

    Args:
        channels: Width of each level, at 1/2, 1/4, ... of the resolution; the factor is 2 ** len(channels).
        blocks_per_level: Residual blocks at each level, in the encoder and in the decoder.
        latent_channels: Channels of the latent.
        stem: "haar", or "conv" for a learned stride-2 convolution in its place.
        window_width, window_level: The HU window that `ct_norm` = [-1, 1] stands for.
        latents_mean, latents_std: Per channel, measured on the training set by `encode_latents` (the Diffusers
            convention); None until then. The diffusion model works on (latent - mean) / std.
    Raises: ValueError: If `stem` is unknown or `channels` is empty.
    """

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (32, 96),
        blocks_per_level: int = 2,
        latent_channels: int = 4,
        stem: str = "haar",
        window_width: float = 1500.0,
        window_level: float = -400.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if stem not in ("haar", "conv"):
            raise ValueError(f'stem "{stem}" is unknown; choose "haar" or "conv"')
        if not channels:
            raise ValueError("channels is empty; give one width per factor of two, for example (32, 96) for factor 4")
        channels = tuple(channels)
        self.encoder = Encoder(channels, blocks_per_level, 2 * latent_channels, stem)
        self.decoder = Decoder(channels, blocks_per_level, latent_channels, stem)

    @property
    def factor(self) -> int:
        """Voxels per latent cell along each axis."""
        return 2 ** len(self.config["channels"])

    @property
    def decoder_margin(self) -> int:
        """Latent cells by which a window must be larger on every side so that its middle decodes as in the whole.

        A 3x3x3 convolution reaches one cell of its own level, a residual block two; one cell of level l (0 is the
        latent's) is 2 ** -l latent cells.
        """
        count, blocks = len(self.config["channels"]), self.config["blocks_per_level"]
        return math.ceil(1 + sum(2 * blocks / 2**level for level in range(count)) + 1 / 2 ** (count - 1))

    def encode(self, sample: Tensor, return_dict: bool = True) -> Any:
        """Posterior of the latent.

        Args:
            sample: ct_norm, (B, 1, D, H, W), each of D, H, W divisible by `factor`.
        Returns: `AutoencoderKLOutput` whose `latent_dist` has `mean`, `std`, `sample()`, `mode()`, each
            (B, latent_channels, D/f, H/f, W/f); or a tuple of it.
        Raises: ValueError: If a size is not divisible by the factor, or the input has not one channel.
        """
        if sample.ndim != 5 or sample.shape[1] != 1 or any(size % self.factor for size in sample.shape[2:]):
            raise ValueError(
                f"encode: shape {tuple(sample.shape)}, expected (B, 1, D, H, W) with D, H, W divisible by "
                f"{self.factor}; pad or crop the volume"
            )
        posterior = DiagonalGaussianDistribution(self.encoder(sample))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """latent (B, latent_channels, d, h, w) -> `DecoderOutput.sample`, ct_norm (B, 1, fd, fh, fw)."""
        ct_norm = self.decoder(z)
        return DecoderOutput(sample=ct_norm) if return_dict else (ct_norm,)

    def forward(self, sample: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw the latent and decode; what training calls.

        Args:
            sample: ct_norm, (B, 1, D, H, W).
            noise: Standard normal, of the latent's shape, for the reparametrised draw; None takes the mean.
        Returns: (reconstruction, posterior mean, posterior log-variance).
        """
        posterior = self.encode(sample).latent_dist
        latent = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return self.decode(latent).sample, posterior.mean, posterior.logvar

    def latent_shape(self, ct_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(B, 1, D, H, W) of the CT -> (B, C, d, h, w) of its latent."""
        return (ct_shape[0], self.config["latent_channels"], *[size // self.factor for size in ct_shape[2:]])
