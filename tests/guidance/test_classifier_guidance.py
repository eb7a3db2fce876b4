"""The guide: its gradient is that of log p, near the lesion and where there is something to see."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from skimage.measure import block_reduce

from diffusion.conditioning import mask_coverage
from guidance import ClassifierGuidance, NoduleClassifier3D

CLASSES = {"malignancy": ["benign", "malignant"], "texture": ["ground glass", "part solid", "solid"]}
WANTED = {"malignancy": "malignant", "texture": ["solid", "ground glass"]}
FACTOR = 2


@pytest.fixture
def guide():
    """In float64, for finite differences; weights away from their initial zeros."""
    torch.manual_seed(0)
    classifier = NoduleClassifier3D(CLASSES, latent_channels=2, channels=(8, 16))
    for parameter in classifier.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ClassifierGuidance.of(classifier, num_train_timesteps=500, max_noise=0.5).double()


@pytest.fixture
def latent():
    return torch.randn(2, 2, 6, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def lesion_mask():
    mask = torch.zeros(2, 1, 12, 16, 20, dtype=torch.uint8)
    mask[0, :, 4:7, 6:9, 7:13] = 1
    mask[1, :, 5, 2, 3] = 1
    return mask


def neighbourhood(lesion_mask, cells):
    """The cells that hold a voxel of the lesion, dilated; without torch."""
    touched = block_reduce(lesion_mask.numpy(), (1, 1, FACTOR, FACTOR, FACTOR), np.max) > 0
    return binary_dilation(touched, np.ones((1, 1, *[2 * cells + 1] * 3)))


@torch.no_grad()
def test_gradient_equals_finite_differences_of_the_log_probability(guide, latent, lesion_mask):
    t = torch.tensor(120)
    gradient = guide.gradient(latent, t, WANTED, lesion_mask, FACTOR)

    def log_probability(x):
        logits = guide.network(x, t, mask_coverage(lesion_mask, FACTOR).double())
        log_p = {name: values.log_softmax(dim=1) for name, values in logits.items()}
        return log_p["malignancy"][:, 1].sum() + log_p["texture"][0, 2] + log_p["texture"][1, 0]

    near = np.argwhere(np.broadcast_to(neighbourhood(lesion_mask, 1), latent.shape))
    for index in map(tuple, np.random.default_rng(0).choice(near, 12, replace=False)):
        step = torch.zeros_like(latent)
        step[index] = 1e-5
        difference = (log_probability(latent + step) - log_probability(latent - step)) / 2e-5
        torch.testing.assert_close(gradient[index], difference, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_gradient_is_zero_away_from_the_lesion_and_nowhere_else(guide, latent, lesion_mask, cells):
    guide.register_to_config(neighbourhood_cells=cells)
    gradient = guide.gradient(latent, torch.tensor(120), WANTED, lesion_mask, FACTOR)
    np.testing.assert_array_equal((gradient != 0).any(dim=1, keepdim=True), neighbourhood(lesion_mask, cells))


def test_the_noisiest_timesteps_are_not_guided(guide, latent, lesion_mask):
    limit = 250  # max_noise * num_train_timesteps
    assert not guide.gradient(latent, torch.tensor(limit), WANTED, lesion_mask, FACTOR).any()
    assert guide.gradient(latent, torch.tensor(limit - 1), WANTED, lesion_mask, FACTOR).any()


def test_a_volume_is_guided_as_it_is_alone_and_the_weights_get_no_gradient(guide, latent, lesion_mask):
    together = guide.gradient(latent, torch.tensor(10), WANTED, lesion_mask, FACTOR)
    alone = {"malignancy": "malignant", "texture": "ground glass"}
    second = guide.gradient(latent[1:], torch.tensor(10), alone, lesion_mask[1:], FACTOR)
    torch.testing.assert_close(second, together[1:], rtol=1e-6, atol=1e-9)
    assert all(parameter.grad is None for parameter in guide.parameters())


def test_a_saved_guide_gives_the_same_gradient(guide, latent, lesion_mask, tmp_path):
    guide.float().save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = ClassifierGuidance.from_pretrained(tmp_path)
    arguments = (latent.float(), torch.tensor(120), WANTED, lesion_mask, FACTOR)
    assert torch.equal(loaded.gradient(*arguments), guide.gradient(*arguments))
    assert loaded.config["max_noise"] == 0.5 and loaded.config["num_train_timesteps"] == 500


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"age": "old"}, 'attribute "age" is unknown to this guide; known: malignancy, texture'),
        ({"malignancy": "evil"}, 'malignancy: "evil" is unknown; choose one of benign, malignant'),
        ({"texture": ["solid", "liquid"]}, 'texture: "liquid" is unknown; choose one of ground glass, part solid'),
        ({"texture": ["solid"] * 3}, "texture: 3 values for 2 volumes; give one, or one per volume"),
    ],
)
def test_what_the_guide_does_not_know_is_named_with_what_it_knows(guide, attributes, message):
    guide.check(WANTED, 2)
    with pytest.raises(ValueError, match=message):
        guide.check(attributes, 2)
