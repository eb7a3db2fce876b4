"""The noisy-lesion classifier: its heads, its two spaces, and how it agrees with a value."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from guidance import NoduleClassifier3D
from guidance.classifier import log_likelihood

CLASSES = {"malignancy": ["benign", "malignant"], "kind": ["ground glass", "part solid", "solid"]}
RATED = ["lobulation", "texture"]


def classifier(space="latent", **settings) -> NoduleClassifier3D:
    """Weights away from their initial zeros, so that every layer has an effect."""
    torch.manual_seed(0)
    model = NoduleClassifier3D(CLASSES, RATED, space, latent_channels=2, channels=(6, 24), **settings)
    for parameter in model.parameters():  # a norm of one channel would undo the time
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def inputs(space="latent", batch=3):
    torch.manual_seed(1)
    lesion = torch.zeros(batch, 1, 4, 6, 8)
    lesion[:, :, 1:3, 2:4, 3:6] = 0.7 if space == "latent" else 1
    return torch.randn(batch, 2 if space == "latent" else 1, 4, 6, 8), torch.tensor([0, 400, 999])[:batch], lesion


@pytest.mark.parametrize("space", ["latent", "decoded"])
@torch.no_grad()
def test_every_head_depends_on_crop_time_and_place(space):
    model, (crop, t, lesion) = classifier(space), inputs(space)
    said = model(crop, t, lesion)
    shapes = {"malignancy": (3, 2), "kind": (3, 3), "lobulation": (3,), "texture": (3,)}
    assert {name: tuple(value.shape) for name, value in said.items()} == shapes
    assert model.attributes == ("malignancy", "kind", "lobulation", "texture") and model.classes == CLASSES
    for changed in ((crop + 0.1, t, lesion), (crop, t // 2 + 1, lesion), (crop, t, lesion.flip(4))):
        for name, others in model(*changed).items():
            assert ((others - said[name]).reshape(3, -1).abs().amax(dim=1) > 1e-4).all(), name  # rounding is 1e-7


@pytest.mark.parametrize("space", ["latent", "decoded"])
@torch.no_grad()
def test_without_the_mask_as_input_it_only_says_where_to_pool(space):
    crop, t, lesion = inputs(space)
    for sees_mask in (True, False):
        model = classifier(space, sees_mask=sees_mask)
        said, fainter = model(crop, t, lesion), model(crop, t, lesion / 2)  # as weights of a mean the same
        for name in said:
            assert torch.allclose(said[name], fainter[name], rtol=1e-4, atol=1e-4) != sees_mask, name


@torch.no_grad()
def test_a_batch_gives_what_its_volumes_give_alone():
    model, (crop, t, lesion) = classifier(), inputs()
    together = model(crop, t, lesion)
    for i in range(3):
        for name, alone in model(crop[i : i + 1], t[i], lesion[i : i + 1]).items():
            assert_close(alone, together[name][i : i + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_fresh_regression_answers_in_the_middle_of_the_scale():
    model = NoduleClassifier3D(regressions=RATED, latent_channels=2, channels=(6, 24)).eval()
    for head in model.heads.values():
        head.weight.zero_(), head.bias.zero_()
    assert all(torch.equal(value, torch.full((3,), 3.0)) for value in model(*inputs()).values())


@torch.no_grad()
def test_a_saved_classifier_is_loaded_from_safetensors_with_its_heads(tmp_path):
    model = classifier("decoded")
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = NoduleClassifier3D.from_pretrained(tmp_path)
    assert loaded.classes == CLASSES and loaded.config["regressions"] == RATED and loaded.config["space"] == "decoded"
    for name, said in model(*inputs("decoded")).items():
        assert torch.equal(loaded(*inputs("decoded"))[name], said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected at least one attribute, and two classes or more"),
        ({"classes": {"malignancy": ["malignant"]}}, "expected at least one attribute, and two classes or more"),
        ({"classes": CLASSES, "regressions": ["malignancy"]}, "malignancy: in classes and in regressions"),
        ({"regressions": RATED, "space": "pixel"}, 'space "pixel", expected "latent" or "decoded"'),
        ({"regressions": RATED, "cells": 1}, "cells 1, expected an edge of at least 2 latent cells"),
    ],
)
def test_settings_that_make_no_classifier_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NoduleClassifier3D(**settings)


def test_agreement_is_log_p_or_minus_the_squared_error_and_nothing_where_nothing_is_known():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    agreement = log_likelihood(logits, torch.tensor([2.0, math.nan, 0.0]))
    expected = F.log_softmax(logits, dim=1)
    assert_close(agreement, torch.stack([expected[0, 2], torch.tensor(0.0), expected[2, 0]]))
    ratings = torch.tensor([1.5, 4.0, 2.0], requires_grad=True)
    agreement = log_likelihood(ratings, torch.tensor([3.0, math.nan, 2.5]))
    assert_close(agreement, torch.tensor([-2.25, 0.0, -0.25]))
    (gradient,) = torch.autograd.grad(agreement.sum(), ratings)
    assert_close(gradient, torch.tensor([3.0, 0.0, 1.0]))
