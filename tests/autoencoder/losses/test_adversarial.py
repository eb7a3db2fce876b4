"""Adversarial losses: against MONAI's, closed forms, and which network each of them teaches."""

import math

import pytest
import torch
from monai.losses import PatchAdversarialLoss
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from autoencoder.losses.adversarial import (
    adaptive_weight,
    generator_hinge_loss,
    gradient_penalty,
    hinge_loss,
    hinge_losses,
    relativistic_loss,
    relativistic_losses,
)
from autoencoder.networks.discriminator import PatchDiscriminator3D, patch_weights


def logits(seed):
    """Of two patch sizes."""
    random = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(2, 1, *size, generator=random) for size in ((3, 4, 5), (1, 2, 2))]


def ones_like(some):
    return [torch.ones_like(one) for one in some]


def test_hinge_losses_are_those_of_monai():
    real, fake = ([one.tanh() for one in logits(seed)] for seed in (0, 1))
    peer = PatchAdversarialLoss(criterion="hinge", reduction="mean")
    raw = [[one.atanh() for one in some] for some in (real, fake)]  # MONAI takes tanh first
    expected = 0.5 * (peer(raw[0], True, for_discriminator=True) + peer(raw[1], False, for_discriminator=True))
    assert_close(hinge_loss(real, fake, ones_like(real)), expected)
    expected = peer(raw[1], True, for_discriminator=False) - 1  # MONAI keeps max(0, 1 - D), which never cuts off here
    assert_close(generator_hinge_loss(fake, ones_like(fake)), expected)


@pytest.mark.parametrize("loss", [hinge_loss, relativistic_loss])
def test_patches_of_no_weight_have_no_influence(loss):
    real, fake = logits(0), logits(1)
    weights = ones_like(real)
    for weight in weights:
        weight[..., 1:] = 0
    changed = [torch.where(weight > 0, one, 1e6) for one, weight in zip(fake, weights, strict=True)]
    assert torch.equal(loss(real, changed, weights), loss(real, fake, weights))
    cut = [[one[..., :1] for one in some] for some in (real, fake)]
    assert_close(loss(real, fake, weights), loss(*cut, ones_like(cut[0])))


def test_the_relativistic_loss_compares_patch_with_patch():
    real, fake = (torch.tensor([a, b]).view(1, 1, 1, 1, 2) for a, b in ((3.0, -1.0), (1.0, 4.0)))
    expected = F.softplus(torch.tensor([-2.0, 5.0])).mean()
    assert_close(relativistic_loss([real], [fake], [torch.ones_like(real)]), expected)
    expected = F.softplus(torch.tensor([2.0, -5.0])).mean()  # of the generator
    assert_close(relativistic_loss([fake], [real], [torch.ones_like(real)]), expected)


def test_the_gradient_penalty_of_a_linear_discriminator_is_its_squared_weight():
    torch.manual_seed(0)
    weight, inputs = torch.randn(1, 1, 4, 4, 4), torch.randn(3, 1, 4, 4, 4, requires_grad=True)
    patches = torch.ones(3, 1, 4, 4, 4)
    found = gradient_penalty([weight * inputs], [patches], inputs)
    assert_close(found, weight.square().sum() / 64)
    small = gradient_penalty([weight * inputs], [0.25 * patches], inputs)  # as for a smaller lesion: the patches' own
    assert_close(small, weight.square().sum() * 0.25**2 / 16)


@pytest.mark.parametrize("losses", [hinge_losses, relativistic_losses])
def test_each_network_learns_from_its_own_loss_alone(losses):
    torch.manual_seed(0)
    network, generator = PatchDiscriminator3D((4, 4)), nn.Conv3d(1, 1, 1)
    real = torch.randn(2, 1, 8, 12, 16)
    weights = patch_weights(torch.ones_like(real))
    of_generator, *of_discriminator = losses(network, real, generator(real), weights)
    parts = list(network.parameters()), list(generator.parameters())
    assert all(one is None for one in torch.autograd.grad(of_generator, parts[0], retain_graph=True, allow_unused=True))
    assert all(one.any() for one in torch.autograd.grad(of_generator, parts[1], retain_graph=True))
    own = torch.stack(of_discriminator).sum()
    assert all(one is None for one in torch.autograd.grad(own, parts[1], retain_graph=True, allow_unused=True))
    assert any(one.any() for one in torch.autograd.grad(own, parts[0]))


def test_equal_images_cannot_be_told_apart():
    torch.manual_seed(0)
    real = torch.randn(2, 1, 8, 8, 8)
    *both, _ = relativistic_losses(PatchDiscriminator3D((4, 4)), real, real, patch_weights(torch.ones_like(real)))
    assert [loss.item() for loss in both] == pytest.approx([math.log(2)] * 2)


def test_adaptive_weight_makes_both_pulls_equal():
    reconstruction, adversarial = torch.randn(3, 4), 5 * torch.randn(3, 4)
    weight = adaptive_weight(reconstruction, adversarial)
    assert (weight * adversarial).norm().item() == pytest.approx(reconstruction.norm().item(), rel=1e-3)
    assert adaptive_weight(reconstruction, torch.zeros(3, 4)).item() <= 1e4
