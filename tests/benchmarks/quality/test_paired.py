"""The judgement of pairs goes to its end on a tiny pipeline and leaves what the benchmark of shapes reads."""

import json

import numpy as np
import pytest
from safetensors.torch import save_file
from tiny_models import pixel_autoencoder, pixel_pipeline, randomised, tiny_unet

from benchmarks.quality import paired as benchmark
from benchmarks.quality.shapes import masks_of
from diffusion import PairedLesionPipeline, SPADEUNet3D
from diffusion.paired import mask_conditions
from diffusion.process import training_scheduler
from diffusion.sampling.samplers import sampler_of
from evaluation.downstream.tasks import TASKS
from imaging.dataset.nodules import load_nodules, save_nodule_dataset
from imaging.phantom.chest import phantom_nodules

SIZE = 32


@pytest.mark.slow
def test_pairs_are_made_judged_and_kept(tmp_path):
    rated = dict.fromkeys(("lobulation", "spiculation", "sphericity", "texture", "malignancy"), 2.0)
    save_nodule_dataset(({**row, **rated} for row in phantom_nodules(18, SIZE, 1.0)), tmp_path / "nodules", SIZE)
    attributes = ("diameter_mm", "lobulation", "spiculation")
    small = {"channels": (4, 8), "blocks_per_level": 1}
    mask_unet = SPADEUNet3D(1, mask_conditions(1), map_factor=1, map_channels=0, attributes=attributes, **small)
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1)
    scheduler = sampler_of("ddim", training_scheduler("v"))
    paired = PairedLesionPipeline(pixel_autoencoder(), randomised(mask_unet), unet, scheduler, crop_size=SIZE)
    paired.save_pretrained(tmp_path / "paired")
    pixel_pipeline().save_pretrained(tmp_path / "pipeline")
    network = TASKS["segmentation"].network()
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "segmenter.safetensors"
    )
    config = benchmark.PairedConfig(
        tmp_path / "nodules",
        str(tmp_path / "paired"),
        tmp_path / "out",
        segmenter=tmp_path / "segmenter.safetensors",
        pipeline=str(tmp_path / "pipeline"),
        alone=2,
        extremes=1,
        steps=2,
    )
    benchmark.main(config)
    report = json.loads((config.out / "figures.json").read_text())
    volume, dice, *noisy = report["round_trip"]["distance to 2 mm"]
    assert volume == dice == 1 > noisy[1]  # a factor of 1 loses nothing
    assert report["frechet"]["real nodules"] == pytest.approx(0, abs=1e-6)
    assert set(report["agreement"]) == {
        "real nodules",
        "paired",
        "stage 2 in the same masks",
        "paired, from nothing",
    }
    pairs, painted = (load_nodules(config.out / name, "validation") for name in ("pairs", "stage_two"))
    masks = masks_of(pairs)
    assert len(masks.patients) == report["asked"] - report["empty"] > 0 and np.isfinite(masks.requested).all()
    assert painted["lesion_mask"] == pairs["lesion_mask"] and painted["ct_hu"] != pairs["ct_hu"]
    assert set(report["segmenter"]) == set(report["agreement"])
    assert all(0 <= dice <= 1 for dice in report["segmenter"].values())
    for name in ("pairs.png", "alone.png", "steps.png", "figures.md"):
        assert (config.out / name).stat().st_size > 0
