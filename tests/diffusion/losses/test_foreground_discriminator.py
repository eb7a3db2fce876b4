"""The discriminator that sees the lesion in its real surroundings."""

import pytest
import torch
from torch.testing import assert_close

from autoencoder.networks.discriminator import patch_weights
from diffusion.losses.foreground_discriminator import ForegroundDiscriminator


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real = 0.3 * torch.randn(2, 1, 8, 16, 12, generator=generator)
    mask = torch.zeros_like(real)
    mask[0, 0, 2:6, 4:12, 4:8] = 1
    mask[1, 0, 0:4, 0:8, 0:4] = 1
    return torch.zeros_like(real), real, mask


def test_it_is_a_loss_of_each_sample_alone_and_of_the_lesion_alone():
    torch.manual_seed(0)
    loss = ForegroundDiscriminator((4, 8))
    pred, real, mask = sample()
    both = loss(pred, real, mask)
    assert_close(both[1], loss(pred[1:], real[1:], mask[1:])[0])
    outside = torch.where(mask > 0, pred, 7.0)
    assert_close(loss(outside, real, mask), both)


def test_it_learns_to_tell_a_flat_lesion_and_then_pulls_it_towards_the_real_spread():
    torch.manual_seed(0)
    loss = ForegroundDiscriminator((8, 16))
    optimizer = torch.optim.Adam(loss.parameters(), lr=2e-3)
    for step in range(100):
        pred, real, mask = sample(step)
        optimizer.zero_grad()
        loss(pred, real, mask).mean().backward()
        optimizer.step()
    pred, real, mask = sample(99)
    fine, _ = loss.network(torch.cat([real, torch.where(mask > 0, pred, real)]), mask.repeat(2, 1, 1, 1, 1))
    cells = patch_weights(mask)[0] > 0.9
    assert fine[:2][cells].mean() > fine[2:][cells].mean() + 0.5

    made = (pred + 0.02 * torch.randn(pred.shape)).requires_grad_(True)
    descent = torch.optim.Adam([made], lr=0.02)
    before = made.detach()[mask > 0].std()
    for _ in range(20):
        descent.zero_grad()
        loss(made, real, mask).sum().backward()
        descent.step()
    assert made.detach()[mask > 0].std() > 3 * before


def test_shapes_that_differ_are_refused():
    pred, real, mask = sample()
    with pytest.raises(ValueError, match="expected equal shapes"):
        ForegroundDiscriminator((4, 8))(pred[:1], real, mask)
