"""Encoding and tiling by a service give what the model itself gives."""

import numpy as np
import pytest
import torch
from running_service import running, tiny_autoencoder

from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.loading import load_autoencoder
from autoencoder.remote import RemoteAutoencoder
from autoencoder.tiling import decode_volume, encode_volume
from scripts.encode_latents import EncodeConfig, main


def test_a_dataset_encoded_by_a_service_is_that_of_the_local_model(phantom_dataset, tmp_path):
    vae = tiny_autoencoder()
    vae.save_pretrained(tmp_path / "vae")
    main(EncodeConfig(phantom_dataset, str(tmp_path / "vae"), tmp_path / "local", variants_in_context=1, device="cpu"))
    with running(vae) as url:
        main(EncodeConfig(phantom_dataset, url, tmp_path / "remote", variants_in_context=1, device="cpu"))
    for split in ("train", "validation"):
        local, remote = (load_latents(tmp_path / name, split) for name in ("local", "remote"))
        assert len(local) == len(remote) > 0
        for index in range(len(local)):
            ours, theirs = read_latent(local, index), read_latent(remote, index)
            for name in ("latent_mean", "latent_std", "blanked_latent"):
                np.testing.assert_allclose(theirs[name], ours[name], atol=1e-6)


def test_a_service_without_latent_statistics_is_refused(phantom_dataset, tmp_path):
    with (
        running(tiny_autoencoder(latents_mean=None, latents_std=None)) as url,
        pytest.raises(ValueError, match=f"{url}: has no latent statistics"),
    ):
        main(EncodeConfig(phantom_dataset, url, tmp_path / "out", device="cpu"))


def test_tiles_can_be_computed_by_a_service():
    vae = tiny_autoencoder()
    ct_norm = torch.rand(1, 1, 24, 28, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with running(vae) as url:
        remote = RemoteAutoencoder(url)
        latent = encode_volume(remote, ct_norm, 4, progress=False)
        decoded = decode_volume(remote, latent, 4, progress=False)
    with torch.no_grad():
        whole = vae.encode(ct_norm).latent_dist.mode()
        torch.testing.assert_close(latent, whole, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(decoded, vae.decode(latent).sample, atol=2e-6, rtol=1e-5)


def test_statistics_are_stored_with_the_autoencoder_inside_a_pipeline(phantom_dataset, tmp_path):
    tiny_autoencoder(latents_mean=None, latents_std=None).save_pretrained(tmp_path / "pipeline/vae")
    (tmp_path / "pipeline/model_index.json").write_text("{}")
    main(
        EncodeConfig(phantom_dataset, str(tmp_path / "pipeline"), tmp_path / "out", variants_in_context=1, device="cpu")
    )
    config = load_autoencoder(tmp_path / "pipeline").config
    assert len(config["latents_mean"]) == len(config["latents_std"]) == 2
    assert not (tmp_path / "pipeline/config.json").exists()
