"""Paired generation: the factorised step against a closed form, what each network sees, and regions in crops."""

import pytest
import torch
from tiny_models import pixel_autoencoder, randomised, tiny_unet
from torch.testing import assert_close

from autoencoder.latents import standardise
from diffusion.conditioning import BLANK
from diffusion.paired import FactorisedSampler, Pair, PairedDiffusion, ball, mask_conditions, region_batch
from diffusion.process import target_of, training_scheduler
from diffusion.sampling.samplers import sampler_of, set_steps
from diffusion.unet import SPADEUNet3D
from imaging.semantic_map import LABELS, LUNG
from imaging.window import to_norm

SHAPE = (2, 1, 8, 8, 8)
LESION = LABELS.index("lesion")


def scalar(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
def test_the_factorised_step_samples_the_joint_of_two_gaussians(sampler):
    """x ~ N(m, s²), y | x ~ N(a x + b, r²), with the exact predictors; the sampler is affine in the first noise."""
    m, s, a, b, r = 0.4, 0.6, 1.5, -0.7, 0.3
    mean = torch.tensor([m, a * m + b], dtype=torch.float64)
    covariance = torch.tensor([[s * s, a * s * s], [a * s * s, a * a * s * s + r * r]], dtype=torch.float64)
    scheduler = sampler_of(sampler, trained := training_scheduler("v"))
    alphas = trained.alphas_cumprod.double()

    def v_of(x0: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, rows = alphas[int(t)], t.long().expand(len(noisy))
        noise = (noisy.double() - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        return target_of(trained, x0, noise, rows)

    def predict_mask(state: Pair, t: torch.Tensor) -> torch.Tensor:  # E[x0 | x_t, y_t] of the joint Gaussian
        alpha = alphas[int(t)]
        seen = torch.stack([state.mask.flatten(), state.image.flatten()]).double() - alpha.sqrt() * mean[:, None]
        gain = (
            alpha.sqrt()
            * covariance
            @ torch.linalg.inv(alpha * covariance + (1 - alpha) * torch.eye(2, dtype=torch.float64))
        )
        return v_of((m + (gain @ seen)[0]).view_as(state.mask), state.mask, t)

    def predict_image(estimate: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha = alphas[int(t)]  # E[y0 | y_t, x0 = x̂0]
        of_mask = a * estimate.double() + b
        gain = alpha.sqrt() * r * r / (alpha * r * r + 1 - alpha)
        return v_of(of_mask + gain * (noisy.double() - alpha.sqrt() * of_mask), noisy, t)

    set_steps(scheduler, 250)
    factorised = FactorisedSampler(scheduler, predict_mask, predict_image)
    first = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    state = Pair(*(column.reshape(3, 1, 1, 1, 1) for column in first.T))
    for t in factorised.timesteps:
        state = factorised.step(state, t).state
    ends = torch.stack([state.mask.flatten(), state.image.flatten()], 1).double()
    gains = (ends[1:] - ends[0]).T
    error = 0.015 if sampler == "ddim" else 0.005  # of the steps, the first of which is of first order
    assert_close(ends[0], mean, atol=error, rtol=0)
    assert_close(gains @ gains.T, covariance, atol=error, rtol=0)


def batch() -> dict[str, torch.Tensor]:
    lesion_mask = torch.zeros(SHAPE, dtype=torch.uint8)
    lesion_mask[..., 3:5, 3:6, 3:5] = 1
    semantic_map = torch.where(lesion_mask > 0, LESION, LUNG).to(torch.uint8)
    semantic_map[..., 7] = LABELS.index("soft_tissue")
    ct_norm = to_norm(1400 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) - 1100)
    return {
        "ct_norm": ct_norm,
        "lesion_mask": lesion_mask,
        "valid_mask": torch.ones_like(lesion_mask),
        "semantic_map": semantic_map,
        "spacing_mm": torch.full((2, 3), 2.0),
        "attributes": torch.tensor([[8.0, 3.0], [6.0, torch.nan]]),
    }


def networks() -> tuple[SPADEUNet3D, SPADEUNet3D]:
    torch.manual_seed(0)
    common = {"map_factor": 1, "channels": (4, 8), "blocks_per_level": 1}
    mask_unet = SPADEUNet3D(1, mask_conditions(1), map_channels=0, attributes=("diameter_mm",), **common)
    attributes = ("spiculation", "diameter_mm")
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, num_labels=8, attributes=attributes)
    return randomised(mask_unet), unet


def loss_of(model: PairedDiffusion, given: bool, hidden: bool = False) -> dict[str, torch.Tensor]:
    """Losses after a backward pass."""
    vae, draws = pixel_autoencoder(), torch.full((2, 5), 0.5)
    made = region_batch(batch(), vae, draws, 0.0, None)
    clean = Pair(2.0 * made["lesion_mask"] - 1, standardise(made["ct_norm"], vae.config))
    noise = Pair(*torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)))
    rows = torch.tensor([900, 400])
    total, losses = model(
        vae,
        training_scheduler("v"),
        made,
        clean,
        noise,
        rows,
        torch.tensor([given, given]),
        torch.tensor([hidden, hidden]),
    )
    total.backward()
    return losses


