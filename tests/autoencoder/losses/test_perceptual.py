"""LPIPS of volumes, with random weights: against the network called by hand."""

import lpips
import pytest
import torch
from torch.nn import functional as F

from autoencoder.losses.perceptual import lpips_loss


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().requires_grad_(False)


def volume(seed):
    return torch.rand(2, 1, 8, 12, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_loss_is_the_mean_over_three_slices_of_each_volume(network):
    pred, target = volume(0), volume(1)
    positions = torch.tensor([[0.0, 0.5, 0.99], [0.3, 0.0, 0.6]])

    def by_hand(sample, axis, index):
        images = [v[sample, 0].select(axis, index)[None, None] for v in (pred, target)]
        scale = 64 / min(images[0].shape[2:])
        images = [F.interpolate(i, scale_factor=scale, mode="bilinear").expand(-1, 3, -1, -1) for i in images]
        return network(*images).item()

    cuts = [(0, 0, 0), (0, 1, 6), (0, 2, 15), (1, 0, 2), (1, 1, 0), (1, 2, 9)]
    expected = sum(by_hand(*cut) for cut in cuts) / 6
    assert lpips_loss(network, pred, target, positions).item() == pytest.approx(expected, rel=1e-4)


def test_equal_volumes_have_no_distance_and_a_gradient_reaches_the_cut_slices_alone(network):
    positions = torch.full((2, 3), 0.5)
    assert lpips_loss(network, volume(0), volume(0), positions).item() == 0
    pred = volume(0).requires_grad_(True)
    lpips_loss(network, pred, volume(1), positions).backward()
    touched = pred.grad[0, 0] != 0
    assert touched[4].any() and touched[:, 6].any() and touched[:, :, 8].any()
    touched[4] = touched[:, 6] = touched[:, :, 8] = False
    assert not touched.any()


def test_loss_refuses_unequal_shapes(network):
    with pytest.raises(ValueError, match="shapes differ"):
        lpips_loss(network, volume(0), volume(0)[..., :8], torch.zeros(2, 3))
