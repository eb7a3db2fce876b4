"""Every way of opening a model gives weights that are aligned, in memory of their own, and unchanged."""

import pytest
import torch
from alignment import aligned
from tiny_models import tiny_unet
from torch import nn

from autoencoder import AutoencoderKL3D, IdentityAutoencoder, VQAutoencoder3D
from autoencoder.aligned_model import AlignedModel
from autoencoder.loading import load_autoencoder
from autoencoder.service.served_model import ServedAutoencoder
from diffusion.process import training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline
from guidance.classifier import NoduleClassifier3D
from guidance.multi_classifier_guidance import MultiClassifierGuidance

CLASSES = {"malignancy": ["benign", "malignant"]}
MODELS = {
    "kl": lambda: AutoencoderKL3D(channels=(4, 6), blocks_per_level=1),
    "vq": lambda: VQAutoencoder3D(channels=(4, 6), blocks_per_level=1, codebook_size=7),
    "identity": IdentityAutoencoder,
    "unet": tiny_unet,
    "classifier": lambda: NoduleClassifier3D(CLASSES, channels=(4, 8)),
    "guide": lambda: MultiClassifierGuidance([{"classes": CLASSES, "latent_channels": 1, "channels": (4, 8)}]),
}


def same_values(loaded: nn.Module, saved: nn.Module) -> bool:
    mine, other = loaded.state_dict(), saved.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "identity"])  # which has a single number
def test_without_the_base_class_weights_are_not_aligned(tmp_path, name):
    MODELS[name]().save_pretrained(tmp_path)
    model_class = type(MODELS[name]())
    assert not aligned(super(AlignedModel, model_class).from_pretrained(tmp_path))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_loaded_model_is_aligned_and_has_the_saved_values(tmp_path, name, dtype):
    saved = MODELS[name]()
    saved.save_pretrained(tmp_path)
    loaded = type(saved).from_pretrained(tmp_path, torch_dtype=dtype)
    assert aligned(loaded) and same_values(loaded, saved.to(dtype))
    with_report, report = type(saved).from_pretrained(tmp_path, torch_dtype=dtype, output_loading_info=True)
    assert aligned(with_report) and same_values(with_report, saved) and report["missing_keys"] == []


def test_loaded_model_no_longer_needs_its_file(tmp_path):
    saved = MODELS["unet"]()
    saved.save_pretrained(tmp_path)
    loaded = type(saved).from_pretrained(tmp_path)
    with (tmp_path / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.write(bytes(file.seek(0, 2) - file.seek(0)))  # zeros, which a memory map would show
    assert same_values(loaded, saved)


@pytest.mark.parametrize("name", ["kl", "vq", "identity"])
def test_autoencoder_opened_by_folder_is_aligned_and_so_is_the_served_one(tmp_path, name):
    saved = MODELS[name]()
    saved.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.float16):
        served = ServedAutoencoder(load_autoencoder(tmp_path), dtype=dtype).model
        assert aligned(served) and same_values(served, saved.to(dtype))
    assert aligned(load_autoencoder(tmp_path))


def test_every_component_of_a_loaded_pipeline_is_aligned(tmp_path):
    saved = LesionInpaintPipeline(MODELS["vq"](), tiny_unet(), training_scheduler("v"), MODELS["guide"]())
    saved.save_pretrained(tmp_path)
    loaded = LesionInpaintPipeline.from_pretrained(tmp_path)
    for name in ("vae", "unet", "guide"):
        assert aligned(loaded.components[name]) and same_values(loaded.components[name], saved.components[name])
