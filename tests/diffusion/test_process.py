"""Targets, x̂0 and the loss, against Diffusers' schedulers and closed forms."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from diffusion.losses.structure import diffusion_loss, directional_loss
from diffusion.process import (
    TARGETS,
    add_noise,
    alphas_of,
    guided_output,
    network_times,
    predicted_x0,
    target_of,
    training_scheduler,
)

SHAPE = (2, 3, 4, 5, 6)


def draws() -> tuple[Tensor, Tensor, Tensor]:
    """x0, ε and two timesteps; float64, so that the last timestep's division by √ᾱ keeps digits."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return x0, noise, torch.tensor([150, 870])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear", "scaled_linear"])
def test_x0_predicted_from_the_exact_target_is_x0(target: str, schedule: str):
    scheduler = training_scheduler(target, schedule)
    x0, noise, t = draws()
    noisy = add_noise(scheduler, x0, noise, t)
    if target != "flow":
        assert_close(noisy, scheduler.add_noise(x0, noise, t))
    assert_close(predicted_x0(scheduler, target_of(scheduler, x0, noise, t), noisy, t), x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "flow"])
@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_x0_of_any_output_is_what_the_scheduler_steps_with(target: str, kind: str):
    scheduler = training_scheduler(target)
    output, noisy, t = draws()
    stepping = scheduler if kind == "ddpm" else DDIMScheduler.from_config(scheduler.config)
    stepping.set_timesteps(1000)
    for index in range(2):
        one = slice(index, index + 1)
        ours = predicted_x0(scheduler, output[one], noisy[one], t[one])
        assert_close(ours, stepping.step(output[one], int(t[index]), noisy[one]).pred_original_sample)


def test_velocity_is_diffusers_and_the_rotation_of_x0_and_noise():
    """With √ᾱ = cos φ the pair (x_t, v) is (x0, ε) turned by φ."""
    scheduler = training_scheduler("v")
    x0, noise, t = draws()
    v, noisy = target_of(scheduler, x0, noise, t), scheduler.add_noise(x0, noise, t)
    assert torch.equal(v, scheduler.get_velocity(x0, noise, t))
    assert_close(v.square() + noisy.square(), x0.square() + noise.square())
    assert torch.equal(target_of(training_scheduler("epsilon"), x0, noise, t), noise)
    assert torch.equal(target_of(training_scheduler("x0"), x0, noise, t), x0)


def test_guidance_moves_x0_alike_for_every_target():
    x0, noise, _ = draws()
    gradient, t = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor(600)
    ts = t.expand(2)
    alpha_bar = training_scheduler("v").alphas_cumprod[600].double()
    moved = x0 + (1 - alpha_bar) / alpha_bar.sqrt() * gradient
    for target in [target for target in TARGETS if target != "flow"]:
        scheduler = training_scheduler(target)
        noisy = scheduler.add_noise(x0, noise, ts)
        output = guided_output(scheduler, target_of(scheduler, x0, noise, ts), t, gradient)
        assert_close(predicted_x0(scheduler, output, noisy, ts), moved, rtol=1e-5, atol=1e-5)


def test_guidance_of_the_noise_is_dhariwal_and_nichols():
    scheduler = training_scheduler("epsilon")
    _, noise, t = draws()
    sigma = (1 - scheduler.alphas_cumprod[t[0]]).sqrt().double()
    gradient = torch.full(SHAPE, 0.3, dtype=torch.float64)
    assert_close(guided_output(scheduler, noise, t[0], gradient), noise - 0.3 * sigma, rtol=1e-6, atol=1e-6)


def test_a_flow_is_diffusers_and_its_snr_that_of_a_diffusion():
    scheduler, (x0, noise, t) = training_scheduler("flow"), draws()
    noisy = add_noise(scheduler, x0, noise, t)
    times = network_times(scheduler, t)
    scheduler.set_timesteps(1000)
    for index in range(2):
        one = slice(index, index + 1)
        place = int((scheduler.timesteps - times[index]).abs().argmin())
        assert_close(float(scheduler.timesteps[place]), float(times[index]), rtol=0, atol=1e-3)
        assert_close(scheduler.scale_noise(x0[one], scheduler.timesteps[place : place + 1], noise[one]), noisy[one])
        # one Euler step to the end along the exact velocity arrives at x0
        sigma = times[index] / 1000
        assert_close(noisy[one] - sigma * target_of(scheduler, x0, noise, t)[one], x0[one])
        alpha = alphas_of(scheduler)[t[index]]
        assert_close(alpha / (1 - alpha), ((1 - sigma) / sigma) ** 2)
    assert alphas_of(scheduler)[-1] == 0 and network_times(scheduler, torch.tensor([999]))[0] == 1000


