"""Samplers by name: each ends at the exact denoiser's lesion, with one call a step, and fits its own process only."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_models import SHAPE, Oracle, pixel_pipeline, seeds
from torch import Tensor
from torch.testing import assert_close

from autoencoder.latents import standardise
from diffusion.process import training_scheduler
from diffusion.sampling.loading import SamplingConfig, load_pipeline
from diffusion.sampling.samplers import DIFFUSION_SAMPLERS, FLOW_SAMPLERS, fitting_samplers, sampler_of, set_steps
from imaging.window import to_norm

FITTING = [("flow", name) for name in FLOW_SAMPLERS]
FITTING += [(target, name) for target in ("v", "epsilon", "x0") for name in DIFFUSION_SAMPLERS]


@pytest.mark.parametrize("steps", [2, 7])
@pytest.mark.parametrize(("target", "name"), FITTING)
def test_exact_denoiser_makes_every_sampler_return_its_x0_with_one_call_a_step(target: str, name: Any, steps: int):
    wanted_hu = -500 + 200 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)).clamp(-2, 2)
    pipe = pixel_pipeline(scheduler=sampler_of(name, training_scheduler(target)))
    oracle = Oracle(standardise(to_norm(wanted_hu), pipe.vae.config), pipe.scheduler)
    pipe.register_modules(unet=oracle)
    calls: list[Any] = []
    oracle.register_forward_hook(lambda *arguments: calls.append(arguments))
    ct_hu, mask = torch.full(SHAPE, -800.0), torch.ones(SHAPE, dtype=torch.uint8)
    made = pipe(ct_hu, mask, num_inference_steps=steps, generator=seeds(0, 1))
    # an ε at the noisiest step says nothing of x0 in float32: with it a single step is rounding alone
    if target != "epsilon" or steps > 2:
        assert_close(made.ct, wanted_hu, rtol=0, atol=0.5)
    assert len(calls) == steps


@pytest.mark.parametrize(("target", "name"), [("v", "dpm-solver++"), ("v", "ddim"), ("flow", "flow-euler")])
def test_more_steps_than_the_training_has_timesteps_are_refused(target: str, name: Any):
    scheduler = sampler_of(name, training_scheduler(target))
    set_steps(scheduler, 1000)
    with pytest.raises(ValueError, match=r"num_inference_steps 1001, expected at most 1000, .*; pass --steps 16"):
        set_steps(scheduler, 1001)
    with pytest.raises(ValueError, match="num_inference_steps 1000000, expected at most 1000"):
        pixel_pipeline(scheduler=scheduler)(
            torch.full(SHAPE, -800.0), torch.ones(SHAPE, dtype=torch.uint8), num_inference_steps=1_000_000
        )


def test_default_is_the_pipelines_own():
    scheduler = training_scheduler("v")
    assert sampler_of("default", scheduler) is scheduler


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        (
            "v",
            "flow-euler",
            'scheduler "flow-euler" does not fit this pipeline, which was trained on a diffusion; choose one of '
            r"default, ddpm, ddim, dpm-solver\+\+, dpm-solver\+\+-lu, syndiff, unipc$",
        ),
        ("flow", "unipc", '"unipc" does not fit .* trained on a rectified flow; choose one of default, flow-euler$'),
        ("v", "euler", 'scheduler "euler" does not fit this pipeline'),
    ],
)
def test_sampler_of_the_other_process_is_refused_with_those_that_fit(target: str, name: Any, message: str):
    with pytest.raises(ValueError, match=message):
        sampler_of(name, training_scheduler(target))


@pytest.mark.parametrize("name", DIFFUSION_SAMPLERS)
def test_schedule_and_target_are_kept_whatever_sampler_was_saved(name: Any):
    trained = training_scheduler("v", "scaled_linear", zero_terminal_snr=True)
    saved = sampler_of(name, trained)
    for other in DIFFUSION_SAMPLERS:
        config = sampler_of(other, type(saved).from_config(saved.config)).config
        assert config["prediction_type"] == "v_prediction" and config["beta_schedule"] == "scaled_linear"
        assert config["timestep_spacing"] == "trailing" and config["rescale_betas_zero_snr"]
        assert not config.get("clip_sample") and not config["thresholding"]
    assert fitting_samplers(saved) is DIFFUSION_SAMPLERS


def gaussian(scheduler: Any, steps: int, std: float) -> float:
    """What is left of a noise of 1 after sampling N(0, std²) with its exact denoiser, over std: 1 for exact steps."""
    alphas, x = training_scheduler("v").alphas_cumprod.double(), torch.ones(1, 1, dtype=torch.float64)
    set_steps(scheduler, steps)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(alphas[t.long()], x, std), t, x).prev_sample
    return float(x) / std


def velocity(alpha_bar: Tensor, x: Tensor, std: float) -> Tensor:
    """v̂ of the exact denoiser, E[x0 | x_t] = √ᾱ std² x_t / (ᾱ std² + 1 - ᾱ)."""
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x0 = signal * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * x
    return signal * (x - signal * x0) / sigma - sigma * x0


@pytest.mark.parametrize("steps", [2, 8, 50])
def test_ddim_is_diffusers_where_the_steps_divide_the_schedule(steps: int):
    scheduler = training_scheduler("v")
    expected = gaussian(DDIMScheduler.from_config(scheduler.config), steps, 0.3)
    assert gaussian(sampler_of("ddim", scheduler), steps, 0.3) == pytest.approx(expected, rel=1e-3)


def test_ddim_leaves_no_noise_where_they_do_not():
    scheduler, steps, std = training_scheduler("v"), 64, 0.1
    set_steps(sampler := sampler_of("ddim", scheduler), steps)
    levels = [*scheduler.alphas_cumprod.double()[sampler.timesteps], torch.tensor(1.0, dtype=torch.float64)]
    x = torch.ones(1, dtype=torch.float64)
    for alpha_bar, following in pairwise(levels):  # Song et al. 2021, eq. 12 with η = 0
        v = velocity(alpha_bar, x, std)
        x0, noise = alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * v, (1 - alpha_bar).sqrt() * x + alpha_bar.sqrt() * v
        x = following.sqrt() * x0 + (1 - following).sqrt() * noise
    assert gaussian(sampler_of("ddim", scheduler), steps, std) == pytest.approx(float(x) / std, rel=1e-3)
    assert gaussian(DDIMScheduler.from_config(scheduler.config), steps, std) > 1.1 * float(x) / std


@pytest.mark.parametrize("name", [name for name in DIFFUSION_SAMPLERS if name not in ("ddpm", "syndiff")])
def test_deterministic_samplers_converge_to_the_exact_solution(name: Any):
    errors = [abs(gaussian(sampler_of(name, training_scheduler("v")), steps, 0.3) - 1) for steps in (4, 16, 250)]
    assert errors[0] > 3 * errors[1] and errors[2] < 0.025
    first_order = abs(gaussian(sampler_of("ddim", training_scheduler("v")), 16, 0.3) - 1)
    assert name == "ddim" or errors[1] < first_order / 2


def test_flows_calls_are_evenly_spaced_from_noise_on():
    scheduler = sampler_of("flow-euler", training_scheduler("flow"))
    set_steps(scheduler, 4)
    assert_close(scheduler.timesteps, torch.tensor([1000.0, 750, 500, 250]))
    assert_close(scheduler.sigmas, torch.tensor([1, 0.75, 0.5, 0.25, 0]))


def test_option_of_scripts_chooses_the_sampler(tmp_path: Path):
    pixel_pipeline().save_pretrained(tmp_path / "pipeline")
    config = SamplingConfig(pipeline=str(tmp_path / "pipeline"), out=tmp_path, scheduler="unipc", device="cpu")
    pipeline, _ = load_pipeline(config)
    assert type(pipeline.scheduler).__name__ == "UniPCMultistepScheduler"
    with pytest.raises(ValueError, match="choose one of default, ddpm"):
        load_pipeline(SamplingConfig(pipeline=config.pipeline, out=tmp_path, scheduler="flow-euler", device="cpu"))
