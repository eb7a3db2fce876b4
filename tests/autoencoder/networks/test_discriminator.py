"""The patch discriminator and its losses."""

import pytest
import torch
from monai.losses import PatchAdversarialLoss

from autoencoder.networks.discriminator import PatchDiscriminator3D, adaptive_weight, adversarial_loss, hinge_loss


def logits(seed):
    return 2 * torch.randn(2, 1, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def test_hinge_losses_are_those_of_monai():
    real, fake = logits(0), logits(1)
    squashed = real.tanh(), fake.tanh()  # which MONAI does first
    peer = PatchAdversarialLoss(criterion="hinge", reduction="mean")
    expected = 0.5 * (peer(real, True, for_discriminator=True) + peer(fake, False, for_discriminator=True))
    torch.testing.assert_close(hinge_loss(*squashed), expected)
    expected = peer(fake, True, for_discriminator=False) - 1  # MONAI keeps max(0, 1 - D), which never cuts off here
    torch.testing.assert_close(adversarial_loss(squashed[1]), expected)


def test_padding_has_no_influence_on_the_losses():
    real, fake = logits(0), logits(1)
    valid = torch.ones_like(real)
    valid[:, :, :, :, 3:] = 0
    changed = torch.where(valid > 0, fake, 1e6)
    assert torch.equal(hinge_loss(real, changed, valid), hinge_loss(real, fake, valid))
    assert torch.equal(adversarial_loss(changed, valid), adversarial_loss(fake, valid))
    torch.testing.assert_close(hinge_loss(real, fake, valid), hinge_loss(real[..., :3], fake[..., :3]))


def test_a_logit_sees_28_voxels():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator3D((4, 6))
    ct_norm = torch.randn(1, 1, 48, 48, 48, requires_grad=True)
    output = discriminator(ct_norm)
    assert output.shape == (1, 1, 12, 12, 12)
    output[0, 0, 6, 6, 6].backward()
    seen = ct_norm.grad[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [28, 28, 28]


def test_discriminator_learns_to_tell_noise_from_its_blur():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator3D((8, 8))
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    for _ in range(25):
        noise = torch.randn(2, 1, 8, 8, 16)
        blurred = torch.nn.functional.avg_pool3d(noise, 3, 1, 1)
        loss = hinge_loss(*discriminator(torch.cat([noise, blurred])).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # 1 is chance


def test_adaptive_weight_makes_both_pulls_equal():
    reconstruction, adversarial = torch.randn(3, 4), 5 * torch.randn(3, 4)
    weight = adaptive_weight(reconstruction, adversarial)
    assert (weight * adversarial).norm().item() == pytest.approx(reconstruction.norm().item(), rel=1e-3)
    assert adaptive_weight(reconstruction, torch.zeros(3, 4)).item() <= 1e4