def test_guidance_of_a_flow_moves_the_noise_it_implies():
    scheduler, (x0, noise, _) = training_scheduler("flow"), draws()
    t, gradient = torch.tensor([599, 599]), torch.full(SHAPE, 0.3, dtype=torch.float64)
    noisy = add_noise(scheduler, x0, noise, t)
    output = guided_output(scheduler, noise - x0, torch.tensor(600.0), gradient)
    implied_noise = noisy + (1 - 0.6) * output  # ε of (x_t, v)
    assert_close(implied_noise, noise - 0.6 * gradient, rtol=1e-5, atol=1e-5)
    assert torch.equal(guided_output(scheduler, noise, torch.tensor(1000.0), gradient), noise)


def test_zero_terminal_snr_ends_in_noise_alone_and_refuses_epsilon():
    alphas = training_scheduler("v", "scaled_linear", zero_terminal_snr=True).alphas_cumprod
    assert alphas[-1] < 1e-7 and training_scheduler("v", "scaled_linear").alphas_cumprod[-1] > 1e-4
    with pytest.raises(ValueError, match=r'zero_terminal_snr: .* take target "v" or "x0"'):
        training_scheduler("epsilon", zero_terminal_snr=True)


def test_training_starts_at_the_last_timestep_and_clips_nothing():
    scheduler = training_scheduler("v", steps=200)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 199 and len(scheduler.alphas_cumprod) == 200
    assert not scheduler.config.clip_sample and scheduler.config.prediction_type == "v_prediction"


def test_unknown_target_names_the_known_ones():
    with pytest.raises(ValueError, match='target "eps" is unknown; choose one of epsilon, v, x0'):
        training_scheduler("eps")


def test_loss_under_a_constant_weight_is_the_mean_squared_error_per_sample():
    output, target, _ = draws()
    loss = diffusion_loss(output, target, torch.full((2, 1, *SHAPE[2:]), 0.25))
    expected = F.mse_loss(output.float(), target.float(), reduction="none").mean(dim=(1, 2, 3, 4))
    assert_close(loss, expected)


def test_loss_counts_each_cell_by_its_weight():
    weight = torch.zeros(2, 1, *SHAPE[2:])
    weight[0, 0, 0, 0, 0], weight[0, 0, 1, 2, 3] = 3.0, 1.0
    output = torch.full(SHAPE, 1e6)
    output[0, :, 0, 0, 0], output[0, :, 1, 2, 3] = 2.0, 4.0
    loss = diffusion_loss(output, torch.zeros(SHAPE), weight)
    assert_close(loss, torch.tensor([(3 * 4.0 + 1 * 16.0) / 4, 0.0]))  # nothing to learn from: 0, not NaN


def test_directional_loss_sees_the_error_along_its_directions_only():
    output, target, _ = draws()
    channels, weight = SHAPE[1], torch.ones(2, 1, *SHAPE[2:])
    along = F.one_hot(torch.tensor(1), channels).float()[None]
    expected = 4 * (output[:, 1] - target[:, 1]).float().square().mean((1, 2, 3))
    assert_close(directional_loss(output, target, weight, 2 * along), expected)
    across = torch.zeros(1, channels)
    across[0, :2] = torch.tensor([1.0, -1.0])
    assert_close(directional_loss(target + 5.0, target, weight, across), torch.zeros(2), rtol=0, atol=1e-6)


def test_directional_loss_adds_up_its_directions():
    output, target, _ = draws()
    channels, weight = SHAPE[1], torch.rand(2, 1, *SHAPE[2:])
    whole = directional_loss(output, target, weight, torch.eye(channels))
    assert_close(whole, channels * diffusion_loss(output, target, weight))
    directions = torch.randn(5, channels)
    each = [directional_loss(output, target, weight, direction[None]) for direction in directions]
    assert_close(directional_loss(output, target, weight, directions), sum(each), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("output", "weight"), [((2, 3, 4, 5, 7), (2, 1, 4, 5, 6)), (SHAPE, (2, 3, 4, 5, 6)), (SHAPE, (1, 1, 4, 5, 6))]
)
def test_loss_of_shapes_that_do_not_fit_is_refused(output: tuple[int, ...], weight: tuple[int, ...]):
    with pytest.raises(ValueError, match="shapes: output"):
        diffusion_loss(torch.zeros(output), torch.zeros(SHAPE), torch.zeros(weight))
