"""Adversarial losses of patch discriminators; each has a gradient for its own network alone.

A discriminator is a module that gives one volume of logits for each of its patch sizes, high for real.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PENALTY = 5e-4  # weight of the gradient penalty; a stronger one keeps a discriminator of CT from learning
PENALISED = 4  # one sample in so many has the gradient penalty, which needs second derivatives


def relativistic_losses(
    network: nn.Module, real: Tensor, fake: Tensor, weights: list[Tensor], *more: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss of the generator, of the discriminator, its gradient penalty on one sample of `PENALISED`), scalars.

    Args:
        network: The discriminator.
        real, fake: What it compares: samples that share all but what the generator made, (B, C, D, H, W).
        weights: How much each patch counts, of the logits' shapes.
        more: The discriminator's further arguments, (B, ...) each.
    """
    true, false = logits_of_both(network, (real, *more), (fake, *more))
    of_discriminator = relativistic_loss(true, false, weights)
    seen = logits_for_generator(network, fake, *more)
    of_generator = relativistic_loss(seen, [logit.detach() for logit in true], weights)
    some = real.detach()[::PENALISED].requires_grad_(True)
    with torch.autocast(some.device.type, enabled=False):  # second derivatives
        alone = network(some, *(one[::PENALISED] for one in more))
        penalty = gradient_penalty(alone, [weight[::PENALISED] for weight in weights], some)
    return of_generator, of_discriminator, penalty


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
        losses.append(_weighted_mean(F.softplus(low.float() - high.float()), weight))
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


def hinge_losses(network: nn.Module, real: Tensor, fake: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(loss of the generator, of the discriminator), hinge; arguments as in :func:`relativistic_losses`."""
    true, false = logits_of_both(network, [real], [fake])
    return generator_hinge_loss(logits_for_generator(network, fake), weights), hinge_loss(true, false, weights)


def hinge_loss(real: list[Tensor], fake: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The discriminator's loss: ½ E[max(0, 1 − D(x))] + ½ E[max(0, 1 + D(x̂))] (Lim & Ye 2017, eq. 8).

    Args:
        real, fake: Logits of each patch size, (B, 1, d, h, w).
        weights: How much each patch counts, same shapes.
    Returns: Scalar.
    """
    losses = [
        0.5 * (_weighted_mean(F.relu(1 - true.float()), weight) + _weighted_mean(F.relu(1 + false.float()), weight))
        for true, false, weight in zip(real, fake, weights, strict=True)
    ]
    return torch.stack(losses).mean()


def generator_hinge_loss(fake: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The generator's loss: −E[D(x̂)] (Lim & Ye 2017, eq. 9); arguments as in :func:`hinge_loss`."""
    losses = [-_weighted_mean(logit.float(), weight) for logit, weight in zip(fake, weights, strict=True)]
    return torch.stack(losses).mean()


def adaptive_weight(reconstruction_gradient: Tensor, adversarial_gradient: Tensor, largest: float = 1e4) -> Tensor:
    """λ = ‖∇ L_rec‖ / (‖∇ L_adv‖ + 1e-4) at the decoder's last layer (Esser et al. 2021, eq. 7): equal pull of both.

    Args:
        reconstruction_gradient, adversarial_gradient: Gradients of the two losses there, any shape.
        largest: Upper bound.
    Returns: Scalar without gradient.
    """
    return (reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, largest).detach()


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


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)
