"""SynDiff's discriminator of the noisy latents; that of the decoded image is `autoencoder.networks.discriminator`."""

import torch
from torch import Tensor, nn

from autoencoder.networks.blocks import Conv3d
from autoencoder.networks.discriminator import PatchBlock
from diffusion.conditioning import octant_coverage


class LatentDiscriminator(nn.Module):
    """SynDiff's own: sees x_t and x_{t-k}, and so whether the step is one of the real process.

    Args:
        steps: Large steps of the diffusion.
        latent_channels: C.
        factor: Voxels per latent cell.
        channels: Width.
    """

    def __init__(self, steps: int, latent_channels: int, factor: int, channels: int = 64) -> None:
        super().__init__()
        self.factor = factor
        masks = 8 if factor % 2 == 0 else 1
        self.blocks = nn.ModuleList(
            [PatchBlock(2 * latent_channels + masks, channels, steps), PatchBlock(channels, channels, steps)]
        )
        self.head = Conv3d(channels, 1, 3, padding=1)

    def forward(self, before: Tensor, noisy: Tensor, lesion_mask: Tensor, step: Tensor) -> list[Tensor]:
        """Logits, high for real, (B, 1, d, h, w).

        Args:
            before, noisy: x_{t-k} and x_t, (B, C, d, h, w).
            lesion_mask: (B, 1, D, H, W).
            step: Which large step, (B,).
        """
        h = torch.cat([before, noisy, octant_coverage(lesion_mask, self.factor).to(before)], dim=1)
        for block in self.blocks:
            h = block(h, step)
        return [self.head(h)]
