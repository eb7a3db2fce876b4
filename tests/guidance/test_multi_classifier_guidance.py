"""The guide: its gradient is that of the requests' likelihood, in LSDM's order, near the lesion; and whom it trusts."""

import logging

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from skimage.measure import block_reduce
from tiny_models import randomised
from torch.testing import assert_close

from autoencoder.identity import IdentityAutoencoder
from autoencoder.kl import AutoencoderKL3D
from autoencoder.remote import RemoteAutoencoder
from guidance import MultiClassifierGuidance, NoduleClassifier3D

FACTOR, CELLS, SIGMA = 2, 4, 0.6
RATED = {"spiculation": [4.0, 1.0], "texture": 2.0}
WANTED = {"malignancy": ["malignant", "benign"], **RATED}
STATISTICS = {"latents_mean": [0.3, -0.2], "latents_std": [1.5, 0.8]}
T = torch.tensor(120)


def network(space="latent", seed=0, **heads) -> NoduleClassifier3D:
    """Weights away from their initial zeros."""
    torch.manual_seed(seed)
    made = NoduleClassifier3D(**heads, space=space, cells=CELLS, latent_channels=2, channels=(8, 16))
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def networks(space="latent") -> list[NoduleClassifier3D]:
    """Two, which have different attributes."""
    classes = {"malignancy": ["benign", "malignant"]}
    return [network(space, 0, classes=classes, regressions=["texture"]), network(space, 1, regressions=["spiculation"])]


def guide_of(space="latent", **settings) -> MultiClassifierGuidance:
    """In float64, for finite differences."""
    return MultiClassifierGuidance.of(networks(space), **settings).double()


@pytest.fixture
def vae():
    torch.manual_seed(0)
    group = {"norm": "group"}  # the norm per voxel works in float32, too coarse for finite differences
    return randomised(AutoencoderKL3D((4,), 1, 2, **group, **STATISTICS)).double()


