"""The whole pipeline with a guide: every sampler and process, several requests in a batch, scales and ranges."""

import math
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from tiny_models import SHAPE, Oracle, crops, pixel_pipeline, randomised, seeds, tiny_unet
from torch import Tensor
from torch.testing import assert_close

from autoencoder.latents import standardise
from diffusion.process import training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline
from guidance import MultiClassifierGuidance

SAMPLERS = (
    DDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
REQUESTABLE = {"malignancy": ["malignant", "benign"], "spiculation": [4, None], "texture": 2}


def guide(space: str = "latent", **settings: Any) -> MultiClassifierGuidance:
    common = {"latent_channels": 1, "channels": (4, 8), "cells": 4, "space": space}
    two = [
        {"classes": {"malignancy": ["benign", "malignant"]}, "regressions": ["texture"], **common},
        {"regressions": ["spiculation"], **common},
    ]
    torch.manual_seed(0)
    made = randomised(MultiClassifierGuidance(two, **settings))
    for network in made.networks:
        for head in network.heads.values():
            head.weight.data *= 10  # an opinion that is felt
    return made


def pipeline(scheduler: Any = None, space: str = "latent", attributes: tuple[str, ...] = ()) -> LesionInpaintPipeline:
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, attributes=attributes)
    return pixel_pipeline(unet, scheduler, guide(space))


@pytest.mark.parametrize(
    ("scheduler", "space"),
    [
        *((kind.from_config(training_scheduler("v").config), "latent") for kind in SAMPLERS),
        *((training_scheduler(target), "latent") for target in ("epsilon", "x0", "flow")),
        (DDIMScheduler.from_config(training_scheduler("v").config), "decoded"),
        (training_scheduler("flow"), "decoded"),
    ],
    ids=lambda given: (
        f"{type(given).__name__}-{given.config.get('prediction_type')}" if hasattr(given, "config") else given
    ),
)
def test_batch_of_different_wishes_gives_what_its_volumes_give_alone(scheduler: Any, space: str):
    pipe, (ct_hu, lesion_mask) = pipeline(scheduler, space), crops()
    options = {"num_inference_steps": 5, "guidance_scale": 3.0}
    together = pipe(ct_hu, lesion_mask, REQUESTABLE, generator=seeds(5, 6), **options)
    unguided = pipe(ct_hu, lesion_mask, generator=seeds(5, 6), num_inference_steps=5).ct
    outside = together.paint_mask == 0
    assert torch.equal(together.ct[outside], ct_hu[outside]) and torch.isfinite(together.ct).all()
    for index in range(2):
        one = {name: request[index] if isinstance(request, list) else request for name, request in REQUESTABLE.items()}
        alone = pipe(ct_hu[[index]], lesion_mask[[index]], one, generator=seeds(5 + index), **options).ct
        assert_close(together.ct[[index]], alone, rtol=0, atol=2.0)  # HU; Euler starts from noise of 20,000 sigma
    changed = (together.ct - unguided).abs().max() > 0.5
    assert changed or scheduler.config.get("prediction_type") == "epsilon"  # whose wild x̂0 is clipped to the window


@pytest.mark.parametrize("target", ["v", "epsilon", "x0", "flow"])
def test_guided_lesion_is_nearer_to_the_wish_in_the_classifiers_eyes(target: str, monkeypatch: pytest.MonkeyPatch):
    scheduler = training_scheduler(target)
    scheduler = scheduler if target == "flow" else DDIMScheduler.from_config(scheduler.config)
    pipe, (ct_hu, lesion_mask) = pipeline(scheduler), crops()
    x0 = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    pipe.register_modules(unet=Oracle(x0, scheduler))  # it returns to x0 at every step, so the last one guides
    network = pipe.guide.networks[1]

    decoded: list[Tensor] = []
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda latent: decoded.append(latent) or decode(latent))

    def told(requests: dict[str, Any]) -> Tensor:
        """What the classifier says of the finished latent."""
        decoded.clear()
        options = {"num_inference_steps": 5, "guidance_scale": 0.1, "generator": seeds(1, 2)}
        pipe(ct_hu, lesion_mask, requests, **options)
        latent = standardise(decoded[0], pipe.vae.config)
        crops_of = pipe.guide.plan({"spiculation": 3}, lesion_mask, pipe.vae).crops[1]
        with torch.no_grad():
            return network(crops_of.of(latent, pipe.vae), 0, crops_of.lesion)["spiculation"]

    low, free, high = told({"spiculation": 1}), told({}), told({"spiculation": 5})
    assert (low < free - 1e-3).all() and (free + 1e-3 < high).all()


def test_scales_are_by_attribute_and_a_scale_of_zero_asks_for_nothing():
    pipe, (ct_hu, lesion_mask) = pipeline(), crops()

    def made(requests: Any = None, **options: Any) -> Tensor:
        return pipe(ct_hu, lesion_mask, requests, num_inference_steps=3, generator=seeds(1, 2), **options).ct

    two = {"malignancy": "malignant", "texture": 5}
    one = made({"malignancy": "malignant"}, guidance_scale=4)
    assert torch.equal(made(two, guidance_scale={"texture": 0, "malignancy": 4}), one)
    assert torch.equal(made(two, guidance_scale={"texture": 1}), made(two))
    assert torch.equal(made(two, guidance_scale=0), made()) and not torch.equal(made(two), made())
    assert not torch.equal(made(two, guidance_scale={"texture": 2}), made(two, guidance_scale={"malignancy": 2}))


