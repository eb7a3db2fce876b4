"""The pipeline with its autoencoder behind a service paints what it paints with the autoencoder itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from running_service import running, tiny_autoencoder
from tiny_models import tiny_unet
from torch import Tensor

from autoencoder.remote import RemoteAutoencoder
from diffusion.process import training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline


@pytest.fixture(scope="module")
def pipeline() -> LesionInpaintPipeline:
    unet = tiny_unet(latent_channels=2, condition_channels=12, map_factor=4)
    return LesionInpaintPipeline(tiny_autoencoder(), unet, training_scheduler("v"), crop_size=16)


@pytest.fixture(scope="module")
def remote(pipeline) -> Iterator[RemoteAutoencoder]:
    with running(pipeline.vae) as url:
        yield RemoteAutoencoder(url)


def painted(pipe: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    ct_hu = 800 * torch.rand(2, 1, 16, 16, 24, generator=torch.Generator().manual_seed(0)) - 1000
    lesion_mask = torch.zeros(2, 1, 16, 16, 24)
    lesion_mask[..., 4:11, 5:12, 6:15] = 1
    seeds = [torch.Generator().manual_seed(number) for number in (0, 1)]
    return pipe(ct_hu, lesion_mask, num_inference_steps=3, generator=seeds).ct


def test_pipeline_made_with_a_remote_autoencoder_paints_the_same(pipeline, remote):
    made = LesionInpaintPipeline(remote, pipeline.unet, pipeline.scheduler, crop_size=16)
    assert torch.equal(painted(made.to("cpu")), painted(pipeline))


def test_loaded_pipeline_takes_a_remote_autoencoder_in_place_of_its_own(pipeline, remote, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = LesionInpaintPipeline.from_pretrained(tmp_path, vae=remote)
    assert loaded.vae is remote
    assert torch.equal(painted(loaded), painted(pipeline))


def test_pipeline_with_a_remote_autoencoder_cannot_be_saved(pipeline, remote, tmp_path):
    made = LesionInpaintPipeline(remote, pipeline.unet, pipeline.scheduler)
    with pytest.raises(ValueError, match="no weights to save; give the pipeline the local autoencoder"):
        made.save_pretrained(tmp_path / "pipeline")
    assert not list(tmp_path.rglob("*.*"))