@pytest.fixture
def latent():
    return torch.randn(2, 2, 6, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def lesion_mask():
    mask = torch.zeros(2, 1, 12, 16, 20, dtype=torch.uint8)
    mask[0, :, 4:7, 6:9, 7:13] = 1
    mask[1, :, 5, 2, 3] = 1
    return mask


def gradient(guide, latent, requests, lesion_mask, vae, t=T, sigma=SIGMA, **options):
    plan = guide.plan(requests, lesion_mask, vae, **options)
    return guide.gradient(latent, t, torch.tensor(sigma), plan, vae)


def neighbourhood(lesion_mask, cells):
    """The cells that hold a voxel of the lesion, dilated; without torch."""
    touched = block_reduce(lesion_mask.numpy(), (1, 1, FACTOR, FACTOR, FACTOR), np.max) > 0
    return binary_dilation(touched, np.ones((1, 1, *[2 * cells + 1] * 3)))


def likelihood(guide, x, lesion_mask, vae, names, scales):
    """Σ s log p by hand, of the requests in WANTED."""
    crops = guide.plan(WANTED, lesion_mask, vae).crops
    said = {}
    for net, crop in zip(guide.networks, crops, strict=True):
        said |= net(crop.of(x, vae), T, crop.lesion)
    log_p = said["malignancy"].log_softmax(dim=1)
    terms = {
        "malignancy": log_p[0, 1] + log_p[1, 0],
        "spiculation": -((said["spiculation"][0] - 4) ** 2 + (said["spiculation"][1] - 1) ** 2),
        "texture": -((said["texture"] - 2) ** 2).sum(),
    }
    return sum(scales.get(name, 1.0) * terms[name] for name in names)


@pytest.mark.parametrize("space", ["latent", "decoded"])
@pytest.mark.parametrize("names", [("malignancy",), ("spiculation", "texture")])
@torch.no_grad()
def test_gradient_equals_finite_differences_of_the_likelihood(space, names, latent, lesion_mask, vae):
    guide = guide_of(space)
    scales = {"spiculation": 0.5, "malignancy": 3.0}
    requests = {name: WANTED[name] for name in names}
    made = gradient(guide, latent, requests, lesion_mask, vae, guidance_scale=scales)
    near = np.argwhere(np.broadcast_to(neighbourhood(lesion_mask, 1), latent.shape))
    for index in map(tuple, np.random.default_rng(0).choice(near, 6, replace=False)):
        step = torch.zeros_like(latent)
        step[index] = 1e-5
        ends = [likelihood(guide, latent + s * step, lesion_mask, vae, names, scales) for s in (1, -1)]
        assert_close(made[index], (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-6 * float(made.abs().max()))


def test_regressions_are_summed_first_and_malignancy_sees_the_guided_latent(latent, lesion_mask, vae):
    guide = guide_of()
    near = torch.from_numpy(neighbourhood(lesion_mask, 1)).double()
    scales = {"malignancy": 2.0, "texture": 0.7}

    def pull(x, names):
        x = x.clone().requires_grad_(True)
        return near * torch.autograd.grad(likelihood(guide, x, lesion_mask, vae, names, scales), x)[0]

    regressions = pull(latent, ("spiculation", "texture"))
    after = pull(latent + SIGMA * regressions, ("malignancy",))
    made = gradient(guide, latent, WANTED, lesion_mask, vae, guidance_scale=scales)
    assert_close(made, regressions + after, rtol=1e-6, atol=1e-9)
    at_once = regressions + pull(latent, ("malignancy",))
    assert (made - at_once).abs().max() > 0.01 * made.abs().max()  # the order is seen


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_gradient_is_zero_away_from_the_lesion_and_nowhere_else(cells, latent, lesion_mask, vae):
    made = gradient(guide_of(neighbourhood_cells=cells), latent, WANTED, lesion_mask, vae)
    crops = np.zeros((2, 1, 6, 8, 10), bool)  # cells beyond the crop cannot have a gradient
    crops[0, 0, 1:5, 2:6, 3:7] = crops[1, 0, 1:5, 0:4, 0:4] = True
    np.testing.assert_array_equal((made != 0).any(dim=1, keepdim=True), neighbourhood(lesion_mask, cells) & crops)


def test_a_volume_is_guided_as_it_is_alone_whatever_the_others_request(latent, lesion_mask, vae):
    guide = guide_of()
    requests = {"malignancy": ["malignant", None], "spiculation": [None, 2], "texture": [5, 1]}
    together = gradient(guide, latent, requests, lesion_mask, vae)
    first = gradient(guide, latent[:1], {"malignancy": 4, "texture": 5}, lesion_mask[:1], vae)
    second = gradient(guide, latent[1:], {"spiculation": 2, "texture": 1}, lesion_mask[1:], vae)
    assert_close(together, torch.cat([first, second]), rtol=1e-6, atol=1e-9)
    assert all(parameter.grad is None for parameter in guide.parameters())


def test_nothing_is_planned_where_nothing_is_requested_for(lesion_mask, vae):
    guide = guide_of()
    assert guide.plan({"malignancy": None, "texture": [None, None]}, lesion_mask, vae) is None
    assert guide.plan(RATED, lesion_mask, vae, guidance_scale=0) is None
    plan = guide.plan(WANTED, lesion_mask, vae, guidance_scale={"texture": 0, "malignancy": -1})
    assert set(plan.wanted) == {"malignancy", "spiculation"}


def test_range_of_the_call_goes_before_the_guides_own(lesion_mask, vae):
    guide = guide_of(guidance_range=(0.1, 0.5))
    own, called = (guide.plan(RATED, lesion_mask, vae, guidance_range=r) for r in (None, (0.4, 1.0)))
    assert [own.covers(share) for share in (0.09, 0.1, 0.49, 0.5)] == [False, True, True, False]
    assert [called.covers(share) for share in (0.39, 0.4, 0.999, 1.0)] == [False, True, True, False]
    with pytest.raises(ValueError, match=r"guidance_range \(0\.5, 0\.1\)"):
        guide.plan(RATED, lesion_mask, vae, guidance_range=(0.5, 0.1))


GOOD = {"measure": "AUROC", "chance": 0.5, "value": 0.8, "low": 0.7, "high": 0.9, "control": 0.5}
GOOD |= {"ahead": 0.3, "ahead_low": 0.1, "ahead_high": 0.4}


@pytest.mark.parametrize(
    ("change", "trusted"),
    [
        ({}, True),
        ({"ahead_low": -0.01}, False),  # no better than the control
        ({"low": 0.49}, False),  # no better than guessing
        ({"low": None}, False),  # too few nodules to tell
        ({"control": None, "ahead_low": None}, True),  # no control was trained
    ],
)
def test_attribute_that_does_not_beat_its_control_is_refused_with_one_warning(
    change, trusted, latent, lesion_mask, vae, caplog
):
    guide = guide_of(figures={"malignancy": GOOD | change})
    assert tuple(guide.refused) == (() if trusted else ("malignancy",))
    with caplog.at_level(logging.WARNING):
        plans = [guide.plan(WANTED, lesion_mask, vae) for _ in range(2)]
    assert all(("malignancy" in plan.wanted) == trusted for plan in plans)
    assert len(caplog.records) == (0 if trusted else 1)
    if not trusted:
        assert "malignancy: not guided, its classifier does not beat" in caplog.text
        assert 'pipe.guide.allow("malignancy") guides all the same' in caplog.text
        guide.allow("malignancy")
        assert "malignancy" in guide.plan(WANTED, lesion_mask, vae).wanted
    with pytest.raises(ValueError, match="age: unknown to this guide; known: malignancy, texture, spiculation"):
        guide.allow("age")


@pytest.mark.parametrize(("low", "warned"), [(0.4, True), (None, True), (0.55, False)])
def test_attribute_that_is_told_by_size_alone_is_guided_with_one_warning(low, warned, lesion_mask, vae, caplog):
    figures = GOOD | {"at_equal_size": {"value": 0.6, "low": low, "high": 0.8}}
    guide = guide_of(figures={"malignancy": figures})
    with caplog.at_level(logging.WARNING):
        assert all("malignancy" in guide.plan(WANTED, lesion_mask, vae).wanted for _ in range(2))
    assert len(caplog.records) == warned
    if warned:
        assert "malignancy: guided, but expect little: beyond what a lesion's size tells" in caplog.text
        assert f"AUROC at equal size 0.60, interval {'unknown' if low is None else '0.40'} to 0.80" in caplog.text


def test_a_saved_guide_gives_the_same_gradient_and_keeps_what_it_knows(latent, lesion_mask, vae, tmp_path):
    bad = GOOD | {"ahead_low": -0.1, "by_timestep": {"0": {"value": 0.6, "low": 0.4, "high": 0.7}}}
    guide = guide_of(guidance_range=(0.05, 0.5), figures={"texture": bad, "malignancy": bad}).float()
    guide.allow("texture")
    guide.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = MultiClassifierGuidance.from_pretrained(tmp_path)
    assert tuple(loaded.refused) == ("malignancy",) and loaded.config["figures"]["texture"] == bad
    assert tuple(loaded.config["guidance_range"]) == (0.05, 0.5)
    assert loaded.attributes == ("malignancy", "texture", "spiculation")
    arguments = (latent.float(), RATED, lesion_mask, vae.float())
    assert torch.equal(gradient(loaded, *arguments), gradient(guide, *arguments))


def test_images_of_a_service_cannot_be_guided_but_latents_can(lesion_mask, latent):
    remote = RemoteAutoencoder.__new__(RemoteAutoencoder)
    torch.nn.Module.__init__(remote)
    remote.factor, remote.decoder_margin = FACTOR, 2
    assert gradient(guide_of(), latent, WANTED, lesion_mask, remote).any()
    with pytest.raises(ValueError, match="this guide looks at decoded crops, and an autoencoder service gives no grad"):
        guide_of("decoded").plan(WANTED, lesion_mask, remote)


def test_guide_without_classifier_with_an_attribute_twice_or_of_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="classifiers is empty"):
        MultiClassifierGuidance([])
    with pytest.raises(ValueError, match="spiculation: more than one classifier has it"):
        MultiClassifierGuidance.of([network(regressions=["spiculation"]), network(regressions=["spiculation"])])
    with pytest.raises(ValueError, match="regressions calcification have no scale; choose from malignancy"):
        MultiClassifierGuidance.of([network(regressions=["calcification"])])


def test_half_precision_latents_keep_their_type(lesion_mask, latent):
    vae = IdentityAutoencoder(latents_mean=[0.0], latents_std=[1.0])
    settings = {"regressions": ["texture"], "latent_channels": 1, "cells": 4, "channels": (8, 16)}
    half = randomised(MultiClassifierGuidance([settings])).to(torch.bfloat16)
    noisy = torch.randn(2, 1, 12, 16, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    made = gradient(half, noisy, {"texture": 5}, lesion_mask, vae)
    assert made.dtype == torch.bfloat16 and torch.isfinite(made).all() and made.any()
