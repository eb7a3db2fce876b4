"""Latent statistics: measured as NumPy measures them on draws, and applied so that latents become standard."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from autoencoder.latents import decoded_gains, density_direction, latent_statistics, standardise, unstandardise


def posteriors(count: int, shape=(2, 3, 4, 5, 6)):
    torch.manual_seed(0)
    offset, scale = torch.tensor([5.0, -20.0, 0.0]).view(-1, 1, 1, 1), torch.tensor([0.3, 4.0, 1.0]).view(-1, 1, 1, 1)
    return [(offset + scale * torch.randn(shape), scale * torch.rand(shape)) for _ in range(count)]


def test_statistics_are_those_of_latents_drawn_from_the_posteriors():
    pairs = posteriors(4)
    rng = np.random.default_rng(0)
    draws = [mean.numpy() + std.numpy() * rng.standard_normal((200, *mean.shape)) for mean, std in pairs]
    drawn = np.concatenate(draws).transpose(2, 0, 1, 3, 4, 5).reshape(3, -1)
    mean, std = latent_statistics(pairs)
    np.testing.assert_allclose(mean, drawn.mean(axis=1), atol=0.02)
    np.testing.assert_allclose(std, drawn.std(axis=1), rtol=0.01)


def test_statistics_of_certain_posteriors_are_exactly_numpys_however_they_are_batched():
    pairs = [(mean, torch.zeros_like(std)) for mean, std in posteriors(3)]
    latents = np.concatenate([mean.numpy() for mean, _ in pairs]).astype(np.float64).transpose(1, 0, 2, 3, 4)
    expected = latents.reshape(3, -1).mean(axis=1), latents.reshape(3, -1).std(axis=1)
    np.testing.assert_allclose(latent_statistics(pairs), expected, rtol=1e-9)
    singles = [(mean[i : i + 1], std[i : i + 1]) for mean, std in pairs for i in range(2)]
    np.testing.assert_allclose(latent_statistics(singles), expected, rtol=1e-9)


def test_standardised_latents_have_zero_mean_and_unit_variance_and_come_back():
    latents = torch.cat([mean for mean, _ in posteriors(3)])
    mean, std = latent_statistics([(latents, torch.zeros_like(latents))])
    config = {"latents_mean": mean, "latents_std": std}
    standard = standardise(latents, config)
    torch.testing.assert_close(standard.mean(dim=(0, 2, 3, 4)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard.std(dim=(0, 2, 3, 4), correction=0), torch.ones(3), rtol=1e-5, atol=0)
    torch.testing.assert_close(unstandardise(standard, config), latents, rtol=1e-5, atol=1e-5)


def test_unmeasured_statistics_and_an_empty_training_split_are_named():
    with pytest.raises(ValueError, match=r"no latents_mean and latents_std; run scripts/encode_latents\.py"):
        standardise(torch.zeros(1, 3, 2, 2, 2), {"latents_mean": None, "latents_std": None})
    with pytest.raises(ValueError, match="the training split is empty"):
        latent_statistics([])


class LinearAutoencoder:
    """Decodes each cell to `slopes` · latent, whatever its config standardises by."""

    device = "cpu"

    def __init__(self, *slopes: float) -> None:
        self.config = {"window_width": 1500.0, "window_level": -400.0}
        self.config |= {"latents_mean": [3.0, -1.0], "latents_std": [2.0, 0.5]}
        self.slopes = torch.tensor(slopes).view(1, -1, 1, 1, 1)

    def encode(self, ct_norm):
        latent = F.avg_pool3d(ct_norm, 4).expand(-1, 2, -1, -1, -1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latent))

    def decode(self, latent):
        return SimpleNamespace(sample=F.interpolate((self.slopes * latent).sum(1, keepdim=True), scale_factor=4))


def test_direction_of_density_is_that_of_the_decoded_means_gradient_in_standard_deviations():
    direction = density_direction(LinearAutoencoder(1.0, -3.0))
    torch.testing.assert_close(direction, torch.tensor([2.0, -1.5]) / 2.5)


def test_gains_have_the_directions_and_the_ratios_of_a_linear_decoders_slopes():
    vae = LinearAutoencoder(1.0, -3.0)  # 2 and -1.5 in standard deviations
    latent, weight = torch.zeros(1, 2, 4, 4, 4), torch.ones(1, 1, 4, 4, 4)
    gains = decoded_gains(vae, latent, weight)
    slopes = torch.tensor([2.0, -1.5])
    torch.testing.assert_close(gains.T @ gains, 2 * torch.outer(slopes, slopes) / slopes.square().sum())


def test_gains_give_what_the_decoder_makes_of_any_small_error():
    torch.manual_seed(0)
    weight, mixing = torch.ones(1, 1, 6, 6, 6), torch.randn(7, 3)

    class Mixing(LinearAutoencoder):
        def __init__(self) -> None:
            self.config = {"latents_mean": [0.0, 1.0, 2.0], "latents_std": [1.0, 2.0, 0.5]}

        def decode(self, latent):
            return SimpleNamespace(sample=torch.einsum("kc, bcdhw -> bkdhw", mixing, latent).tanh())

    gains = decoded_gains(Mixing(), torch.full((1, 3, 6, 6, 6), -0.5), weight, step=1e-3)
    errors = 1e-3 * torch.randn(50, 3, 1, 1, 1)
    before = Mixing().decode(unstandardise(torch.full((1, 3, 1, 1, 1), -0.5), Mixing().config)).sample
    changed = Mixing().decode(unstandardise(errors - 0.5, Mixing().config)).sample
    actual, predicted = (changed - before).square().flatten(1).sum(1), (errors.flatten(1) @ gains.T).square().sum(1)
    ratio = actual / predicted
    torch.testing.assert_close(ratio, ratio.mean().expand(50), rtol=0.03, atol=0)
