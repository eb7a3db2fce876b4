"""Losses of stage 1 against torch.distributions and closed forms."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from autoencoder.losses.basic import kl_loss, l1_loss

SHAPE = (3, 2, 4, 5, 6)


def test_kl_is_that_of_torch_distributions_summed_over_a_volume():
    torch.manual_seed(0)
    mean, logvar = torch.randn(SHAPE), torch.randn(SHAPE)
    reference = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_loss(mean, logvar), reference.flatten(1).sum(1).mean())
    assert kl_loss(torch.zeros(SHAPE), torch.zeros(SHAPE)) == 0


def test_l1_of_valid_volumes_is_the_mean_absolute_difference():
    torch.manual_seed(0)
    pred, target = torch.randn(SHAPE), torch.randn(SHAPE)
    torch.testing.assert_close(l1_loss(pred, target), F.l1_loss(pred, target))
    torch.testing.assert_close(l1_loss(pred, target, torch.ones(SHAPE)), F.l1_loss(pred, target))


def test_l1_ignores_padding_and_counts_every_sample_alike():
    torch.manual_seed(0)
    pred, target = torch.randn(2, 1, 4, 5, 6, requires_grad=True), torch.randn(2, 1, 4, 5, 6)
    valid_mask = torch.ones_like(target)
    valid_mask[0, :, 1:] = 0  # of the first sample one slice is left
    garbage = torch.where(valid_mask > 0, target, 1e6)
    loss = l1_loss(pred, garbage, valid_mask)
    expected = (F.l1_loss(pred[0, :, :1], target[0, :, :1]) + F.l1_loss(pred[1], target[1])) / 2
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, pred)
    assert torch.equal(gradient != 0, valid_mask > 0)


@pytest.mark.parametrize("loss", [l1_loss, kl_loss])
def test_shapes_that_would_broadcast_and_integers_are_refused(loss):
    with pytest.raises(ValueError, match=r"shapes differ: .* a loss never broadcasts"):
        loss(torch.zeros(2, 1, 4, 5, 6), torch.zeros(1, 1, 4, 5, 6))
    with pytest.raises(ValueError, match=r"dtype torch\.int16.*convert with to_norm first"):
        loss(torch.zeros(SHAPE, dtype=torch.int16), torch.zeros(SHAPE, dtype=torch.int16))
