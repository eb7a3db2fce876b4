"""The one-step baseline: what is trained at the noisiest step is what one step of the pipeline gives."""

import pytest
import torch
from tiny_models import pixel_autoencoder, pixel_pipeline, pixel_unet
from torch.testing import assert_close

from autoencoder.latents import standardise, unstandardise
from autoencoder.networks.discriminator import PatchDiscriminator3D
from diffusion.conditioning import blank, condition_of
from diffusion.one_step_gan import OneStepGAN
from diffusion.process import training_scheduler
from diffusion.sampling.crops import Crops
from diffusion.sampling.request import InpaintRequest
from imaging.window import to_hu, to_norm

SHAPE = (1, 1, 8, 12, 16)


@pytest.fixture
def crop() -> dict[str, torch.Tensor]:
    """HU and masks of one crop; the lesion, a margin around it, and a slice that is no scan."""
    lesion_mask, paint_mask = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    lesion_mask[..., 3:6, 4:8, 5:10] = 1
    paint_mask[..., 2:7, 3:9, 4:11] = 1
    valid_mask = torch.ones_like(lesion_mask)
    valid_mask[..., :1] = 0
    ct_hu = 1400 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) - 1100
    return {"ct_hu": ct_hu, "lesion_mask": lesion_mask, "paint_mask": paint_mask, "valid_mask": valid_mask}


def batch_of(crop: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A training batch and its x0."""
    vae, ct_norm = pixel_autoencoder(), to_norm(crop["ct_hu"])
    blanked = standardise(blank(ct_norm, crop["paint_mask"]), vae.config)
    return {**crop, "blanked_latent": blanked}, standardise(ct_norm, vae.config)


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_one_step_of_the_pipeline_is_the_generator_for_the_same_noise(crop, schedule):
    unet = pixel_unet()
    pipe = pixel_pipeline(unet, training_scheduler("x0", schedule))
    made = pipe.generate(Crops(**crop), InpaintRequest(steps=1), torch.Generator().manual_seed(5))
    assert pipe.scheduler.timesteps.tolist() == [999]

    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    batch, _ = batch_of(crop)
    condition = condition_of(batch["blanked_latent"], crop["lesion_mask"], crop["paint_mask"], crop["valid_mask"], 1)
    expected = unet(torch.cat([noise, condition], dim=1), 999, crop["lesion_mask"]).sample
    expected = to_hu(unstandardise(expected, pipe.vae.config).clamp(-1, 1))
    assert expected.std() > 1
    assert_close(made, expected, atol=1e-3, rtol=0)  # in HU


def test_the_generator_is_trained_at_the_noisiest_step_on_noise_alone_whatever_timestep_is_drawn(crop):
    batch, x0 = batch_of(crop)
    model = OneStepGAN(pixel_unet(), PatchDiscriminator3D((4, 4)))
    scheduler = training_scheduler("x0", "linear")
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    vae = pixel_autoencoder()
    losses = [model(vae, scheduler, batch, x0, noise, torch.tensor([t]))[1] for t in (0, 500)]
    assert losses[0] == losses[1] and set(losses[0]) == {"structure", "adversarial", "discriminator"}

    condition = condition_of(batch["blanked_latent"], crop["lesion_mask"], crop["paint_mask"], crop["valid_mask"], 1)
    made = model.unet(torch.cat([noise, condition], dim=1), 999, crop["lesion_mask"]).sample
    painted = (crop["paint_mask"] * crop["valid_mask"]) > 0
    assert_close(losses[0]["structure"][0], (made - x0)[painted].abs().mean().detach())


def test_generator_and_discriminator_both_learn_and_what_is_not_painted_is_not_judged(crop):
    batch, x0 = batch_of(crop)
    model = OneStepGAN(pixel_unet(), PatchDiscriminator3D((4, 4)))
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    total, losses, statistics = model(
        pixel_autoencoder(), training_scheduler("x0", "linear"), batch, x0, noise, torch.tensor([3])
    )
    total.backward()
    for network in (model.unet, model.discriminator):
        gradients = [parameter.grad for parameter in network.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)
    expected = 10 * losses["structure"] + losses["adversarial"] + losses["discriminator"]
    assert_close(total.detach(), expected.mean())
    assert statistics == {}
