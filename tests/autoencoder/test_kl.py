"""The autoencoders: interface, locality, files, errors."""

import pytest
import torch
from torch import Tensor, nn

from autoencoder import AutoencoderKL3D, IdentityAutoencoder, VQAutoencoder3D
from autoencoder.networks.blocks import SelfAttention3D, VoxelRMSNorm


def random_model(kind=AutoencoderKL3D, **settings):
    """Weights away from their initial zeros, so that every layer has an effect."""
    torch.manual_seed(0)
    model = kind(**{"channels": (6, 8), "blocks_per_level": 1, "latent_channels": 3} | settings)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def random_volume(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def reach(function, volume: Tensor, axis: int, width: int) -> int:
    """Last index along a spatial axis at which the output changes in any bit when the first `width` inputs change."""
    changed = volume.clone()
    changed.narrow(axis + 2, 0, width).add_(1)
    differs = (function(volume) != function(changed)).movedim(axis + 2, 0).flatten(1).any(dim=1)
    return int(differs.nonzero().max())


@torch.no_grad()
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_voxel_has_any_effect_beyond_the_receptive_field(axis):
    model = random_model()
    size = [8, 8, 8]
    size[axis] = 64
    assert 1 <= reach(lambda x: model.encode(x).latent_dist.mean, random_volume(1, 1, *size), axis, 4) <= 5
    latent = random_volume(1, 3, *[edge // 4 for edge in size])
    assert 12 <= reach(lambda z: model.decode(z).sample, latent, axis, 1) <= 21


@torch.no_grad()
def test_a_norm_over_space_would_break_locality():
    model = random_model()
    parents = [module for module in model.modules() if any(isinstance(m, VoxelRMSNorm) for m in module.children())]
    for module in parents:
        for name, child in list(module.named_children()):
            if isinstance(child, VoxelRMSNorm):
                setattr(module, name, nn.GroupNorm(1, len(child.gain)))
    assert reach(lambda x: model.encode(x).latent_dist.mean, random_volume(1, 1, 64, 8, 8), 0, 4) == 15


@torch.no_grad()
def test_a_window_with_margin_equals_the_window_of_the_whole():
    model = random_model()
    latent = random_volume(2, 3, 16, 4, 3)
    window = model.decode(latent[:, :, 2:15]).sample[:, :, 20:-20]  # 5 cells of margin
    torch.testing.assert_close(window, model.decode(latent).sample[:, :, 28:40], rtol=1e-5, atol=1e-5)
    ct_norm = random_volume(2, 1, 64, 12, 8)
    window = model.encode(ct_norm[:, :, 8:60]).latent_dist.mean[:, :, 5:-5]
    torch.testing.assert_close(window, model.encode(ct_norm).latent_dist.mean[:, :, 7:10], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "factor"),
    [
        (random_model(channels=(6,)), 2),
        (random_model(), 4),
        (random_model(channels=(4, 6, 8)), 8),
        (random_model(stem="conv"), 4),
        (IdentityAutoencoder(), 1),
    ],
    ids=["factor 2", "factor 4", "factor 8", "conv stem", "identity"],
)
def test_every_autoencoder_has_the_interface_of_diffusers_and_survives_saving(model, factor, tmp_path):
    ct_norm = random_volume(2, 1, 8, 16, 24)
    posterior = model.encode(ct_norm).latent_dist
    assert posterior.mode().shape == posterior.std.shape == model.latent_shape(ct_norm.shape)
    assert model.latent_shape(ct_norm.shape)[2:] == (8 // factor, 16 // factor, 24 // factor) and model.factor == factor
    assert model.decode(posterior.mode()).sample.shape == ct_norm.shape
    assert torch.equal(model.decode(posterior.mode(), return_dict=False)[0], model.decode(posterior.mode()).sample)
    assert torch.equal(model.encode(ct_norm, return_dict=False)[0].mean, posterior.mean)

    channels = posterior.mean.shape[1]
    model.register_to_config(latents_mean=[0.5] * channels, latents_std=[2.0] * channels)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config["latents_std"] == [2.0] * channels and loaded.config["window_level"] == -400
    assert torch.equal(loaded.encode(ct_norm).latent_dist.mean, posterior.mean)
    assert torch.equal(loaded.decode(posterior.mean).sample, model.decode(posterior.mean).sample)


@torch.no_grad()
def test_the_identity_is_exact_and_certain():
    ct_norm = random_volume(2, 1, 3, 5, 7)
    posterior = IdentityAutoencoder().encode(ct_norm).latent_dist
    assert torch.equal(posterior.mean, ct_norm) and torch.equal(posterior.sample(), ct_norm)
    assert torch.equal(IdentityAutoencoder().decode(ct_norm).sample, ct_norm)


@torch.no_grad()
def test_forward_decodes_the_mean_or_the_reparametrised_draw():
    model, ct_norm = random_model(), random_volume(2, 1, 8, 12, 16)
    posterior = model.encode(ct_norm).latent_dist
    reconstruction, mean, logvar = model(ct_norm)
    assert torch.equal(reconstruction, model.decode(posterior.mean).sample)
    assert torch.equal(mean, posterior.mean) and torch.equal(logvar, posterior.logvar)
    drawn = posterior.sample(generator=torch.Generator().manual_seed(5))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(model(ct_norm, noise)[0], model.decode(drawn).sample)


def test_wrong_sizes_and_settings_are_named():
    with pytest.raises(ValueError, match=r"shape \(1, 1, 8, 10, 8\).*divisible by 4; pad or crop the volume"):
        random_model().encode(random_volume(1, 1, 8, 10, 8))
    with pytest.raises(ValueError, match=r"shape \(1, 2, 8, 8, 8\), expected \(B, 1, D, H, W\)"):
        random_model().encode(random_volume(1, 2, 8, 8, 8))
    with pytest.raises(ValueError, match='stem "db4" is unknown; choose "haar" or "conv"'):
        AutoencoderKL3D(stem="db4")
    with pytest.raises(ValueError, match="channels is empty; give one width per factor of two"):
        AutoencoderKL3D(channels=())
    with pytest.raises(ValueError, match="latent_channels 4: the identity has exactly 1"):
        IdentityAutoencoder(latent_channels=4)


@pytest.mark.parametrize("kind", [AutoencoderKL3D, VQAutoencoder3D])
def test_gradient_checkpointing_changes_memory_and_not_gradients(kind):
    model = random_model(kind).train()
    ct_norm = torch.rand(2, 1, 8, 8, 12)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model.eval()(ct_norm)[0].square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        model.enable_gradient_checkpointing()
    assert model.encoder.gradient_checkpointing and model.decoder.gradient_checkpointing
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", [AutoencoderKL3D, VQAutoencoder3D])
@torch.no_grad()
def test_bfloat16_reconstructs_as_float32_to_its_precision(kind):
    model = random_model(kind).eval()
    ct_norm = torch.rand(1, 1, 8, 12, 16) * 2 - 1
    latent = model.encode(ct_norm).latent_dist.mode()
    exact = model.decode(latent).sample
    model.to(torch.bfloat16)
    half = model.encode(ct_norm.bfloat16()).latent_dist.mode()
    assert half.dtype == torch.bfloat16
    assert (half.float() - latent).abs().max() < 0.03 * latent.abs().max()
    made = model.decode(latent.bfloat16()).sample
    assert made.dtype == torch.bfloat16 and (made.float() - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_attention_is_that_of_torch_and_begins_as_the_identity():
    torch.manual_seed(0)
    block = SelfAttention3D(8)
    x = torch.randn(2, 8, 3, 4, 5)
    assert torch.equal(block(x), x)
    attention = block.attention
    torch.nn.init.normal_(attention.to_out[0].weight)
    cells = block.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (projection(cells) for projection in (attention.to_q, attention.to_k, attention.to_v))
    weights = torch.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1)  # one head of 8 channels
    expected = x + attention.to_out[0](weights @ v).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_group_norm_and_attention_are_no_local_operators():
    assert random_model().is_local
    for settings in ({"norm": "group"}, {"mid_attention": True}):
        model = random_model(**settings)
        assert not model.is_local
        assert model(torch.zeros(1, 1, 8, 8, 8))[0].shape == (1, 1, 8, 8, 8)
