"""The patch discriminator: what its logits see, and that it tells a texture from its blur."""

import pytest
import torch

from autoencoder.losses.adversarial import logits_of_both, relativistic_loss
from autoencoder.networks.discriminator import PatchDiscriminator3D, patch_weights


@pytest.mark.parametrize(("head", "cells", "sight"), [(0, 2, 14), (1, 4, 32)])
def test_a_logit_of_each_patch_size_sees_as_far_as_it_says(head, cells, sight):
    torch.manual_seed(0)
    ct_norm = torch.randn(1, 1, 48, 48, 48, requires_grad=True)
    logits = PatchDiscriminator3D((4, 4))(ct_norm)[head]
    assert logits.shape[2:] == (48 // cells,) * 3
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle, middle].backward()
    seen = ct_norm.grad[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [sight] * 3


def test_a_patch_counts_by_the_mean_of_its_voxels_weights():
    weights = torch.zeros(2, 1, 8, 12, 16)
    weights[0, 0, :2, :2, :2] = 3.0
    fine, coarse = patch_weights(weights)
    logits = PatchDiscriminator3D((4, 4))(weights)
    assert [fine.shape, coarse.shape] == [one.shape for one in logits]
    assert fine[0, 0, 0, 0, 0] == 3 and fine.sum() == 3
    assert coarse[0, 0, 0, 0, 0] == 3 / 8 and coarse.sum() == 3 / 8


def test_it_knows_its_condition_and_the_step():
    torch.manual_seed(0)
    network = PatchDiscriminator3D((4, 4), conditions=1, steps=3)
    ct_norm, mask = torch.randn(2, 1, 8, 8, 8), torch.ones(2, 1, 8, 8, 8)
    torch.nn.init.normal_(network.fine[0].step.weight)
    logits = network(ct_norm, mask, torch.tensor([0, 0]))
    for other in (network(ct_norm, 0 * mask, torch.tensor([0, 0])), network(ct_norm, mask, torch.tensor([0, 2]))):
        assert not any(torch.equal(a[1], b[1]) for a, b in zip(logits, other, strict=True))


def test_strength_of_a_texture_is_not_normalised_away():
    torch.manual_seed(0)
    network, texture = PatchDiscriminator3D((8, 8)), torch.randn(1, 1, 16, 16, 16)
    weak, strong = (network(size * texture)[0] for size in (0.1, 1.0))
    assert (strong - strong.mean()).std() > 5 * (weak - weak.mean()).std()


def test_it_learns_to_tell_noise_from_its_blur():
    torch.manual_seed(0)
    network = PatchDiscriminator3D((8, 8))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(20):
        noise = 0.02 * torch.randn(2, 1, 8, 8, 16)  # 20 HU
        blurred = torch.nn.functional.avg_pool3d(noise, 3, 1, 1)
        loss = relativistic_loss(*logits_of_both(network, [noise], [blurred]), patch_weights(torch.ones_like(noise)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # ln 2 is chance
