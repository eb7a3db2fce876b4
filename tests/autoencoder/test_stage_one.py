"""One training step of stage 1."""

import pytest
import torch

from autoencoder import AutoencoderKL3D, VQAutoencoder3D
from autoencoder.losses.adversarial import PENALTY, relativistic_losses
from autoencoder.losses.basic import kl_loss, l1_loss, valid_cells
from autoencoder.losses.weights import LossWeights
from autoencoder.networks.discriminator import PatchDiscriminator3D, patch_weights
from autoencoder.stage_one import StageOne

ALL = LossWeights(kl=1e-2, wavelet=0.1, adversarial=0.5, adversarial_start=6, adversarial_head_start=4)


def stage_one(weights=ALL, kind=AutoencoderKL3D, **settings):
    torch.manual_seed(0)
    autoencoder = kind(channels=(6, 8), blocks_per_level=1, latent_channels=3, **settings)
    return StageOne(autoencoder, weights, PatchDiscriminator3D((4, 6), conditions=1))


def batch(size=2):
    random = torch.Generator().manual_seed(1)
    ct_norm = torch.rand(size, 1, 8, 12, 16, generator=random) * 2 - 1
    valid_mask = torch.ones_like(ct_norm)
    valid_mask[:, :, :, :, 12:] = 0
    lesion_mask = torch.zeros_like(ct_norm)
    lesion_mask[0, :, 2:6, 4:8, 4:10] = 1
    return {"ct_norm": ct_norm, "valid_mask": valid_mask, "lesion_mask": lesion_mask}


def test_total_is_the_weighted_sum_of_the_losses():
    stage, data = stage_one(), batch()
    total, logs = stage(data, None, step=0)
    assert total.item() == pytest.approx((logs["l1"] + 0.1 * logs["wavelet"] + 1e-2 * logs["kl"]).item(), rel=1e-5)
    reconstruction, mean, logvar = stage.autoencoder(data["ct_norm"])
    assert logs["l1"].item() == pytest.approx(l1_loss(reconstruction, data["ct_norm"], data["valid_mask"]).item())
    kl = kl_loss(mean, logvar, valid_cells(data["valid_mask"], 4)) / (8 * 12 * 12)
    assert logs["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    total, logs = stage(data, None, step=10)
    image = logs["l1"] + 0.1 * logs["wavelet"]
    adversarial = 0.5 * logs["adaptive_weight"] * logs["adversarial"]
    expected = image + 1e-2 * logs["kl"] + adversarial + logs["discriminator"] + PENALTY * logs["penalty"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_network_gets_the_gradient_of_its_own_loss_alone():
    stage, data = stage_one(), batch()
    stage(data, None, step=10)[0].backward()
    weights = list(stage.discriminator.parameters())
    gradients = [p.grad.clone() for p in weights]
    with torch.no_grad():
        fake = torch.where(data["valid_mask"] > 0, stage.autoencoder(data["ct_norm"])[0], data["ct_norm"])
    counts = patch_weights(data["valid_mask"] * (1 + 2 * data["lesion_mask"]))  # a voxel of a lesion counts three times
    networks = stage.discriminator, data["ct_norm"], fake, counts, data["lesion_mask"]
    _, own, penalty = relativistic_losses(*networks)
    own = own + PENALTY * penalty
    for gradient, expected in zip(gradients, torch.autograd.grad(own, weights), strict=True):
        torch.testing.assert_close(gradient, expected)
    last = stage.autoencoder.decoder.last_layer
    parts = [torch.zeros_like(last), torch.zeros_like(last)]
    for i, step in enumerate((0, 10)):  # without and with what it teaches
        last.grad = None
        stage(data, None, step=step)[0].backward()
        parts[i] = last.grad.clone()
    ratio = (parts[1] - parts[0]).norm() / parts[0].norm()
    assert ratio.item() == pytest.approx(0.5, rel=0.02)  # its weight: the pull is measured in that of the others


def test_the_discriminator_waits_for_its_start_and_then_learns_ahead_of_what_it_teaches():
    data, gradients = batch(), {}
    for step in (5, 6, 9, 10):
        stage = stage_one()
        total, logs = stage(data, None, step=step)
        total.backward()
        of_both = list(stage.discriminator.parameters()), list(stage.autoencoder.parameters())
        assert all(p.grad is not None for parameters in of_both for p in parameters)  # all in the graph at every step
        gradients[step] = [torch.cat([p.grad.flatten() for p in parameters]) for parameters in of_both]
        assert ("adversarial" in logs, "adaptive_weight" in logs) == (step >= 6, step >= 10)
    assert not gradients[5][0].any() and gradients[6][0].any()
    assert torch.equal(gradients[5][1], gradients[9][1]) and not torch.equal(gradients[9][1], gradients[10][1])


@pytest.mark.parametrize("kind", [AutoencoderKL3D, VQAutoencoder3D])
def test_padding_has_no_influence_on_any_loss(kind):
    data = batch()
    stage = stage_one(kind=kind).eval()
    plain = stage(data, None, step=10)[1]

    class WrongOnPadding(StageOne):
        def _reconstruct(self, ct_norm, valid_mask, cells, noise):
            reconstruction, *rest = super()._reconstruct(ct_norm, valid_mask, cells, noise)
            return reconstruction + 7 * (1 - valid_mask), *rest

    wrong = WrongOnPadding(stage.autoencoder, ALL, stage.discriminator).eval()(data, None, step=10)[1]
    assert all(torch.equal(plain[name], wrong[name]) for name in plain)


def test_statistics_are_the_gradient_norms_at_the_last_layers():
    stage, data = stage_one(), batch()
    _, logs = stage(data, None, step=10, statistics=True)
    names = {name.removeprefix("grad_norm/") for name in logs if name.startswith("grad_norm/")}
    assert names == {"l1", "wavelet", "adversarial", "kl"}
    reconstruction, _, _ = stage.autoencoder(data["ct_norm"])
    l1 = l1_loss(reconstruction, data["ct_norm"], data["valid_mask"])
    (expected,) = torch.autograd.grad(l1, stage.autoencoder.decoder.last_layer)
    assert logs["grad_norm/l1"].item() == pytest.approx(expected.norm().item(), rel=1e-4)


def test_vq_logs_perplexity_and_commits_to_its_codes():
    stage = stage_one(LossWeights(commitment=0.5), VQAutoencoder3D, codebook_size=8).train()
    total, logs = stage(batch(), None, step=0)
    assert total.item() == pytest.approx((logs["l1"] + 0.5 * logs["commitment"]).item(), rel=1e-5)
    assert 1 <= logs["perplexity"].item() <= 8
    total.backward()
    assert all(p.grad is not None for p in stage.autoencoder.parameters())


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="loss weight wavelet -1"):
        stage_one(LossWeights(wavelet=-1))
    with pytest.raises(ValueError, match="needs a discriminator"):
        StageOne(AutoencoderKL3D((4,), 1), LossWeights(adversarial=1.0))
    with pytest.raises(ValueError, match="needs its network"):
        stage_one(LossWeights(lpips=1.0))(batch(), None, step=0)
