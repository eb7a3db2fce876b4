"""A texture loss that is learned: a small discriminator that sees the lesion in its real surroundings."""

import torch
from torch import Tensor, nn

from autoencoder.losses.adversarial import PENALTY, relativistic_losses
from autoencoder.networks.discriminator import PatchDiscriminator3D, patch_weights


class ForegroundDiscriminator(nn.Module):
    """Adversarial texture loss of the lesion (relativistic), with the discriminator's own losses in its value.

    The prediction stands in the real image, so that a step at the border gives it away. Patches count by the share of
    them that is lesion. Neither network's part has a gradient for the other.

    Args:
        channels: Of the `PatchDiscriminator3D`.
    """

    def __init__(self, channels: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        self.network = PatchDiscriminator3D(channels, conditions=1)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Loss of each sample, (B,), from the decoded prediction, the real image and the mask, (B, 1, D, H, W).

        Raises: ValueError: If the shapes differ.
        """
        if not pred.shape == target.shape == mask.shape:
            raise ValueError(
                f"pred {tuple(pred.shape)}, target {tuple(target.shape)}, mask {tuple(mask.shape)}: expected equal "
                "shapes"
            )
        inside = mask > 0
        placed = torch.where(inside, pred, target)
        losses = []
        for real, fake, lesion_mask in zip(target.split(1), placed.split(1), inside.split(1), strict=True):
            generator, discriminator, penalty = relativistic_losses(
                self.network, real, fake, patch_weights(lesion_mask), lesion_mask
            )
            losses.append(generator + discriminator + PENALTY * penalty)
        return torch.stack(losses)
