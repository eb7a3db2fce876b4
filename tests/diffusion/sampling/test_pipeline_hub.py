"""The whole pipeline to a Hub and back: by revision, with its guide, and from the cache when the Hub is gone."""

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from tiny_models import pixel_pipeline, randomised, tiny_unet
from torch import Tensor

from diffusion.sampling.pipeline import LesionInpaintPipeline
from guidance.multi_classifier_guidance import MultiClassifierGuidance

REPO = "tester/lesions"


def pipeline(seed: int) -> LesionInpaintPipeline:
    torch.manual_seed(seed)
    guide = randomised(
        MultiClassifierGuidance(
            [{"classes": {"malignancy": ["benign", "malignant"]}, "latent_channels": 1, "channels": (4, 8)}]
        )
    )
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1)
    for parameter in unet.conv_out.parameters():
        parameter.data.mul_(1 + seed)
    return pixel_pipeline(unet, guide=guide, crop_size=8, spacing_mm=0.9)


def painted(pipe: LesionInpaintPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    lesion_mask = torch.zeros(1, 1, 4, 6, 8)
    lesion_mask[..., 1:3, 1:5, 2:6] = 1
    seed, wanted = torch.Generator().manual_seed(0), {"malignancy": "malignant"}
    return pipe(torch.full((1, 1, 4, 6, 8), -700.0), lesion_mask, wanted, num_inference_steps=3, generator=seed).ct


def test_pushed_pipeline_comes_back_by_revision_and_paints_the_same(
    hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
):
    first, second = pipeline(seed=1), pipeline(seed=2)
    sha = first.push_to_hub(REPO).oid
    HfApi().create_tag(REPO, tag="v1")
    second.push_to_hub(REPO)
    for revision, pushed in ((sha, first), ("v1", first), (None, second), ("main", second)):
        loaded = LesionInpaintPipeline.from_pretrained(REPO, revision=revision)
        assert torch.equal(painted(loaded), painted(pushed))
    assert isinstance(loaded.guide, MultiClassifierGuidance)
    assert loaded.config["crop_size"] == 8 and loaded.config["spacing_mm"] == 0.9
    assert not torch.equal(painted(first), painted(second))

    hub_server.stop()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision, pushed in (("v1", first), (None, second)):
        assert torch.equal(painted(LesionInpaintPipeline.from_pretrained(REPO, revision=revision)), painted(pushed))
    with pytest.raises(OSError, match="'tester/other': cannot be downloaded"):
        LesionInpaintPipeline.from_pretrained("tester/other")


def test_unknown_revision_is_named_by_the_pipeline_too(hub_server: HubServer):
    pipeline(seed=1).push_to_hub(REPO)
    with pytest.raises(ValueError, match="revision 'v9': not in repository 'tester/lesions'"):
        LesionInpaintPipeline.from_pretrained(REPO, revision="v9")
