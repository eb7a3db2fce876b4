"""Opening an autoencoder by folder."""

import hashlib
import json

import pytest
import torch
from running_service import running

from autoencoder import AutoencoderKL3D, IdentityAutoencoder
from autoencoder.loading import autoencoder_folder, load_autoencoder, revision_of, weights_sha256
from autoencoder.remote import RemoteAutoencoder


@pytest.mark.parametrize("model", [AutoencoderKL3D(channels=(4,), blocks_per_level=1), IdentityAutoencoder()])
def test_loading_finds_the_class_that_was_saved(tmp_path, model):
    model.save_pretrained(tmp_path / "vae")
    for source in (tmp_path / "vae", tmp_path):
        (tmp_path / "model_index.json").write_text("{}")  # a pipeline's folder: its autoencoder is taken
        loaded = load_autoencoder(source)
        assert type(loaded) is type(model) and not loaded.training
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
        )


def test_loading_refuses_what_is_no_autoencoder(tmp_path):
    with pytest.raises(ValueError, match="not the config of a saved autoencoder"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="'UNet2DModel', expected one of AutoencoderKL3D"):
        load_autoencoder(tmp_path)


def test_loading_never_reads_a_pickle(tmp_path):
    AutoencoderKL3D(channels=(4,), blocks_per_level=1).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match="no weights"):
        load_autoencoder(tmp_path)


def test_revision_is_read_from_the_path_of_a_snapshot(tmp_path):
    assert revision_of(tmp_path / "models--a--b" / "snapshots" / "abc123" / "vae") == "abc123"
    assert revision_of(tmp_path) is None


def test_url_opens_the_service_behind_it():
    with running(IdentityAutoencoder(window_width=900.0), token="s3cret") as url:
        loaded = load_autoencoder(url, token="s3cret")
        assert isinstance(loaded, RemoteAutoencoder) and loaded.config["window_width"] == 900.0


def test_hash_is_that_of_the_weights_alone(tmp_path):
    torch.manual_seed(0)
    model = AutoencoderKL3D(channels=(4,), blocks_per_level=1)
    model.save_pretrained(tmp_path / "a")
    model.register_to_config(window_width=1.0)
    model.save_pretrained(tmp_path / "b")
    weights = (tmp_path / "a" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert weights_sha256(tmp_path / "a") == weights_sha256(tmp_path / "b") == hashlib.sha256(weights).hexdigest()
    assert weights_sha256(tmp_path) == hashlib.sha256(weights + weights).hexdigest()  # all components of a pipeline
    (tmp_path / "model_index.json").write_text("{}")
    assert autoencoder_folder(tmp_path) == tmp_path / "vae" and autoencoder_folder(tmp_path / "a") == tmp_path / "a"
