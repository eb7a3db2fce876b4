"""The noisy-latent classifier."""

import pytest
import torch

from guidance import NoduleClassifier3D

CLASSES = {"malignancy": ["benign", "malignant"], "texture": ["ground glass", "part solid", "solid"]}


@pytest.fixture
def classifier():
    """Weights away from their initial zeros, so that every layer has an effect."""
    torch.manual_seed(0)
    model = NoduleClassifier3D(
        CLASSES, latent_channels=2, channels=(6, 24)
    )  # a norm of one channel would undo the time
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def inputs(batch=3):
    torch.manual_seed(1)
    coverage = torch.zeros(batch, 1, 4, 6, 8)
    coverage[:, :, 1:3, 2:4, 3:6] = 0.7
    return torch.randn(batch, 2, 4, 6, 8), torch.tensor([0, 400, 999])[:batch], coverage


@torch.no_grad()
def test_every_attribute_has_logits_that_depend_on_latent_time_and_place(classifier):
    latent, t, coverage = inputs()
    logits = classifier(latent, t, coverage)
    assert {name: value.shape for name, value in logits.items()} == {"malignancy": (3, 2), "texture": (3, 3)}
    for changed in ((latent + 0.1, t, coverage), (latent, t // 2 + 1, coverage), (latent, t, coverage.flip(4))):
        others = classifier(*changed)
        for name in CLASSES:
            assert ((others[name] - logits[name]).abs().amax(dim=1) > 1e-3).all()  # rounding is 1e-7


@torch.no_grad()
def test_a_batch_gives_what_its_volumes_give_alone(classifier):
    latent, t, coverage = inputs()
    together = classifier(latent, t, coverage)
    for i in range(3):
        alone = classifier(latent[i : i + 1], t[i], coverage[i : i + 1])
        for name in CLASSES:
            torch.testing.assert_close(alone[name], together[name][i : i + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_saved_classifier_is_loaded_from_safetensors_with_its_classes(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = NoduleClassifier3D.from_pretrained(tmp_path)
    assert loaded.config["classes"] == CLASSES
    for name, logits in classifier(*inputs()).items():
        assert torch.equal(loaded(*inputs())[name], logits)


@pytest.mark.parametrize("classes", [{}, {"malignancy": ["malignant"]}])
def test_attributes_without_a_choice_are_refused(classes):
    with pytest.raises(ValueError, match="expected at least one attribute with two classes or more"):
        NoduleClassifier3D(classes)
