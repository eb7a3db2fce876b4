"""One training step of stage 1."""

import pytest
import torch
from torch import nn

from autoencoder import AutoencoderKL3D, VQAutoencoder3D
from autoencoder.losses.basic import kl_loss, l1_loss, valid_cells
from autoencoder.losses.weights import LossWeights
from autoencoder.networks.discriminator import PatchDiscriminator3D, hinge_loss
from autoencoder.stage_one import StageOne

ALL = LossWeights(kl=1e-2, wavelet=0.1, adversarial=0.5, adversarial_start=10)


def stage_one(weights=ALL, kind=AutoencoderKL3D, **settings):
    torch.manual_seed(0)
    autoencoder = kind(channels=(6, 8), blocks_per_level=1, latent_channels=3, **settings)
    return StageOne(autoencoder, weights, PatchDiscriminator3D((4, 6)))


def batch(size=2):
    random = torch.Generator().manual_seed(1)
    ct_norm = torch.rand(size, 1, 8, 12, 16, generator=random) * 2 - 1
    valid_mask = torch.ones_like(ct_norm)
    valid_mask[:, :, :, :, 12:] = 0
    return {"ct_norm": ct_norm, "valid_mask": valid_mask}


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
    expected = image + 1e-2 * logs["kl"] + adversarial + logs["discriminator"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_network_gets_the_gradient_of_its_own_loss_alone():
    stage, data = stage_one(), batch()
    stage(data, None, step=10)[0].backward()
    weights = list(stage.discriminator.parameters())
    gradients = [p.grad.clone() for p in weights]
    with torch.no_grad():
        fake = torch.where(data["valid_mask"] > 0, stage.autoencoder(data["ct_norm"])[0], data["ct_norm"])
    valid = nn.functional.avg_pool3d(data["valid_mask"], 4)
    own = hinge_loss(*stage.discriminator(torch.cat([data["ct_norm"], fake])).chunk(2), valid)
    for gradient, expected in zip(gradients, torch.autograd.grad(own, weights), strict=True):
        torch.testing.assert_close(gradient, expected)
    last = stage.autoencoder.decoder.last_layer
    parts = [torch.zeros_like(last), torch.zeros_like(last)]
    for i, step in enumerate((0, 10)):  # without and with the discriminator
        last.grad = None
        stage(data, None, step=step)[0].backward()
        parts[i] = last.grad.clone()
    ratio = (parts[1] - parts[0]).norm() / parts[0].norm()
    assert ratio.item() == pytest.approx(0.5, rel=0.02)  # its weight: the pull is measured in that of the others


def test_before_its_start_the_discriminator_is_in_the_graph_and_stays_as_it_is():
    stage = stage_one()
    stage(batch(), None, step=9)[0].backward()
    assert all(p.grad is not None and not p.grad.any() for p in stage.discriminator.parameters())
    assert all(p.grad is not None for p in stage.autoencoder.parameters())


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
