"""The attribute classifier that reads noisy lesions: the encoder half of a U-Net, with the timestep."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.aligned_model import AlignedModel
from autoencoder.networks.blocks import Conv3d
from autoencoder.networks.haar import HaarTransform3D
from diffusion.blocks import Attention3D, ResBlock3D, group_count

MIDDLE_RATING = 3.0  # of the readers' scale, 1 to 5: what a fresh regression answers


class NoduleClassifier3D(AlignedModel, ModelMixin, ConfigMixin):
    """p(attribute | x_t, t) of a lesion from the noisy crop around it, for every attribute it was trained on.

    LSDM (docs/references.md, eq. 3.7-3.8): the encoder half and the middle block of the U-Net without SPADE, pooling,
    and a linear head for each attribute. It pools over the lesion's cells and over the whole crop. The crop is that of
    `guidance.lesion_crop`, in the space that this network was trained in.

    Args:
        classes: Attribute -> its classes in order, for example {"malignancy": ["benign", "malignant"]}.
        regressions: Attributes that are predicted as a number, in units of the readers' rating, 1 to 5.
        space: "latent" reads the noisy latent; "decoded" the image that the autoencoder makes of it, as LSDM does,
            through one Haar transform, so that no convolution runs at full resolution.
        cells: Edge of the crop in latent cells.
        latent_channels: Channels of the latent.
        channels: Width of each level, finest first.
        blocks_per_level: Residual blocks at each level.
        dropout: On the pooled features.
        sees_mask: Whether the lesion's mask is an input. With the mask, the network gives p(y | x_t, mask), and what
            the mask's size says about y has no gradient. Without it, as in LSDM, the network reads the size from the
            lesion itself.
    Raises: ValueError: If there is no attribute, one with fewer than two classes, or one of both kinds; or if the
        space is unknown, or there are fewer than 2 cells.
    """

    @register_to_config
    def __init__(
        self,
        classes: Mapping[str, Sequence[str]] | None = None,
        regressions: Sequence[str] = (),
        space: Literal["latent", "decoded"] = "latent",
        cells: int = 8,
        latent_channels: int = 4,
        channels: tuple[int, ...] = (32, 64, 128),
        blocks_per_level: int = 1,
        dropout: float = 0.1,
        sees_mask: bool = True,
    ) -> None:
        super().__init__()
        classes = dict(classes or {})
        if not (classes or regressions) or any(len(names) < 2 for names in classes.values()):
            raise ValueError(
                f"classes {classes}, regressions {list(regressions)}: expected at least one attribute, and two classes "
                "or more where it has classes"
            )
        if set(classes) & set(regressions):
            raise ValueError(f"{', '.join(sorted(set(classes) & set(regressions)))}: in classes and in regressions")
        if space not in ("latent", "decoded"):
            raise ValueError(f'space "{space}", expected "latent" or "decoded"')
        if cells < 2:
            raise ValueError(f"cells {cells}, expected an edge of at least 2 latent cells")
        time_channels = 4 * channels[0]
        self.time_features = Timesteps(channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(channels[0], time_channels)
        self.stem = HaarTransform3D() if space == "decoded" else nn.Identity()
        channels_in = (latent_channels if space == "latent" else 1) + sees_mask
        self.conv_in = Conv3d(channels_in * (8 if space == "decoded" else 1), channels[0], 3, padding=1)
        self.levels = nn.ModuleList(
            [nn.ModuleList([ResBlock3D(w, w, time_channels) for _ in range(blocks_per_level)]) for w in channels]
        )
        self.down = nn.ModuleList([Conv3d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels)])
        self.middle_attention = Attention3D(channels[-1])
        self.middle = ResBlock3D(channels[-1], channels[-1], time_channels)
        self.norm_out = nn.GroupNorm(group_count(channels[-1]), channels[-1])
        self.dropout_out = nn.Dropout(dropout)
        widths = {name: len(names) for name, names in classes.items()} | dict.fromkeys(regressions, 1)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * channels[-1], width) for name, width in widths.items()})

    @property
    def classes(self) -> dict[str, list[str]]:
        """Attribute -> its classes in order."""
        return {name: list(names) for name, names in (self.config["classes"] or {}).items()}

    @property
    def attributes(self) -> tuple[str, ...]:
        """All attributes, those with classes first."""
        return (*self.classes, *self.config["regressions"])

    def forward(self, crop: Tensor, timestep: Tensor | float, lesion: Tensor) -> dict[str, Tensor]:
        """What every head says.

        Args:
            crop: x_t around the lesion, (B, C, d, h, w), standardised; in the decoded space ct_norm, (B, 1, D, H, W)
                with even sizes.
            timestep: The time that the denoiser is given, (B,) or scalar, 0 clean.
            lesion: Fraction of each cell that the lesion mask covers, (B, 1, d, h, w); in the decoded space the mask.
        Returns: Attribute -> logits (B, number of classes), or the rating (B,).
        """
        timestep = torch.as_tensor(timestep, device=crop.device).expand(crop.shape[0])
        t = self.time_embedding(self.time_features(timestep).to(crop.dtype))
        h = torch.cat([crop, lesion.to(crop)], dim=1) if self.config["sees_mask"] else crop
        h = self.conv_in(self.stem(h))
        for index, blocks in enumerate(self.levels):
            h = self.down[index - 1](h) if index else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, t)
        h = F.silu(self.norm_out(self.middle(self.middle_attention(h), t)))
        weight = F.interpolate(lesion.to(h), size=h.shape[2:], mode="area") + 1e-6
        at_lesion = (h * weight).sum(dim=(2, 3, 4)) / weight.sum(dim=(2, 3, 4))
        pooled = self.dropout_out(torch.cat([at_lesion, h.mean(dim=(2, 3, 4))], dim=1))
        said = {name: head(pooled) for name, head in self.heads.items()}
        return said | {name: MIDDLE_RATING + said[name][:, 0] for name in self.config["regressions"]}


def log_likelihood(said: Tensor, wanted: Tensor) -> Tensor:
    """How well what a head says agrees with a value: log p of a class, or minus the squared error of a rating.

    Args:
        said: Logits (B, number of classes), or ratings (B,).
        wanted: Index of the class, or the rating; (B,), NaN where there is no value.
    Returns: float32 (B,), 0 where there is no value.
    """
    known = torch.isfinite(wanted)
    value = torch.where(known, wanted, torch.zeros_like(wanted)).to(said.device)
    if said.ndim == 2:
        agreement = -F.cross_entropy(said.float(), value.long(), reduction="none")
    else:
        agreement = -(said.float() - value.float()).square()
    return torch.where(known.to(said.device), agreement, torch.zeros_like(agreement))
