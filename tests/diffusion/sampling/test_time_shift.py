"""The U-Net can be told more noise than there is, so that it trusts its own earlier errors less."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Oracle, pixel_pipeline, pixel_unet, seeds, uniform_crops
from torch.testing import assert_close

from diffusion.process import training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline
from diffusion.sampling.samplers import usual_sampler

CALL: dict[str, Any] = {"num_inference_steps": 5, "match_noise": False}


def made(pipe: LesionInpaintPipeline, **options: Any) -> torch.Tensor:
    return pipe(*uniform_crops(1), generator=seeds(0), **CALL, **options).ct


@pytest.mark.parametrize("target", ["v", "epsilon", "x0", "flow"])
def test_the_time_told_is_longer_by_its_share_and_ends_where_the_training_did(monkeypatch, target):
    sampler = usual_sampler(training_scheduler(target))
    pipe = pixel_pipeline(pixel_unet(), sampler)
    told, forward = [], pipe.unet.forward

    def watched(sample, timestep, **keywords):
        told.append(float(timestep.flatten()[0]))
        return forward(sample, timestep, **keywords)

    monkeypatch.setattr(pipe.unet, "forward", watched)
    made(pipe, time_shift=0.25)
    times = pipe.scheduler.timesteps.numpy()
    last = 1000 if target == "flow" else 999
    expected = np.minimum(np.round(1.25 * np.round(times)), last)
    np.testing.assert_allclose(told, expected)
    assert told[-1] > times[-1] and told[0] == last


@pytest.mark.parametrize("target", ["v", "epsilon", "flow"])
def test_what_a_network_is_sure_of_is_painted_whatever_it_is_told(target):
    scheduler = training_scheduler(target)
    oracle = Oracle(0.3 * torch.randn((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(1)), scheduler)
    pipe = pixel_pipeline(oracle, usual_sampler(scheduler))
    assert_close(made(pipe, time_shift=0.3), made(pipe), rtol=0, atol=1.0)  # HU


def test_it_is_the_pipelines_own_unless_a_call_names_one(tmp_path):
    plain = pixel_pipeline(pixel_unet())
    plain.register_to_config(time_shift=0.2)
    plain.save_pretrained(tmp_path / "pipe")
    pipe = LesionInpaintPipeline.from_pretrained(tmp_path / "pipe")
    assert torch.equal(made(pipe), made(pipe, time_shift=0.2))
    assert not torch.equal(made(pipe), made(pipe, time_shift=0.0))


def test_no_time_before_the_steps_is_told():
    with pytest.raises(ValueError, match=r"time_shift -0.1, expected a finite number of at least 0"):
        made(pixel_pipeline(), time_shift=-0.1)
