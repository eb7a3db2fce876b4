"""The 3D patch discriminator and its losses: what keeps reconstructions from being smooth."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.networks.blocks import Conv3d, VoxelRMSNorm
from autoencoder.networks.haar import HaarTransform3D


class PatchDiscriminator3D(nn.Module):
    """Real or reconstructed, judged for every patch of a volume (Isola et al. 2017, in 3D).

    Like the autoencoder it works on the Haar sub-bands, in which missing noise is plain to see, and its norms act on
    single voxels, so that padding far away has no influence. Each level halves the resolution once more.

    Args:
        channels: Width of each level; with two of them a logit stands for 4 voxels and sees 28.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64)) -> None:
        super().__init__()
        self.factor = 2 ** len(channels)
        layers: list[nn.Module] = [HaarTransform3D(), Conv3d(8, channels[0], 3, padding=1), nn.LeakyReLU(0.2)]
        for a, b in pairwise(channels):
            layers += [nn.Conv3d(a, b, 4, stride=2, padding=1), VoxelRMSNorm(b), nn.LeakyReLU(0.2)]
        last = channels[-1]
        layers += [Conv3d(last, last, 3, padding=1), VoxelRMSNorm(last), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, Conv3d(last, 1, 3, padding=1))

    def forward(self, ct_norm: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> logits (B, 1, D/f, H/f, W/f), high for real."""
        return self.layers(ct_norm)


def hinge_loss(real: Tensor, fake: Tensor, valid: Tensor | None = None) -> Tensor:
    """The discriminator's loss: ½ E[max(0, 1 − D(x))] + ½ E[max(0, 1 + D(x̂))] (Lim & Ye 2017, eq. 8).

    Args:
        real, fake: Logits, (B, 1, d, h, w).
        valid: Share of valid voxels behind each logit, same shape; None counts all alike.
    Returns: Scalar.
    """
    return 0.5 * (_mean(F.relu(1 - real), valid) + _mean(F.relu(1 + fake), valid))


def adversarial_loss(fake: Tensor, valid: Tensor | None = None) -> Tensor:
    """The autoencoder's loss: −E[D(x̂)] (Lim & Ye 2017, eq. 9); arguments as in :func:`hinge_loss`."""
    return -_mean(fake, valid)


def adaptive_weight(reconstruction_gradient: Tensor, adversarial_gradient: Tensor, largest: float = 1e4) -> Tensor:
    """λ = ‖∇ L_rec‖ / (‖∇ L_adv‖ + 1e-4) at the decoder's last layer (Esser et al. 2021, eq. 7): equal pull of both.

    Args:
        reconstruction_gradient, adversarial_gradient: Gradients of the two losses there, any shape.
        largest: Upper bound.
    Returns: Scalar without gradient.
    """
    return (reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, largest).detach()


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return values.mean()
    return (values * valid).sum() / torch.clamp(valid.sum(), min=1)
