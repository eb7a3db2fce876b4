"""The VQ autoencoder."""

import torch
from diffusers import VQModel

from autoencoder import VQAutoencoder3D
from autoencoder.latents import latent_statistics, standardise, unstandardise
from autoencoder.loading import load_autoencoder


def small_model(**settings) -> VQAutoencoder3D:
    torch.manual_seed(0)
    return VQAutoencoder3D(
        **{"channels": (6, 8), "blocks_per_level": 1, "latent_channels": 3, "codebook_size": 16} | settings
    )


def ct(*shape) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_decode_puts_every_cell_on_the_codebook():
    model = small_model().eval()
    latents = model.encode(ct(2, 1, 8, 12, 16)).latents
    assert latents.shape == model.latent_shape((2, 1, 8, 12, 16)) == (2, 3, 2, 3, 4)
    codes, indices = model.quantise(latents)
    assert torch.allclose(codes, model.codebook.vectors[indices].movedim(-1, 1), atol=1e-6)
    assert torch.allclose(model.decode(latents).sample, model.decode(codes).sample, atol=1e-5)
    kept = model.decode(latents, force_not_quantize=True).sample
    assert not torch.allclose(model.decode(latents).sample, kept)


def test_nearest_code_is_that_of_diffusers_vq_model():
    peer = VQModel(block_out_channels=(32,), latent_channels=3, num_vq_embeddings=16, vq_embed_dim=3).quantize
    model = small_model()
    model.codebook.sums.copy_(peer.embedding.weight.detach())
    latents = 0.1 * torch.randn(2, 3, 4, 5, 1)
    codes, _, (_, _, indices) = peer(latents[..., 0])
    ours, our_indices = model.quantise(latents)
    assert torch.equal(our_indices.flatten(), indices.flatten())
    torch.testing.assert_close(ours[..., 0], codes)


def test_gradient_passes_straight_through_the_codes():
    model = small_model().eval()
    latents = model.encode(ct(1, 1, 8, 8, 8)).latents.detach().requires_grad_(True)
    codes, _ = model.quantise(latents)
    (2 * codes).sum().backward()
    assert torch.equal(latents.grad, torch.full_like(latents, 2.0))


def test_codebook_learns_in_training_alone():
    model = small_model()
    model.eval()(ct(1, 1, 16, 16, 16))
    assert model.codebook.updates == 0
    model.train()(ct(1, 1, 16, 16, 16))
    assert model.codebook.updates == 1


def test_latent_dist_is_the_latent_without_spread():
    model = small_model().eval()
    output = model.encode(ct(1, 1, 8, 8, 8))
    for latent in (output.latent_dist.mode(), output.latent_dist.sample(), output.latent_dist.mean):
        assert torch.equal(latent, output.latents)
    assert not output.latent_dist.std.any()
    mean, std = latent_statistics([(output.latent_dist.mean, output.latent_dist.std)])
    config = {"latents_mean": mean, "latents_std": std}
    standard = standardise(output.latents, config)
    assert torch.allclose(standard.std(dim=(0, 2, 3, 4), correction=0), torch.ones(3), atol=1e-4)
    assert torch.allclose(unstandardise(standard, config), output.latents, atol=1e-5)


def test_a_saved_model_comes_back_with_its_codebook(tmp_path):
    model = small_model()
    model.train()(ct(2, 1, 16, 16, 16))
    model.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert torch.equal(loaded.codebook.vectors, model.codebook.vectors)
    volume = ct(1, 1, 8, 8, 8)
    latents = model.eval().encode(volume).latents
    assert torch.equal(loaded.decode(latents).sample, model.decode(latents).sample)
