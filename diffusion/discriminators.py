"""Discriminators of adversarial diffusion: one sees the decoded lesion in its surroundings, one the noisy latents.

Both are patch discriminators (Isola et al. 2017) that know the mask and which of the large steps was taken. Their
losses are non-saturating as SynDiff's (eq. 11-12), and relativistic, with a gradient penalty on real samples (Huang et
al. 2024, "The GAN is dead; long live the GAN!").
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.networks.blocks import Conv3d
from autoencoder.networks.haar import HaarTransform3D
from diffusion.conditioning import octant_coverage

MEANS, DETAILS = (
    2.0,
    18.0,
)  # Haar bands of ct_norm times these: mottling of 20 HU shall not vanish beside the lung's edge


class _Block(nn.Module):
    """Convolution, the step's embedding, LeakyReLU; a normalisation would hide how strong a texture is."""

    def __init__(self, given: int, made: int, steps: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(given, made, 4, 2, 1) if stride == 2 else Conv3d(given, made, 3, padding=1)
        self.step = nn.Embedding(steps, made)
        nn.init.zeros_(self.step.weight)

    def forward(self, h: Tensor, step: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(h) + self.step(step)[:, :, None, None, None], 0.2)


class ImageDiscriminator(nn.Module):
    """The decoded image with the mask, judged in patches of two sizes: texture and edge, and the lesion's shape.

    Args:
        steps: Large steps of the diffusion.
        channels: Width at half and at a quarter of the resolution.
    """

    gains: Tensor

    def __init__(self, steps: int, channels: tuple[int, int] = (32, 64)) -> None:
        super().__init__()
        fine, coarse = channels
        self.haar = HaarTransform3D()
        gains = torch.tensor([MEANS, *7 * [DETAILS]]).view(1, 8, 1, 1, 1)
        self.register_buffer("gains", gains, persistent=False)
        self.fine = nn.ModuleList([_Block(16, fine, steps), _Block(fine, fine, steps)])
        self.coarse = nn.ModuleList([_Block(fine, coarse, steps, 2), _Block(coarse, coarse, steps)])
        self.heads = nn.ModuleList([Conv3d(fine, 1, 3, padding=1), Conv3d(coarse, 1, 3, padding=1)])

    def forward(self, ct_norm: Tensor, lesion_mask: Tensor, step: Tensor) -> list[Tensor]:
        """Logits, high for real, (B, 1, D/2, H/2, W/2) with 14 voxels in sight and (B, 1, D/4, H/4, W/4) with 32.

        Args:
            ct_norm, lesion_mask: (B, 1, D, H, W).
            step: Which large step, 0 is the noisiest, (B,).
        """
        with torch.autocast(ct_norm.device.type, enabled=False):  # differences of neighbours would be rounded away
            h = torch.cat([self.gains * self.haar(ct_norm), self.haar(lesion_mask.to(ct_norm)) - 0.5], dim=1)
        logits = []
        for blocks, head in zip((self.fine, self.coarse), self.heads, strict=True):
            for block in blocks:
                h = block(h, step)
            logits.append(head(h))
        return logits


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
            [_Block(2 * latent_channels + masks, channels, steps), _Block(channels, channels, steps)]
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


def logits_for_generator(network: nn.Module, *inputs: Tensor, **options: Tensor) -> list[Tensor]:
    """What a discriminator says, with a gradient for its inputs alone and none for its weights."""
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    logits: list[Tensor] = torch.func.functional_call(network, weights, inputs, options)
    return logits


def logits_of_both(
    network: nn.Module, real: Sequence[Tensor], fake: Sequence[Tensor], **options: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits of real and of generated samples from one call, with no gradient for the generator.

    Args:
        network: A discriminator.
        real, fake: Its arguments, (B, ...) each.
        options: Further arguments, (2 B, ...) each.
    """
    both = network(*(torch.cat(pair).detach() for pair in zip(real, fake, strict=True)), **options)
    halves = [logits.chunk(2) for logits in both]
    return [half[0] for half in halves], [half[1] for half in halves]


def relativistic_loss(better: list[Tensor], worse: list[Tensor], weights: list[Tensor]) -> Tensor:
    """E[-log σ(D(x) - D(x̂))], of the discriminator, or with the two exchanged of the generator (Huang et al. 2024).

    A real and a generated sample share mask and surroundings, which differ far more from lesion to lesion than the two
    do from each other. So a patch is judged against the same patch of the other. The loss stays non-saturating.

    Args:
        better, worse: Logits of each patch size, (B, 1, d, h, w): real and generated for the discriminator.
        weights: How much each patch counts, same shapes.
    Returns: Scalar.
    """
    losses = []
    for high, low, weight in zip(better, worse, weights, strict=True):
        values = F.softplus(low.float() - high.float())
        losses.append((values * weight).sum() / weight.sum().clamp_min(1e-6))
    return torch.stack(losses).mean()


def gradient_penalty(logits: list[Tensor], weights: list[Tensor], inputs: Tensor) -> Tensor:
    """E[‖∇ D‖²] on real samples, where D is the weighted sum of the logits over the square root of the weights' sum.

    A patch's gradient then counts alike in a small and in a large lesion.

    Args:
        logits, weights: As above; with a graph to `inputs`.
        inputs: (B, C, D, H, W), which require gradients.
    """
    score = torch.stack(
        [
            ((logit.float() * w).flatten(1).sum(1) / w.flatten(1).sum(1).clamp_min(1e-6).sqrt()).sum()
            for logit, w in zip(logits, weights, strict=True)
        ]
    ).mean()
    return torch.autograd.grad(score, inputs, create_graph=True)[0].square().flatten(1).sum(1).mean()
