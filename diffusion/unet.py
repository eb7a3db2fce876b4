"""Stage 2: the denoising 3D U-Net whose every residual block is modulated by the semantic map."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.aligned_model import AlignedModel
from autoencoder.networks.blocks import Conv3d
from diffusion.attributes import AttributeEmbedding
from diffusion.blocks import SPADE, Attention3D, Modulation, ResBlock3D, group_count

TRAINING_STEPS = 1000


class SPADEUNet3D(AlignedModel, ModelMixin, ConfigMixin):
    """Denoiser of the latent, conditioned by concatenation (blanked CT, masks), SPADE (map) and requested attributes.

    LSDM (docs/references.md) in 3D. The semantic map enters as one-hot channels. They are max-pooled to the resolution
    of each level, so that a small lesion never vanishes.

    Args:
        latent_channels: Channels of the latent, which the network predicts.
        condition_channels: Channels concatenated to the noisy latent, see `diffusion.conditioning.condition_channels`.
        num_labels: Labels of the semantic map, 0 ... num_labels - 1; 2 means background and lesion.
        map_factor: Voxels of the map per latent cell along each axis: the autoencoder's factor.
        map_channels: Width of the embedded map; 0 leaves SPADE out, and only the concatenated masks show the lesion.
        channels: Width of each level, finest first.
        blocks_per_level: Residual blocks at each level of either half.
        attention: Whether the lowest level attends over all its voxels.
        attributes: Attributes that can be requested, keys of `diffusion.attributes.SCALES`.
        scaled_input: Whether the noisy latent is multiplied by `input_scale`, a buffer with one value per training
            step. Training sets it to √ᾱ. Without it, noise leaks into the prediction where there is nothing but noise.
    Raises: ValueError: If there are fewer than two labels, no level, or an attribute is unknown.
    Examples:
        >>> unet = SPADEUNet3D(channels=(8, 16), blocks_per_level=1, map_channels=4)
        >>> noisy, condition = torch.randn(1, 4, 4, 4, 4), torch.zeros(1, 14, 4, 4, 4)
        >>> semantic_map = torch.zeros(1, 1, 16, 16, 16, dtype=torch.long)  # at the CT's resolution
        >>> with torch.no_grad():
        ...     modulation = unet.modulate(semantic_map)  # once, for all steps
        ...     output = unet(torch.cat([noisy, condition], 1), torch.tensor([500]), modulation=modulation).sample
        >>> tuple(output.shape)
        (1, 4, 4, 4, 4)
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        condition_channels: int = 14,
        num_labels: int = 2,
        map_factor: int = 4,
        map_channels: int = 32,
        channels: tuple[int, ...] = (64, 128, 192),
        blocks_per_level: int = 2,
        attention: bool = True,
        attributes: tuple[str, ...] = (),
        scaled_input: bool = False,
    ) -> None:
        super().__init__()
        if num_labels < 2 or not channels:
            raise ValueError(f"num_labels {num_labels} (at least 2), channels {channels} (at least one level)")
        channels = tuple(channels)
        time_channels = 4 * channels[0]
        self.time_features = Timesteps(channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(channels[0], time_channels)
        self.attribute_embedding = AttributeEmbedding(attributes, time_channels) if attributes else None
        embeddings = [Conv3d(num_labels, map_channels, 3, padding=1) for _ in channels] if map_channels else []
        self.map_embedding = nn.ModuleList(embeddings)

        def block(channels_in: int, channels_out: int) -> ResBlock3D:
            return ResBlock3D(channels_in, channels_out, time_channels, map_channels or None)

        self.input_scale: Tensor | None
        self.register_buffer("input_scale", torch.ones(TRAINING_STEPS) if scaled_input else None)
        self.conv_in = Conv3d(latent_channels + condition_channels, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            [nn.ModuleList([block(width, width) for _ in range(blocks_per_level)]) for width in channels]
        )
        self.down = nn.ModuleList([Conv3d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels)])
        self.middle = nn.ModuleList([block(channels[-1], channels[-1]) for _ in range(2)])
        self.middle_attention = Attention3D(channels[-1]) if attention else nn.Identity()
        self.decoder = nn.ModuleList(  # each block takes the skip of its mirror image, concatenated
            [nn.ModuleList([block(2 * width, width) for _ in range(blocks_per_level)]) for width in reversed(channels)]
        )
        self.up = nn.ModuleList([Conv3d(b, a, 3, padding=1) for a, b in reversed(list(pairwise(channels)))])
        self.norm_out = nn.GroupNorm(group_count(channels[0]), channels[0])
        self.conv_out = Conv3d(channels[0], latent_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    @property
    def size_multiple(self) -> int:
        """D, H and W of the CT crop must be multiples of this."""
        return self.config["map_factor"] * 2 ** (len(self.config["channels"]) - 1)

    def modulate(self, semantic_map: Tensor) -> list[Modulation]:
        """γ and β of every SPADE norm, in the order of use; independent of timestep and noisy latent.

        Args:
            semantic_map: Labels, integer (B, 1, D, H, W) at the CT's resolution.
        Raises: ValueError: If a label is outside 0 ... num_labels - 1 or a size no multiple of `size_multiple`.
        """
        labels, size = self.config["num_labels"], semantic_map.shape[2:]
        if semantic_map.ndim != 5 or any(edge % self.size_multiple for edge in size):
            raise ValueError(
                f"semantic_map of shape {tuple(semantic_map.shape)}: expected (B, 1, D, H, W) with D, H, W "
                f"multiples of {self.size_multiple}; choose another crop size"
            )
        low, high = int(semantic_map.min()), int(semantic_map.max())
        if low < 0 or high >= labels:
            raise ValueError(f"semantic_map has labels {low} ... {high}, the model knows 0 ... {labels - 1}")
        present = 1 << semantic_map.long()  # one bit a label; a cell has the bits of its voxels
        numbers = torch.arange(labels, device=present.device).view(1, -1, 1, 1, 1)
        embedded = []
        for index, conv in enumerate(self.map_embedding):
            present = _joined_bits(present, self.config["map_factor"] if index == 0 else 2)
            one_hot = (present >> numbers & 1).to(self.conv_in.weight.dtype)
            embedded.append(F.silu(conv(one_hot)))
        return [
            norm.modulation(embedded[level])
            for level, block in self._blocks()
            for norm in (block.norm1, block.norm2)
            if isinstance(norm, SPADE)
        ]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        semantic_map: Tensor | None = None,
        modulation: Sequence[Modulation] | None = None,
        attributes: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Predict the training target (ε, v or x0) for a noisy latent.

        Args:
            sample: Noisy latent and conditions concatenated, (B, latent_channels + condition_channels, d, h, w).
            timestep: (B,) or scalar, 0 clean.
            semantic_map: Labels (B, 1, D, H, W); not needed where `modulation` is given.
            modulation: Result of :meth:`modulate` for this map, to be reused over the steps.
            attributes: In their units, (B, number of attributes), NaN where unknown; None knows none.
        Returns: `UNet3DConditionOutput.sample`, (B, latent_channels, d, h, w), or a tuple of it.
        Raises: ValueError: If neither map nor modulation is given, or attributes are not those of the config.
        """
        if modulation is None:
            if semantic_map is None:
                raise ValueError("give semantic_map, or modulation = unet.modulate(semantic_map)")
            modulation = self.modulate(semantic_map)
        modulations = iter(modulation)
        B = sample.shape[0]
        timestep = torch.as_tensor(timestep, device=sample.device).expand(B)
        t = self.time_embedding(self.time_features(timestep).to(sample.dtype))

        if self.attribute_embedding is not None:
            count = len(self.config["attributes"])
            attributes = t.new_full((B, count), torch.nan) if attributes is None else attributes
            if attributes.shape != (B, count):
                raise ValueError(f"attributes of shape {tuple(attributes.shape)}, expected {(B, count)}")
            t = t + self.attribute_embedding(attributes)
        elif attributes is not None:
            raise ValueError("this model has no attributes; train one with model.attributes, or pass None")

        h, skips = self.conv_in(self._scaled(sample, timestep)), []
        for index, blocks in enumerate(self.encoder):
            h = self.down[index - 1](h) if index else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, t, modulations)
                skips.append(h)
        h = self.middle[0](h, t, modulations)
        h = self.middle[1](self.middle_attention(h), t, modulations)
        for index, blocks in enumerate(self.decoder):
            h = self.up[index - 1](F.interpolate(h, scale_factor=2.0, mode="nearest")) if index else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(torch.cat([h, skips.pop()], dim=1), t, modulations)
        out = self.conv_out(F.silu(self.norm_out(h)))
        return UNet3DConditionOutput(sample=out) if return_dict else (out,)

    def _scaled(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The sample with its noisy latent multiplied by `input_scale` at the time, linear between the steps."""
        if self.input_scale is None:
            return sample
        place = timestep.to(self.input_scale).clamp(0, len(self.input_scale) - 1)
        before = place.long()
        after = (before + 1).clamp(max=len(self.input_scale) - 1)
        scale = torch.lerp(self.input_scale[before], self.input_scale[after], place - before).view(-1, 1, 1, 1, 1)
        noisy, condition = sample.split([self.config["latent_channels"], self.config["condition_channels"]], dim=1)
        return torch.cat([noisy * scale.to(noisy), condition], dim=1)

    def _blocks(self) -> list[tuple[int, ResBlock3D]]:
        """(level, block) in the order of `forward`."""
        lowest = len(self.encoder) - 1
        encoder = [(level, block) for level, blocks in enumerate(self.encoder) for block in blocks]  # type: ignore[attr-defined]
        middle = [(lowest, block) for block in self.middle]
        decoder = [(lowest - i, block) for i, blocks in enumerate(self.decoder) for block in blocks]  # type: ignore[attr-defined]
        return encoder + middle + decoder


def _joined_bits(bits: Tensor, factor: int) -> Tensor:
    """Bitwise or over blocks of factor³ voxels, (B, 1, D, H, W): the max-pooling of all one-hot channels at once."""
    for axis in (2, 3, 4):
        parts = bits.unflatten(axis, (-1, factor)).unbind(axis + 1)
        bits = parts[0]
        for part in parts[1:]:
            bits = bits | part
    return bits
