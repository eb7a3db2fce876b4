"""Adversarial diffusion: SynDiff's large steps against closed forms, and which loss teaches which network."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from tiny_models import pixel_autoencoder, pixel_unet, tiny_unet
from torch.testing import assert_close

from autoencoder import AutoencoderKL3D
from autoencoder.latents import standardise, unstandardise
from diffusion.adversarial import AdversarialDiffusion
from diffusion.conditioning import blank, condition_channels
from diffusion.discriminators import LatentDiscriminator
from diffusion.losses.border import border_loss
from diffusion.option_types import AdversarialConfig, TextureConfig
from diffusion.process import add_noise, network_times, training_scheduler
from diffusion.sampling.samplers import sampler_of
from diffusion.stage_two import unet_output
from diffusion.syndiff_scheduler import posterior, syndiff_rows, syndiff_signal
from imaging.window import to_norm

SHAPE = (2, 1, 16, 16, 16)


def test_the_signal_is_the_integral_of_syndiffs_linear_noise_rate():
    share = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    log_signal = -torch.cumulative_trapezoid(0.1 + (20 - 0.1) * share, share)  # d log ᾱ/ds = -β̄(s)
    expected = torch.stack([log_signal[-1], log_signal[74_999], log_signal[49_999], log_signal[24_999]]).exp()
    assert_close(syndiff_signal(4), expected, rtol=1e-6, atol=0)


def test_the_posterior_is_the_gaussian_conditioned_on_the_noisier_state():
    alpha_t, alpha_before, x0, noisy = 0.08, 0.52, 1.7, -0.4
    # x_{t-k} ~ N(√ᾱ_{t-k} x0, 1 - ᾱ_{t-k}) and x_t = √(ᾱ_t/ᾱ_{t-k}) x_{t-k} + noise, jointly Gaussian
    step = alpha_t / alpha_before
    mean_before, mean_t = math.sqrt(alpha_before) * x0, math.sqrt(alpha_t) * x0
    variance_before, covariance = 1 - alpha_before, math.sqrt(step) * (1 - alpha_before)
    expected = mean_before + covariance / (1 - alpha_t) * (noisy - mean_t)
    deviation = math.sqrt(variance_before - covariance**2 / (1 - alpha_t))
    of_x0, of_noisy, found = posterior(alpha_t, alpha_before)
    assert of_x0 * x0 + of_noisy * noisy == pytest.approx(expected)
    assert found == pytest.approx(deviation)


def test_a_step_of_the_scheduler_draws_from_the_posterior_and_the_last_one_gives_the_prediction():
    trained = training_scheduler("x0")
    scheduler = sampler_of("syndiff", trained)
    scheduler.set_timesteps(4)
    rows = syndiff_rows(trained.alphas_cumprod, 4)
    assert scheduler.timesteps.tolist() == rows and isinstance(scheduler, DDPMScheduler)
    signal = trained.alphas_cumprod[rows].double()
    assert_close(signal.logit(), syndiff_signal(4).logit(), atol=0.25, rtol=0)  # the nearest of a thousand rows

    noisy, prediction = torch.full((1, 1, 200_000), -0.4), torch.full((1, 1, 200_000), 1.7)
    made = scheduler.step(prediction, rows[1], noisy, generator=torch.Generator().manual_seed(0)).prev_sample
    of_x0, of_noisy, deviation = posterior(float(signal[1]), float(signal[2]))
    assert float(made.mean()) == pytest.approx(of_x0 * 1.7 - of_noisy * 0.4, abs=5 * deviation / math.sqrt(200_000))
    assert float(made.std()) == pytest.approx(deviation, rel=0.01)
    assert_close(scheduler.step(prediction, rows[-1], noisy).prev_sample, prediction, atol=1e-4, rtol=0)


def test_more_calls_than_the_schedule_can_tell_apart_are_refused():
    with pytest.raises(ValueError, match="timesteps coincide"):
        syndiff_rows(training_scheduler("v").alphas_cumprod, 900)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    lesion_mask, paint_mask = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    lesion_mask[..., 6:10, 6:10, 6:10] = 1
    paint_mask[..., 4:12, 4:12, 4:12] = 1
    ct_norm = to_norm(1400 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) - 1100)
    blanked = standardise(blank(ct_norm, paint_mask), pixel_autoencoder().config)
    masks = {"lesion_mask": lesion_mask, "paint_mask": paint_mask, "valid_mask": torch.ones_like(lesion_mask)}
    return {**masks, "ct_norm": ct_norm, "blanked_latent": blanked}


def step_of(batch: dict[str, torch.Tensor], config: AdversarialConfig) -> tuple[AdversarialDiffusion, dict]:
    """A model after one backward pass, and its losses."""
    torch.manual_seed(0)
    model = AdversarialDiffusion(pixel_unet(), config, factor=1)
    x0 = standardise(batch["ct_norm"], pixel_autoencoder().config)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    total, losses, _ = model(
        pixel_autoencoder(), training_scheduler("v"), batch, x0, noise, torch.tensor([10, 990]), statistics=True
    )
    total.backward()
    return model, losses


def test_all_networks_learn_from_one_backward_pass(batch):
    model, losses = step_of(batch, AdversarialConfig(image=1.0, latent=0.5, head_start=0))
    for network in (model.unet, *model.discriminators.values()):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert {name for name in losses if "_" in name} == {
        f"{kind}_{part}" for kind in ("image", "latent") for part in ("generator", "discriminator", "penalty")
    }


def test_the_discriminators_have_no_gradient_of_the_generators_loss(batch):
    """Twice its weight doubles what the U-Net gets from it and changes nothing for the discriminators."""
    once, twice = (
        step_of(batch, AdversarialConfig(image=weight, anchor=0.0, head_start=0))[0] for weight in (1.0, 2.0)
    )
    for a, b in zip(once.discriminators.parameters(), twice.discriminators.parameters(), strict=True):
        assert_close(a.grad, b.grad)
    for a, b in zip(once.unet.parameters(), twice.unet.parameters(), strict=True):
        if a.grad is not None:
            assert_close(2 * a.grad, b.grad)


def test_simulated_states_are_those_of_the_sampler(batch):
    config = AdversarialConfig(simulated=1.0)
    model, scheduler = AdversarialDiffusion(pixel_unet(), config, factor=1), training_scheduler("v")
    sampler, vae = sampler_of("syndiff", scheduler), pixel_autoencoder()
    sampler.set_timesteps(4)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    expected = noise
    torch.manual_seed(2)
    with torch.no_grad():
        for t in sampler.timesteps[:2]:
            output = unet_output(model.unet, vae, batch, expected, t.expand(2))
            expected = sampler.step(output, t, expected).prev_sample
    torch.manual_seed(2)
    step, everything = torch.tensor([2, 2]), torch.tensor([True, True])
    found = model._simulate(vae, scheduler, batch, noise + 1, noise, step, sampler.timesteps, everything)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    one = model._simulate(vae, scheduler, batch, noise + 1, noise, step, sampler.timesteps, torch.tensor([True, False]))
    assert torch.equal(one[1], noise[1] + 1) and not torch.equal(one[0], noise[0] + 1)


def test_a_simulated_sample_has_no_diffusion_loss_and_the_first_call_always_has_it(batch):
    _, losses = step_of(batch, AdversarialConfig(simulated=1.0))  # t = 10 is the last call, 990 the first
    first, last = losses["structure"].flip(0)
    assert first > 0 and last == 0


def test_the_decoder_learns_along_where_reconstruction_counts_and_the_encoder_stays(batch):
    statistics = {"latents_mean": [0.0], "latents_std": [1.0]}
    vae = AutoencoderKL3D(channels=(4,), blocks_per_level=1, latent_channels=1, **statistics).requires_grad_(False)
    x0 = standardise(vae.encode(batch["ct_norm"]).latent_dist.mode(), vae.config)
    unet = tiny_unet(latent_channels=x0.shape[1], condition_channels=condition_channels(x0.shape[1], 2))
    config = AdversarialConfig(reconstruction=1.0, head_start=0)
    model = AdversarialDiffusion(unet, config, vae.factor, autoencoder=vae)
    given = batch | {"blanked_latent": torch.zeros_like(x0)}
    total, losses, _ = model(vae, training_scheduler("v"), given, x0, torch.randn_like(x0), torch.tensor([10, 990]))
    total.backward()
    assert any(parameter.grad.any() for parameter in vae.decoder.parameters())
    assert all(parameter.grad is None for parameter in vae.encoder.parameters())
    painted = batch["paint_mask"][:1] > 0
    decoded = vae.decode(unstandardise(x0, vae.config)).sample[:1]
    assert_close(losses["reconstruction"][0], (decoded - batch["ct_norm"][:1])[painted].abs().mean())


def test_texture_losses_see_the_decoded_lesion_in_its_real_surroundings(batch):
    texture = TextureConfig({"border": 0.5})
    torch.manual_seed(0)
    given = batch | {"spacing_mm": torch.ones(2, 3)}
    config = AdversarialConfig(image=0.0, anchor=0.0)
    model, vae = AdversarialDiffusion(pixel_unet(), config, factor=1, texture=texture), pixel_autoencoder()
    x0, noise = standardise(batch["ct_norm"], vae.config), torch.randn(SHAPE)
    scheduler, t = training_scheduler("x0"), torch.tensor([10, 990])
    total, losses, _ = model(vae, scheduler, given, x0, noise, t)
    rows = torch.tensor(syndiff_rows(scheduler.alphas_cumprod, 4))[[3, 0]]
    noisy = add_noise(scheduler, x0, noise, rows)
    made = unet_output(model.unet, vae, batch, noisy, network_times(scheduler, rows))
    pasted = torch.where(batch["paint_mask"] > 0, unstandardise(made, vae.config), batch["ct_norm"].clamp(-1, 1))
    expected = border_loss(pasted, batch["ct_norm"].clamp(-1, 1), batch["lesion_mask"], reduction="none")
    assert_close(losses["border"], expected.detach(), atol=1e-5, rtol=1e-4)
    assert_close(total, 0.5 * losses["border"].mean(), atol=1e-6, rtol=1e-5)
    total.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.unet.parameters())


def test_without_discriminators_it_is_the_diffusion_loss_at_the_large_steps(batch):
    model, losses = step_of(batch, AdversarialConfig(image=0.0, latent=0.0))
    assert set(losses) == {"structure"} and not len(model.discriminators)
    assert losses["structure"].shape == (2,)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"adversarial.calls 0: expected at least 1"):
        AdversarialConfig(calls=0)
    with pytest.raises(ValueError, match=r"adversarial.image -1"):
        AdversarialConfig(image=-1)


def test_the_latent_discriminator_knows_the_state_that_the_step_started_from():
    torch.manual_seed(0)
    network = LatentDiscriminator(4, 2, 2, channels=4)
    before, noisy, mask = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 4, 4, 4), torch.ones(1, 1, 8, 8, 8)
    (logits,) = network(before, noisy, mask, torch.tensor([2]))
    assert logits.shape == (1, 1, 4, 4, 4)
    assert not torch.equal(logits, network(before, -noisy, mask, torch.tensor([2]))[0])
