"""Networks of unpaired translation: local operators on Haar bands, so that a tile equals its part of the whole scan.

Volumes are in units of a texture, u = (HU - level) / 40. What one kind of CT differs in from another is small beside
the anatomy. So a generator predicts a residual, which has about unit variance.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.networks.blocks import Conv3d, VoxelRMSNorm
from autoencoder.networks.haar import HaarTransform3D

UNIT_HU = 40.0  # about the standard deviation of a CT's texture
MEANS, DETAILS = 0.04, 1.0  # Haar bands times these have about unit size: anatomy spans ±50 there, texture ±1
LIMIT = 20.0  # units; what lies farther from the level, bone, is clipped before a network sees it
LOCAL_MEAN = 5  # Haar cells, so 10 voxels: the residual has no mean over such a cube
FREQUENCIES = 4  # of the embedding of the noise level


class SignalEmbedding(nn.Module):
    """Channels for the noise level of the input, from the logarithm of its signal-to-noise ratio ᾱ / (1 - ᾱ)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, signal: Tensor) -> Tensor:
        """ᾱ, (B,) -> (B, channels)."""
        level = torch.logit(signal.double(), eps=1e-6).float()
        angles = level[:, None] * (0.5 ** torch.arange(FREQUENCIES, device=level.device))
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class _Block(nn.Module):
    """Two normalised convolutions beside the identity; the noise level is a bias, as in SynDiff."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([VoxelRMSNorm(channels), VoxelRMSNorm(channels)])
        self.convs = nn.ModuleList([Conv3d(channels, channels, 3, padding=1) for _ in range(2)])
        nn.init.zeros_(self.convs[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        h = self.convs[0](F.silu(self.norms[0](x)))
        if level is not None:
            h = h + level[:, :, None, None, None].to(h)
        return x + self.convs[1](F.silu(self.norms[1](h)))


class TranslationGenerator(nn.Module):
    """Predicts what a linear filter of the source lacks; G_φ of SynDiff without a noise level, G_θ with one.

    The residual has no mean over 10 voxels, because neither kernel nor dose changes the HU of an organ.

    Args:
        channels: Width, at half the resolution.
        blocks: Residual blocks.
        field: Whether it sees a second volume: noise of its own (G_φ), or the noisy residual (G_θ).
        timed: Whether it knows the noise level of that volume.
    """

    def __init__(self, channels: int, blocks: int, field: bool = True, timed: bool = False) -> None:
        super().__init__()
        self.haar = HaarTransform3D()
        self.first = Conv3d(16 if field else 8, channels, 3, padding=1)
        self.embedding = SignalEmbedding(channels) if timed else None
        self.blocks = nn.ModuleList([_Block(channels) for _ in range(blocks)])
        self.norm = VoxelRMSNorm(channels)
        self.last = Conv3d(channels, 8, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # begins as the identity
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @property
    def margin(self) -> int:
        """Voxels beyond a tile that its values depend on, rounded up to whole Haar cells."""
        return 2 * (2 * len(self.blocks) + 2 + LOCAL_MEAN // 2)

    def forward(self, source: Tensor, field: Tensor | None = None, signal: Tensor | None = None) -> Tensor:
        """The residual, (B, 1, D, H, W), of about unit variance.

        Args:
            source: (B, 1, D, H, W), even D, H, W.
            field: As `source`, of unit variance; None where the generator has none.
            signal: ᾱ of the field, (B,), where the generator is timed.
        """
        with torch.autocast(source.device.type, enabled=False):
            bands = amplified(self.haar, source)
            if field is not None:
                bands = torch.cat([bands, self.haar(field)], dim=1)
        level = None if self.embedding is None or signal is None else self.embedding(signal)
        h = self.first(bands)
        for block in self.blocks:
            h = block(h, level)
        made = self.last(F.silu(self.norm(h))).float()
        mean = made[:, :1]
        local = F.avg_pool3d(mean, LOCAL_MEAN, 1, LOCAL_MEAN // 2, count_include_pad=False)
        return self.haar.inverse(torch.cat([mean - local, made[:, 1:]], dim=1))


class TextureDiscriminator(nn.Module):
    """Patch discriminator without normalisation, which would hide how strong a texture is.

    Args:
        volumes: How many volumes it sees: the image (D_φ); or source, x_{t-k} and x_t (D_θ).
        channels: Width at half and at a quarter of the resolution.
        timed: Whether it knows the noise level.
    """

    def __init__(self, volumes: int, channels: tuple[int, int], timed: bool = False) -> None:
        super().__init__()
        fine, coarse = channels
        self.haar = HaarTransform3D()
        self.first = Conv3d(8 * volumes, fine, 3, padding=1)
        self.embedding = SignalEmbedding(fine) if timed else None
        self.fine = Conv3d(fine, fine, 3, padding=1)
        self.down = Conv3d(fine, coarse, 4, 2, 1)
        self.coarse = Conv3d(coarse, coarse, 3, padding=1)
        self.heads = nn.ModuleList([Conv3d(fine, 1, 3, padding=1), Conv3d(coarse, 1, 3, padding=1)])

    def forward(self, image: Tensor, *fields: Tensor, signal: Tensor | None = None) -> list[Tensor]:
        """Logits, high for real: (B, 1, D/2, H/2, W/2) and (B, 1, D/4, H/4, W/4).

        Args:
            image: (B, 1, D, H, W), D, H, W divisible by 4; its anatomy is made small beside its texture.
            fields: Further volumes, of unit variance.
            signal: ᾱ, (B,), where it is timed.
        """
        with torch.autocast(image.device.type, enabled=False):
            bands = torch.cat([amplified(self.haar, image), *[self.haar(field) for field in fields]], dim=1)
        h = self.first(bands)
        if self.embedding is not None and signal is not None:
            h = h + self.embedding(signal)[:, :, None, None, None].to(h)
        h = F.leaky_relu(self.fine(F.leaky_relu(h, 0.2)), 0.2)
        logits = [self.heads[0](h)]
        h = F.leaky_relu(self.coarse(F.leaky_relu(self.down(h), 0.2)), 0.2)
        return [*logits, self.heads[1](h)]


def amplified(haar: HaarTransform3D, volume: Tensor) -> Tensor:
    """Haar bands of a volume in which anatomy does not drown texture, (B, 8, D/2, H/2, W/2)."""
    bands = haar(volume.float().clamp(-LIMIT, LIMIT))
    return torch.cat([MEANS * bands[:, :1], DETAILS * bands[:, 1:]], dim=1)
