"""Guidance means the same to a sampler whatever the U-Net was trained to predict."""

import pytest
import torch
from diffusers import DDIMScheduler

from diffusion.process import guided_output, target_of, training_scheduler


@pytest.mark.parametrize("t", [199, 599])
def test_a_sampler_takes_the_same_guided_step_from_epsilon_v_and_x0(t):
    generator = torch.Generator().manual_seed(0)
    x0, noise, gradient = (torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=generator) for _ in range(3))
    steps = torch.full((2,), t)
    guided, unguided = [], []
    for target in ("epsilon", "v", "x0"):
        scheduler = training_scheduler(target)
        output = target_of(scheduler, x0, noise, steps)
        sampler = DDIMScheduler.from_config(scheduler.config)
        sampler.set_timesteps(10)
        assert t in sampler.timesteps
        for outputs, s in ((guided, 0.7), (unguided, 0.0)):
            moved = guided_output(scheduler, output, torch.tensor(t), s * gradient)
            noisy = scheduler.add_noise(x0, noise, steps)
            outputs.append(sampler.step(moved, torch.tensor(t), noisy).prev_sample)
    for other in guided[1:]:
        torch.testing.assert_close(other, guided[0], rtol=1e-5, atol=1e-5)
    assert (guided[0] - unguided[0]).abs().max() > 0.01
