"""The attribute classifier that reads noisy latents: the encoder half of a U-Net, with the timestep."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.aligned_model import AlignedModel
from diffusion.blocks import Attention3D, ResBlock3D, group_count


class NoduleClassifier3D(AlignedModel, ModelMixin, ConfigMixin):
    """p(attribute | x_t, t) of the nodule at the mask, for every attribute it was trained on.

    LSDM (METHODS.md B) on the noisy latent instead of the decoded crop: the encoder half and the middle block without
    SPADE, pooling, and one linear head per attribute. The pooling looks at the mask's cells as well as at the whole.

    Args:
        classes: Attribute -> its classes in order, for example {"malignancy": ["benign", "malignant"]}.
        latent_channels: Channels of the latent.
        channels: Width of each level, finest first.
        blocks_per_level: Residual blocks at each level.
        dropout: On the pooled features.
    Raises: ValueError: If there is no attribute, or one with fewer than two classes.
    """

    @register_to_config
    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        latent_channels: int = 4,
        channels: tuple[int, ...] = (32, 64, 128),
        blocks_per_level: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not classes or any(len(names) < 2 for names in classes.values()):
            raise ValueError(f"classes {dict(classes)}: expected at least one attribute with two classes or more")
        time_channels = 4 * channels[0]
        self.time_features = Timesteps(channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(channels[0], time_channels)
        self.conv_in = nn.Conv3d(latent_channels + 1, channels[0], 3, padding=1)
        self.levels = nn.ModuleList(
            [nn.ModuleList([ResBlock3D(w, w, time_channels) for _ in range(blocks_per_level)]) for w in channels]
        )
        self.down = nn.ModuleList([nn.Conv3d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels)])
        self.middle_attention = Attention3D(channels[-1])
        self.middle = ResBlock3D(channels[-1], channels[-1], time_channels)
        self.norm_out = nn.GroupNorm(group_count(channels[-1]), channels[-1])
        self.dropout_out = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * channels[-1], len(names)) for name, names in classes.items()})

    def forward(self, noisy_latent: Tensor, timestep: Tensor | float, coverage: Tensor) -> dict[str, Tensor]:
        """Logits of every attribute.

        Args:
            noisy_latent: x_t, (B, C, d, h, w), standardised.
            timestep: (B,) or scalar, 0 clean.
            coverage: Fraction of each cell the lesion mask covers, (B, 1, d, h, w).
        Returns: Attribute -> logits (B, number of classes).
        """
        timestep = torch.as_tensor(timestep, device=noisy_latent.device).expand(noisy_latent.shape[0])
        t = self.time_embedding(self.time_features(timestep).to(noisy_latent.dtype))
        h = self.conv_in(torch.cat([noisy_latent, coverage.to(noisy_latent)], dim=1))
        for index, blocks in enumerate(self.levels):
            h = self.down[index - 1](h) if index else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, t)
        h = F.silu(self.norm_out(self.middle(self.middle_attention(h), t)))
        weight = F.interpolate(coverage.to(h), size=h.shape[2:], mode="area") + 1e-6
        at_lesion = (h * weight).sum(dim=(2, 3, 4)) / weight.sum(dim=(2, 3, 4))
        pooled = self.dropout_out(torch.cat([at_lesion, h.mean(dim=(2, 3, 4))], dim=1))
        return {name: head(pooled) for name, head in self.heads.items()}
