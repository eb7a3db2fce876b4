"""train_pig.py: what is refused before training, and PIG's own schedule."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import pixel_pipeline

from diffusion.process import training_scheduler
from scripts.train_pig import PigConfig, check_grid, image_unet


def test_another_schedule_than_that_of_stage_two_needs_a_fresh_network(tmp_path):
    initial = pixel_pipeline()
    config = PigConfig(
        data=tmp_path, out=tmp_path, target="epsilon", noise_schedule="linear", timesteps=1024, fresh=False
    )
    scheduler = training_scheduler(config.target, config.noise_schedule, config.timesteps)
    assert scheduler.betas[0] == pytest.approx(1e-4) and scheduler.betas[-1] == pytest.approx(0.02)
    with pytest.raises(ValueError, match=r"timesteps.*or pass --fresh true to train model_y from random weights"):
        image_unet(config, initial, scheduler)
    fresh = image_unet(replace(config, fresh=True), initial, scheduler)
    assert fresh.config["channels"] == initial.unet.config["channels"]
    assert not fresh.conv_in.weight.equal(initial.unet.conv_in.weight)
    assert image_unet(config, initial, training_scheduler("v")) is initial.unet


def test_latents_of_another_grid_are_refused(tmp_path):
    row = {"ct_hu": np.zeros((16, 16, 16)), "latent_mean": np.zeros((4, 4, 4, 4)), "spacing_mm": np.full(3, 2.0)}
    with pytest.raises(ValueError, match=r"crop size, latent channels and spacing are \(16, 4, \[2.0, 2.0, 2.0\]\)"):
        check_grid(row, pixel_pipeline(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"true_mask_share": 1.5}, "true_mask_share 1.5: expected a share from 0 to 1"),
        ({"reach_mm": 0.0}, "reach_mm 0.0, mask_rate 0.0008: expected numbers above 0"),
        ({"target": "flow"}, 'target "flow": paired generation takes "epsilon", "v" or "x0"'),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        PigConfig(data=tmp_path, out=tmp_path, **change)