def test_both_networks_learn_and_model_y_sees_the_estimate_of_the_mask():
    model = PairedDiffusion(*networks(), names=("diameter_mm", "spiculation"))
    estimated, true = loss_of(model, given=False), loss_of(model, given=True)
    assert_close(estimated["mask"], true["mask"])
    assert not torch.allclose(estimated["image"], true["image"])
    for network in (model.mask_unet, model.unet):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_model_x_may_not_see_the_image():
    model = PairedDiffusion(*networks(), ("diameter_mm", "spiculation"), parts="mask")
    inputs = []
    model.mask_unet.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    seen, unseen = (loss_of(model, given=False, hidden=hidden) for hidden in (False, True))
    assert not torch.equal(seen["mask"], unseen["mask"])
    assert inputs[0][:, 1].any() and not inputs[1][:, 1].any()  # after the mask comes the image
    for channel in (0, 2, 3, 4):
        assert torch.equal(inputs[0][:, channel], inputs[1][:, channel])


def test_model_x_learns_nothing_from_the_loss_of_the_image():
    names = ("diameter_mm", "spiculation")
    alone, both = PairedDiffusion(*networks(), names, parts="mask"), PairedDiffusion(*networks(), names)
    assert set(loss_of(alone, given=False)) == {"mask"}
    loss_of(both, given=False)
    assert all(parameter.grad is None for parameter in alone.unet.parameters())
    for a, b in zip(alone.mask_unet.parameters(), both.mask_unet.parameters(), strict=True):
        if a.grad is not None:
            assert_close(a.grad, b.grad)


def test_an_unconditional_image_network_sees_no_mask():
    model = PairedDiffusion(*networks(), ("diameter_mm", "spiculation"), parts="image")
    shown, hidden = loss_of(model, given=True), loss_of(model, given=False)
    assert set(shown) == {"image"}
    assert_close(shown["image"], hidden["image"])
    assert all(parameter.grad is None for parameter in model.mask_unet.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.unet.parameters())


@pytest.mark.parametrize("draw", [0.0, 0.4, 0.99])
def test_a_region_hides_the_lesion_with_its_rim_and_its_labels(draw):
    given = batch()
    made = region_batch(given, pixel_autoencoder(), torch.full((2, 5), draw), 0.0, None)
    rim = torch.nn.functional.max_pool3d(given["lesion_mask"].float(), 3, 1, 1)  # 2 mm along every axis
    axes = torch.zeros_like(rim)
    for axis in (2, 3, 4):
        for step in (-1, 0, 1):
            axes = torch.maximum(axes, given["lesion_mask"].roll(step, axis).float())
    assert bool((made["paint_mask"] >= axes.minimum(rim)).all())
    assert not made["paint_mask"].all() or draw > 0.9
    blank = standardise(torch.full((1, 1, 1, 1, 1), BLANK), pixel_autoencoder().config).flatten()
    assert_close(made["blanked_latent"][made["paint_mask"] > 0].unique(), blank)
    known = given["semantic_map"] != LESION
    assert torch.equal(made["background_map"][known], given["semantic_map"][known])
    assert set(made["background_map"].unique().tolist()) == {LUNG, LABELS.index("soft_tissue")}


def test_of_a_crop_that_is_painted_altogether_nothing_is_known():
    empty = torch.full((1, 1, 8, 8, 8), -3.0)
    draws = torch.full((2, 5), 0.5)
    draws[0, 0] = 0.1
    made = region_batch(batch(), pixel_autoencoder(), draws, 0.2, empty)
    assert made["paint_mask"][0].all() and bool((made["background_map"][0] == LUNG).all())
    assert bool((made["blanked_latent"][0] == -3.0).all())
    assert not made["paint_mask"][1].all() and not bool((made["background_map"][1] == LUNG).all())


def test_a_ball_has_its_volume_and_its_centre():
    made = ball((40, 44, 48), (18.0, 20.0, 22.0), 12.0)
    assert float(made.sum()) == pytest.approx(4 / 3 * torch.pi * 12**3, rel=0.02)
    assert_close(made[0, 0].nonzero().double().mean(0), torch.tensor([18.0, 20.0, 22.0], dtype=torch.float64))
