"""Encoder and decoder of both autoencoders, and what the two have in common."""

import math
from collections.abc import Callable
from itertools import pairwise

from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.networks.blocks import Conv3d, downsample, level, norm_layer, upsample
from autoencoder.networks.haar import HaarTransform3D
from autoencoder.networks.presets import Norm, Stem

STEM_CHANNELS = 8  # sub-bands of the 3D Haar transform


class Checkpointed(nn.Module):
    """Runs its levels so that Diffusers' `enable_gradient_checkpointing` can trade time for memory."""

    _gradient_checkpointing_func: Callable[[nn.Module, Tensor], Tensor]  # set by Diffusers

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def run(self, blocks: nn.Module, h: Tensor) -> Tensor:
        """blocks(h), remembering only h for the backward pass if checkpointing is on."""
        if self.gradient_checkpointing and h.requires_grad:
            return self._gradient_checkpointing_func(blocks, h)
        return blocks(h)


class Encoder(Checkpointed):
    """ct_norm -> latent's parameters. Widths are those of the levels at 1/2, 1/4, ... of the resolution."""

    def __init__(
        self, channels: tuple[int, ...], blocks: int, out_channels: int, stem: Stem, norm: Norm, attention: bool
    ) -> None:
        super().__init__()
        self.stem: nn.Module = HaarTransform3D() if stem == "haar" else Conv3d(1, STEM_CHANNELS, 2, stride=2)
        self.conv_in = Conv3d(STEM_CHANNELS, channels[0], 3, padding=1)
        lowest = len(channels) - 1
        self.levels = nn.ModuleList(
            [level(width, blocks, norm, attention and i == lowest) for i, width in enumerate(channels)]
        )
        self.down = nn.ModuleList([downsample(a, b) for a, b in pairwise(channels)])
        self.norm_out = norm_layer(norm, channels[-1])
        self.conv_out = Conv3d(channels[-1], out_channels, 3, padding=1)

    def forward(self, ct_norm: Tensor) -> Tensor:
        h = self.conv_in(self.stem(ct_norm))
        for index, blocks in enumerate(self.levels):
            h = self.run(blocks, self.down[index - 1](h) if index else h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(Checkpointed):
    """latent -> ct_norm; the encoder mirrored."""

    def __init__(
        self, channels: tuple[int, ...], blocks: int, in_channels: int, stem: Stem, norm: Norm, attention: bool
    ) -> None:
        super().__init__()
        self.conv_in = Conv3d(in_channels, channels[-1], 3, padding=1)
        self.levels = nn.ModuleList(
            [level(width, blocks, norm, attention and i == 0) for i, width in enumerate(reversed(channels))]
        )
        self.up = nn.ModuleList([upsample(b, a) for a, b in reversed(list(pairwise(channels)))])
        self.norm_out = norm_layer(norm, channels[0])
        self.conv_out = Conv3d(channels[0], STEM_CHANNELS, 3, padding=1)
        self.stem: nn.Module = (
            HaarTransform3D() if stem == "haar" else nn.ConvTranspose3d(STEM_CHANNELS, 1, 2, stride=2)
        )

    def forward(self, latent: Tensor) -> Tensor:
        h = self.conv_in(latent)
        for index, blocks in enumerate(self.levels):
            h = self.run(blocks, self.up[index - 1](h) if index else h)
        bands = self.conv_out(F.silu(self.norm_out(h)))
        return self.stem.inverse(bands) if isinstance(self.stem, HaarTransform3D) else self.stem(bands)

    @property
    def last_layer(self) -> Tensor:
        """Weights of the last convolution, at which the losses' gradients are compared (Esser et al. 2021, eq. 7)."""
        return self.conv_out.weight


class Autoencoder3D(ModelMixin, ConfigMixin):
    """What `AutoencoderKL3D` and `VQAutoencoder3D` have in common; the arguments are told there."""

    _supports_gradient_checkpointing = True
    gives_gradients = True  # a service does not
    encoder: Encoder
    decoder: Decoder

    def build(
        self,
        channels: tuple[int, ...],
        blocks: int,
        moments: int,
        latent_channels: int,
        stem: Stem,
        norm: Norm,
        attention: bool,
    ) -> None:
        """Make encoder and decoder; the encoder ends in `moments * latent_channels`.

        Raises: ValueError: If `stem` or `norm` is unknown or `channels` is empty.
        """
        for name, value, known in (("stem", stem, ("haar", "conv")), ("norm", norm, ("voxel_rms", "group"))):
            if value not in known:
                raise ValueError(f'{name} "{value}" is unknown; choose "{known[0]}" or "{known[1]}"')
        if not channels:
            raise ValueError("channels is empty; give one width per factor of two, for example (32, 96) for factor 4")
        channels = tuple(channels)
        self.encoder = Encoder(channels, blocks, moments * latent_channels, stem, norm, attention)
        self.decoder = Decoder(channels, blocks, latent_channels, stem, norm, attention)

    @property
    def factor(self) -> int:
        """Voxels per latent cell along each axis."""
        return 2 ** len(self.config["channels"])

    @property
    def is_local(self) -> bool:
        """Whether a window with margin encodes and decodes as in the whole: no statistics or attention over space."""
        return self.config["norm"] == "voxel_rms" and not self.config["mid_attention"]

    @property
    def decoder_margin(self) -> int:
        """Latent cells by which a window must be larger on every side so that its middle decodes as in the whole.

        A 3x3x3 convolution reaches one cell of its own level, a residual block two; one cell of level l (0 is the
        latent's) is 2 ** -l latent cells.
        """
        count, blocks = len(self.config["channels"]), self.config["blocks_per_level"]
        return math.ceil(1 + sum(2 * blocks / 2**level for level in range(count)) + 1 / 2 ** (count - 1))

    @property
    def encoder_margin(self) -> int:
        """The same for encoding, in latent cells: the encoder is the decoder mirrored."""
        return self.decoder_margin

    def latent_shape(self, ct_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(B, 1, D, H, W) of the CT -> (B, C, d, h, w) of its latent."""
        return (ct_shape[0], self.config["latent_channels"], *[size // self.factor for size in ct_shape[2:]])

    def check_ct(self, sample: Tensor) -> None:
        """Raises ValueError: If this is not (B, 1, D, H, W) with D, H, W divisible by the factor."""
        if sample.ndim != 5 or sample.shape[1] != 1 or any(size % self.factor for size in sample.shape[2:]):
            raise ValueError(
                f"encode: shape {tuple(sample.shape)}, expected (B, 1, D, H, W) with D, H, W divisible by "
                f"{self.factor}; pad or crop the volume"
            )

    def check_latent(self, z: Tensor) -> None:
        """Raises ValueError: If this is not (B, latent_channels, d, h, w)."""
        if z.ndim != 5 or z.shape[1] != self.config["latent_channels"]:
            raise ValueError(f"decode: shape {tuple(z.shape)}, expected (B, {self.config['latent_channels']}, d, h, w)")
