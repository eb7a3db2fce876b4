"""Labels, balanced sampling, the shuffled control, and the training step of the classifiers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from autoencoder.identity import IdentityAutoencoder
from diffusion.process import add_noise, training_scheduler
from guidance import NoduleClassifier3D
from guidance.classifier_training import (
    ClassifierTraining,
    attribute_targets,
    balanced_weights,
    control_name,
    shuffled_targets,
)
from guidance.lesion_crop import lesion_crops

NAN = math.nan


def test_malignancy_becomes_a_class_or_nothing_and_ratings_stay():
    ratings = {"malignancy": [1.0, 3.0, 4.0, None], "texture": [5.0, NAN, 1.5, 2.0]}
    expected = np.array([[0, 5], [NAN, NAN], [1, 1.5], [NAN, 2]], np.float32)
    np.testing.assert_array_equal(attribute_targets(ratings, "exclude_between"), expected)
    np.testing.assert_array_equal(attribute_targets(ratings, "malignant_from_3")[:, 0], [0, 1, 1, NAN])


def test_levels_of_a_single_attribute_are_drawn_equally_often():
    targets = np.array([[1.0]] * 6 + [[2.2]] * 3 + [[4.9]] + [[NAN]] * 2)
    weights = balanced_weights(targets)
    sums = [weights[:6].sum(), weights[6:9].sum(), weights[9], weights[10:].sum()]
    np.testing.assert_allclose(sums, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-12)


def test_every_level_of_several_attributes_has_its_share_at_least():
    rng = np.random.default_rng(0)
    targets = np.stack(
        [rng.choice([0, 1, NAN], 200, p=[0.5, 0.1, 0.4]), rng.choice([1, 2, 5], 200, p=[0.9, 0.07, 0.03])]
    )
    weights = balanced_weights(targets.T)
    for column in targets:
        levels = np.unique(column[np.isfinite(column)])
        assert all(weights[column == level].sum() > 0.5 / len(levels) - 1e-9 for level in levels)
    with pytest.raises(ValueError, match="no row has a label of any attribute"):
        balanced_weights(np.full((3, 2), NAN))


def test_shuffled_labels_are_another_nodules_the_same_for_all_its_variants():
    nodules = ["c", "a", "b", "a", "c", "d"]
    targets = np.array([[3.0, 30], [1, 10], [2, 20], [1, 10], [3, 30], [4, NAN]])
    made = shuffled_targets(targets, nodules, np.random.default_rng(2))
    np.testing.assert_array_equal(made[0], made[4])
    np.testing.assert_array_equal(made[1], made[3])
    known = np.isfinite(made[:, 1])
    np.testing.assert_array_equal(made[known, 1], 10 * made[known, 0])  # a nodule's labels stay together
    assert sorted(made[[1, 2, 0, 5], 0]) == [1, 2, 3, 4] and not np.array_equal(made[:, 0], targets[:, 0])


def training(shuffles=2) -> ClassifierTraining:
    torch.manual_seed(0)
    heads = {"classes": {"malignancy": ["benign", "malignant"]}, "regressions": ["texture"]}
    model = NoduleClassifier3D(**heads, cells=4, latent_channels=1, channels=(8, 16))
    made = ClassifierTraining(model, shuffles).eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def batch(targets: dict) -> dict:
    mask = torch.zeros(3, 1, 6, 8, 8, dtype=torch.uint8)
    mask[:, :, 1:4, 2:5, 3:6] = 1
    shuffled = {control_name(name, k): torch.tensor([1.0, 1.0, NAN]) for name in targets for k in range(2)}
    return {"lesion_mask": mask, "targets": targets, "control_targets": shuffled}


def draws():
    generator = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(3, 1, 6, 8, 8, generator=generator) for _ in range(2))
    return x0, noise, torch.tensor([0, 500, 999])


@pytest.mark.parametrize("target", ["v", "flow"])
def test_loss_is_that_of_the_known_labels_at_the_noise_the_network_is_told(target):
    model, scheduler = training(), training_scheduler(target)
    vae = IdentityAutoencoder(latents_mean=[0.0], latents_std=[1.0])
    given = batch({"malignancy": torch.tensor([1.0, NAN, 0.0]), "texture": torch.tensor([NAN, NAN, 4.0])})
    x0, noise, rows = draws()
    total, losses = model(vae, scheduler, given, x0, noise, rows)
    times = rows.float() + 1 if target == "flow" else rows  # a flow's σ, 1/T ... 1, in thousandths
    crops = lesion_crops(given["lesion_mask"], 4, "latent", vae)
    crop = crops.of(add_noise(scheduler, x0, noise, rows), vae)
    said = model.classifier(crop, times, crops.lesion)
    log_p = F.log_softmax(said["malignancy"], dim=1)
    expected = -(log_p[0, 1] + log_p[2, 0]) / 2
    assert_close(losses["malignancy"], expected.detach(), rtol=1e-5, atol=1e-6)
    assert_close(losses["texture"], ((said["texture"][2] - 4) ** 2 / 2).detach(), rtol=1e-5, atol=1e-6)
    assert_close(total.detach(), sum(losses.values()))


def test_missing_ratings_teach_nothing_and_the_control_does_not_touch_the_classifier():
    model, scheduler = training(), training_scheduler("v")
    vae = IdentityAutoencoder(latents_mean=[0.0], latents_std=[1.0])
    none, some = torch.full((3,), NAN), torch.tensor([1.0, NAN, 0.0])

    def gradients(given):
        model.zero_grad()
        model(vae, scheduler, given, *draws())[0].backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    made = gradients(batch({"malignancy": some, "texture": none}))
    assert all(torch.isfinite(gradient).all() for gradient in made.values())
    assert not made["classifier.heads.texture.weight"].any() and made["classifier.heads.malignancy.weight"].any()
    changed = batch({"malignancy": some, "texture": none})
    changed["control_targets"] = {name: 1 - values for name, values in changed["control_targets"].items()}
    other = gradients(changed)
    for name, gradient in made.items():
        assert torch.equal(gradient, other[name]) == name.startswith("classifier."), name


def test_control_has_the_architecture_and_a_head_for_every_shuffle():
    model = training(shuffles=3)
    assert set(model.control.attributes) == {f"{name}/{k}" for name in ("malignancy", "texture") for k in range(3)}

    def shapes(net):
        return {name: p.shape for name, p in net.named_parameters() if not name.startswith("heads")}

    assert shapes(model.control) == shapes(model.classifier)
    assert training(shuffles=0).control is None