def test_only_timesteps_of_the_range_are_guided(monkeypatch: pytest.MonkeyPatch):
    pipe, (ct_hu, lesion_mask) = pipeline(), crops()
    requested: list[int] = []
    gradient = pipe.guide.gradient
    monkeypatch.setattr(pipe.guide, "gradient", lambda x, t, *rest: requested.append(int(t)) or gradient(x, t, *rest))
    for bounds, expected in ((None, [799, 599, 399, 199]), ((0.3, 0.7), [599, 399]), ((0.6, 1.0), [999, 799])):
        requested.clear()
        pipe(ct_hu, lesion_mask, {"texture": 5}, num_inference_steps=5, guidance_range=bounds)
        assert requested == expected  # of 999, 799, 599, 399, 199; the guide's own range ends below 0.8 T


def test_attribute_that_both_know_is_requested_of_both():
    pipe, (ct_hu, lesion_mask) = pipeline(attributes=("malignancy", "mean_hu")), crops()
    torch.nn.init.normal_(pipe.unet.attribute_embedding.mlp[2].weight)

    def made(requests: Any, **options: Any) -> Tensor:
        return pipe(ct_hu, lesion_mask, requests, num_inference_steps=3, generator=seeds(1, 2), **options).ct

    request = {"malignancy": "malignant", "mean_hu": -300, "texture": 5}
    both, network_alone, nothing = made(request), made(request, guidance_scale=0), made({})
    assert not torch.equal(network_alone, nothing) and not torch.equal(both, network_alone)
    guide_alone = {"malignancy": 0.0, "texture": 1.0}
    assert not torch.equal(made(request, guidance_scale=guide_alone), both)
    freed = made(request, cfg_scale=2.0)  # both kinds of guidance at once
    assert torch.isfinite(freed).all() and not torch.equal(freed, both)


BAD = {"measure": "AUROC", "chance": 0.5, "value": 0.6, "low": 0.52, "high": 0.7, "control": 0.58}
BAD |= {"ahead": 0.02, "ahead_low": -0.05, "ahead_high": 0.1}


def test_attribute_that_its_control_knows_as_well_is_left_out_of_a_call_with_a_warning(caplog):
    pipe, (ct_hu, lesion_mask) = pipeline(), crops()
    pipe.register_modules(guide=guide(figures={"malignancy": BAD}))

    def made(**requests: Any) -> Tensor:
        return pipe(ct_hu, lesion_mask, requests, num_inference_steps=3, generator=seeds(1, 2), guidance_scale=4).ct

    assert torch.equal(made(malignancy="malignant", texture=5), made(texture=5)) and caplog.text.count("WARNING") == 1
    assert torch.equal(made(malignancy="malignant"), made()) and not torch.equal(made(texture=5), made())
    assert "malignancy: not guided, its classifier does not beat its label-shuffled control on held-out" in caplog.text
    assert "(AUROC 0.60, interval 0.52 to 0.70, control 0.58, lead 0.02, interval -0.05 to 0.10)" in caplog.text
    pipe.guide.allow("malignancy")
    assert not torch.equal(made(malignancy="malignant"), made())


def test_the_shipped_guide_refuses_what_its_figures_do_not_bear(caplog):
    """As its figures are, all four are guided, one with a warning; with a lead that may be none, none is."""
    pipe = LesionInpaintPipeline.from_pretrained("lung-nodule-small")
    ct_hu, lesion_mask = torch.full((1, 1, 16, 16, 16), -800.0), torch.zeros(1, 1, 16, 16, 16)
    lesion_mask[..., 6:10, 5:11, 6:10] = 1
    requests = {"malignancy": "malignant", "lobulation": 5, "spiculation": 5, "texture": 2}

    def made(**options: Any) -> Tensor:
        return pipe(ct_hu, lesion_mask, requests, num_inference_steps=4, generator=seeds(1), **options).ct

    unguided = made(guidance_scale=0)
    assert not caplog.records and not pipe.guide.refused and not torch.equal(made(guidance_scale=4), unguided)
    size_alone = [record.message for record in caplog.records]
    assert len(size_alone) == 1 and size_alone[0].startswith("malignancy: guided, but expect little")
    caplog.clear()
    figures = pipe.guide.config["figures"]
    pipe.guide.register_to_config(figures={name: {**told, "ahead_low": -0.01} for name, told in figures.items()})
    assert torch.equal(made(guidance_scale=4), unguided) and set(pipe.guide.refused) == requests.keys()
    assert sum("not guided, its classifier does not beat" in record.message for record in caplog.records) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributes": {"age": 3}}, 'attribute "age" is unknown to this pipeline; known: malignancy, texture, spicul'),
        ({"attributes": {"spiculation": 7}}, "spiculation: 7, expected a number from 1 to 5"),
        ({"guidance_scale": {"age": 1}}, 'attribute "age" is unknown to the guide; known: malignancy, texture, spicul'),
        ({"guidance_scale": {"texture": math.inf}}, 'guidance_scale of "texture" inf, expected a finite number'),
        ({"guidance_scale": math.nan}, "guidance_scale nan, expected a finite number"),
        ({"guidance_range": (0.9, 0.1)}, r"guidance_range \(0\.9, 0\.1\), expected \(low, high\)"),
    ],
)
def test_what_cannot_be_guided_is_named_before_anything_is_computed(
    options: dict, message: str, monkeypatch: pytest.MonkeyPatch
):
    pipe = pipeline()
    monkeypatch.setattr(pipe.vae, "encode", lambda *_: pytest.fail("computed before checking"))
    with pytest.raises(ValueError, match=message):
        pipe(*crops(), **options)
