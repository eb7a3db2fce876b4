"""How several losses pull on one prediction: gradient norms, cosines, and two ways to balance the pull.

Everything happens at x̂0 (or any other tensor that all losses depend on, such as the model's output), where a gradient
per loss is cheap: the network behind it is run backward once, with the combined gradient:

    gradients = loss_gradients(losses, x0_hat)                 # losses: {"structure": (B,), "gabor": (B,), ...}
    log(gradient_statistics(gradients))
    x0_hat.backward(combined_gradient(gradients, weights, "norm"))

A loss behind the decoder costs one backward pass of the decoder each. Parameters inside losses and weights (Gabor
filters, learned time weights) get no gradient this way; call `total.backward(inputs=parameters)` first for those.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import get_args

import torch
from torch import Tensor

from diffusion.option_types import Balance


def loss_gradients(losses: Mapping[str, Tensor], x0_hat: Tensor) -> dict[str, Tensor]:
    """Gradient of each sample's loss with respect to that sample of x̂0; the graph is kept.

    Args:
        losses: Unweighted losses by name, (B,), each entry depending on its own sample only.
        x0_hat: (B, ...), part of the losses' graph.
    Returns: Gradients by name, each of x̂0's shape; zeros for a loss that does not depend on x̂0.
    Raises: ValueError: If a loss is not one value per sample.
    """
    gradients = {}
    for name, loss in losses.items():
        if loss.shape != x0_hat.shape[:1]:
            raise ValueError(f'loss "{name}" has shape {tuple(loss.shape)}: expected ({len(x0_hat)},), one per sample')
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss.sum(), x0_hat, retain_graph=True, allow_unused=True)
        gradients[name] = torch.zeros_like(x0_hat) if gradient is None else gradient
    return gradients


def gradient_statistics(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Size and agreement of the losses' pulls, as numbers for a tracker.

    Args:
        gradients: By name, (B, ...).
    Returns: "grad_norm/<loss>": mean over the samples where that gradient is not zero (0 if there are none);
        "grad_cosine/<loss>/<other>": mean over the samples where both are not zero (left out if there are none).
        1 is agreement, -1 conflict.
    """
    flat = {name: gradient.detach().flatten(1).float() for name, gradient in gradients.items()}
    norms = {name: g.norm(dim=1) for name, g in flat.items()}
    statistics = {f"grad_norm/{name}": (n.sum() / (n > 0).sum().clamp(min=1)).item() for name, n in norms.items()}
    for one, other in combinations(flat, 2):
        both = (norms[one] > 0) & (norms[other] > 0)
        if both.any():
            cosine = (flat[one] / norms[one][:, None] * flat[other] / norms[other][:, None]).sum(1)
            statistics[f"grad_cosine/{one}/{other}"] = cosine[both].mean().item()
    return statistics


def combined_gradient(
    gradients: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    balance: Balance = "none",
    reference: str = "structure",
) -> Tensor:
    """One gradient from many, to be handed to `x0_hat.backward`; of the batch's mean loss.

    Every sample is balanced on its own, so a batch gives what its samples would.
    - "none": sum_k w_k g_k, the gradient of the weighted losses' sum.
    - "norm": each g_k is first brought to the norm of the reference loss's gradient, so that the weights alone say
      how much a loss counts. A zero gradient stays zero; without a reference gradient norms stay as they are.
    - "project": each weighted gradient loses its component against any other it conflicts with (negative cosine),
      as in PCGrad (Yu et al. 2020, algorithm 1), but in the losses' order rather than a random one, so that a run
      can be repeated.
    - "norm_project": both, in that order.

    Args:
        gradients: From `loss_gradients`, (B, ...), by name.
        weights: Weight of each loss for each sample, (B,), by the same names.
        balance: As above.
        reference: The loss whose norm the others take.
    Returns: (B, ...), detached.
    Raises: ValueError: For an unknown balance, or names that do not agree.
    """
    if balance not in get_args(Balance):
        raise ValueError(f"balance {balance!r}: expected one of {get_args(Balance)}")
    if gradients.keys() != weights.keys():
        raise ValueError(f"gradients of {sorted(gradients)} but weights of {sorted(weights)}: expected the same losses")
    if "norm" in balance and reference not in gradients:
        raise ValueError(f'reference "{reference}": expected one of {sorted(gradients)}')
    flat = {name: gradient.detach().flatten(1).float() for name, gradient in gradients.items()}
    if "norm" in balance:
        size = flat[reference].norm(dim=1, keepdim=True)
        flat = {name: _with_norm(g, size) for name, g in flat.items()}
    pulls = [g * weights[name].detach().float()[:, None] for name, g in flat.items()]
    if "project" in balance:
        pulls = [_without_conflicts(i, pulls) for i in range(len(pulls))]
    some = next(iter(gradients.values()))
    return (torch.stack(pulls).sum(0) / len(some)).view_as(some).to(some.dtype)


def _with_norm(g: Tensor, size: Tensor) -> Tensor:
    norm = g.norm(dim=1, keepdim=True)
    return torch.where((norm > 0) & (size > 0), g / norm.clamp(min=torch.finfo(g.dtype).tiny) * size, g)


def _without_conflicts(i: int, pulls: list[Tensor]) -> Tensor:
    """Pull i, projected in turn onto the plane normal to each original pull that it points against."""
    pull = pulls[i]
    for j, other in enumerate(pulls):
        if j != i:
            along = (pull * other).sum(1, keepdim=True).clamp(max=0)
            squared = other.square().sum(1, keepdim=True).clamp(min=torch.finfo(pull.dtype).tiny)
            pull = pull - along / squared * other
    return pull
