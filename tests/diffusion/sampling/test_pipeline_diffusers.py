"""What Diffusers' users expect of a pipeline: callbacks, first noise, output types, and which schedulers it takes."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_models import SHAPE, crops, pixel_pipeline, seeds
from torch import Tensor
from torch.testing import assert_close

from diffusion.process import training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline
from diffusion.sampling.samplers import DIFFUSION_CLASSES, set_steps
from diffusion.syndiff_scheduler import SynDiffScheduler

STOCHASTIC = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")


def scan(kind: int) -> tuple[sitk.Image, sitk.Image]:
    """Lung with noise, and a small lesion, in (D, H, W) = (22, 20, 18)."""
    noise = np.random.default_rng(0).normal(-800, 30, (22, 20, 18)).round()
    lesion = sitk.Image(18, 20, 22, sitk.sitkUInt8)
    lesion[8:11, 9:12, 10:13] = 1
    return sitk.Cast(sitk.GetImageFromArray(noise), kind), lesion


def test_callback_sees_every_step_and_its_latents_take_the_place_of_the_samplers():
    pipe, seen = pixel_pipeline(), []

    def zeroed(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipeline is pipe and set(tensors) == {"latents", "condition"} and tensors["condition"].shape[1] == 4
        seen.append((step, int(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else {}

    options = {"num_inference_steps": 4, "output_type": "latent", "callback_on_step_end": zeroed}
    made = pipe(*crops(), callback_on_step_end_tensor_inputs=["latents", "condition"], **options).ct
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)] and made.shape == SHAPE and not made.any()


def test_callback_ends_the_call_and_the_next_call_runs_through():
    pipe, steps = pixel_pipeline(), []

    def stop(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(tensors["latents"])
        pipeline._interrupt = step == 1
        return tensors

    options = {"num_inference_steps": 5, "output_type": "latent", "callback_on_step_end": stop}
    made = pipe(*crops(), generator=seeds(1, 2), **options).ct
    assert len(steps) == 2 and pipe.interrupt and torch.equal(made, steps[-1])
    whole = pipe(*crops(), num_inference_steps=5, generator=seeds(1, 2), output_type="latent").ct
    assert not pipe.interrupt and not torch.equal(whole, made)


def test_given_first_noise_is_what_the_seed_would_draw():
    pipe = pixel_pipeline()
    first = torch.cat([torch.randn(1, *SHAPE[1:], generator=generator) for generator in seeds(1, 2)])
    options = {"num_inference_steps": 3, "output_type": "latent"}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)  # draws nothing in its steps
    drawn, given = pipe(*crops(), generator=seeds(1, 2), **options).ct, pipe(*crops(), latents=first, **options).ct
    assert torch.equal(given, drawn)


def test_output_types_hold_the_same_voxels_for_crops_and_scans():
    pipe, (ct_hu, lesion_mask) = pixel_pipeline(crop_size=16), crops()
    options = {"num_inference_steps": 2}
    usual, array = (pipe(*crops(), generator=seeds(1, 2), output_type=kind, **options) for kind in ("input", "np"))
    assert isinstance(array.ct, np.ndarray) and isinstance(array.paint_mask, np.ndarray)
    assert np.array_equal(array.ct, usual.ct.numpy())
    given = {"generator": seeds(1, 2), "output_type": "pt", "return_dict": False}
    ct, mask, painted = pipe(ct_hu.numpy(), lesion_mask, **given, **options)
    assert torch.equal(ct, usual.ct) and mask is lesion_mask and torch.equal(painted, usual.paint_mask)

    image, lesion = scan(sitk.sitkInt16)
    made, tensor = (
        pipe(image, lesion, generator=seeds(1)[0], output_type=kind, **options).ct for kind in ("input", "pt")
    )
    assert tensor.shape == (1, 1, 22, 20, 18) and tensor.dtype == torch.int16
    assert np.array_equal(tensor[0, 0], sitk.GetArrayFromImage(made))
    assert (tensor[0, 0].numpy() != sitk.GetArrayFromImage(image)).any()
    assert pipe(image, lesion, output_type="latent", **options).ct.shape == (1, 1, 16, 16, 16)


def test_several_lesions_of_a_mask_are_those_of_single_calls():
    pipe, (ct_hu, lesion_mask) = pixel_pipeline(), crops()
    options = {"num_inference_steps": 3}
    many = pipe(ct_hu, lesion_mask, generator=seeds(1, 2, 3, 4), num_lesions_per_mask=2, **options)
    assert many.ct.shape == (4, *SHAPE[1:]) and many.paint_mask.shape == SHAPE
    for number, generator in enumerate(seeds(1, 2, 3, 4)):
        one = [number // 2]
        alone = pipe(ct_hu[one], lesion_mask[one], generator=generator, **options).ct
        assert_close(many.ct[[number]], alone, rtol=0, atol=1e-2)  # HU
    assert not torch.equal(many.ct[0], many.ct[1])


def test_several_lesions_of_a_scan_are_a_list_of_scans():
    pipe = pixel_pipeline(crop_size=16)
    ct, lesion = scan(sitk.sitkFloat32)
    many = pipe(ct, lesion, generator=seeds(1, 2), num_lesions_per_mask=2, num_inference_steps=2).ct
    for made, generator in zip(many, seeds(1, 2), strict=True):
        alone = pipe(ct, lesion, generator=generator, num_inference_steps=2).ct
        np.testing.assert_allclose(sitk.GetArrayFromImage(made), sitk.GetArrayFromImage(alone), atol=1e-2)


def sampled(scheduler: Any, steps: int, std: float) -> tuple[float, float]:
    """Deviation of the samples of N(0, std²) that its exact denoiser leads to, and their slope over the first noise."""
    alphas, generator = training_scheduler("v").alphas_cumprod.double(), torch.Generator().manual_seed(0)
    first = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    set_steps(scheduler, steps)
    x = first * scheduler.init_noise_sigma
    drawn = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        noisy, alpha_bar = scheduler.scale_model_input(x, t), alphas[t.long()]
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x0 = signal * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * noisy
        x = scheduler.step(signal * (noisy - signal * x0) / sigma - sigma * x0, t, x, **drawn).prev_sample
    return float(x.std()), float((x * first).mean() / first.square().mean())


# SynDiff's few steps lead there only with a network that was trained for them
@pytest.mark.parametrize("kind", [kind for kind in DIFFUSION_CLASSES if kind is not SynDiffScheduler])
def test_every_scheduler_that_fits_ends_where_ddim_does(kind: Any):
    config = training_scheduler("v").config
    deviation, slope = sampled(kind.from_config(config), 100, 0.3)
    expected = sampled(diffusers.DDIMScheduler.from_config(config), 100, 0.3)
    assert deviation == pytest.approx(expected[0], rel=0.04)
    assert kind.__name__ in STOCHASTIC or slope == pytest.approx(expected[1], rel=0.04)
    pipe = pixel_pipeline()
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    assert torch.isfinite(pipe(*crops(), num_inference_steps=4).ct).all()


def test_heun_which_is_refused_ends_elsewhere():
    config = training_scheduler("v").config
    kinds = (diffusers.HeunDiscreteScheduler, diffusers.DDIMScheduler)
    heun, ddim = (sampled(kind.from_config(config), 16, 0.3)[0] for kind in kinds)
    assert heun > 1.5 * ddim


@pytest.mark.parametrize(
    ("target", "name", "settings", "message"),
    [
        ("v", "EDMEulerScheduler", {}, "scheduler EDMEulerScheduler does not fit this pipeline: it takes steps that"),
        (
            "v",
            "HeunDiscreteScheduler",
            {},
            "HeunDiscreteScheduler does not fit .*; take one of DDPMScheduler, DDIMSched",
        ),
        ("v", "FlowMatchEulerDiscreteScheduler", {}, "FlowMatchEulerDiscreteScheduler does not fit .*DDIMScheduler"),
        (
            "flow",
            "DDIMScheduler",
            {},
            "DDIMScheduler does not fit .*; take one of FlowMatchEulerDiscreteScheduler made",
        ),
        ("v", "DDIMScheduler", {"prediction_type": "epsilon"}, "it reads epsilon, the network predicts v_prediction"),
        ("v", "DDIMScheduler", {"beta_schedule": "linear"}, "it has another noise schedule than the training"),
        ("v", "DDIMScheduler", {"num_train_timesteps": 500}, "it has 500 timesteps, the training 1000"),
        ("v", "EulerDiscreteScheduler", {"use_karras_sigmas": True}, "it has use_karras_sigmas, so that its timesteps"),
    ],
)
def test_scheduler_that_does_not_fit_is_refused_with_those_that_do(
    target: str, name: str, settings: dict, message: str, monkeypatch: pytest.MonkeyPatch
):
    pipe = pixel_pipeline(scheduler=training_scheduler(target))
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
    monkeypatch.setattr(pipe.vae, "encode", lambda *_: pytest.fail("computed before checking"))
    with pytest.raises(ValueError, match=message):
        pipe(*crops())


def test_scheduler_given_while_loading_is_held_against_the_saved_one(tmp_path: Path):
    pipe = pixel_pipeline()
    pipe.save_pretrained(tmp_path)
    foreign = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    with pytest.raises(ValueError, match="it reads epsilon, the network predicts v_prediction"):
        LesionInpaintPipeline.from_pretrained(tmp_path, scheduler=foreign)(*crops())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_type": "pil"}, "output_type 'pil', expected one of input, pt, np, latent"),
        ({"num_lesions_per_mask": 0}, "num_lesions_per_mask 0, expected a whole number of at least 1"),
        ({"latents": torch.zeros(1, 1, 4, 6, 8)}, r"latents have shape \(1, 1, 4, 6, 8\), expected \(2, 1, 4, 6, 8\)"),
        ({"callback_on_step_end_tensor_inputs": ["image"]}, "'image' is not known; choose from latents, condition"),
    ],
)
def test_option_that_does_not_fit_is_named_before_anything_is_computed(
    options: dict, message: str, monkeypatch: pytest.MonkeyPatch
):
    pipe = pixel_pipeline()
    monkeypatch.setattr(pipe.vae, "encode", lambda *_: pytest.fail("computed before checking"))
    with pytest.raises(ValueError, match=message):
        pipe(*crops(), **options)
