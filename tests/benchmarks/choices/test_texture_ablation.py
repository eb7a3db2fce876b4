"""The ablation of the texture losses on the tiny chain."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from benchmarks.choices import texture_ablation
from foundation.command import run_script

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.slow
def test_ablation_trains_each_variant_once_and_tests_it_against_none(chain, nodules, tmp_path, monkeypatch):
    few = {"train_ldm": {}, texture_ablation.LESION_TABLE: {"repeats": 10, "permutations": 19}}
    monkeypatch.setattr(texture_ablation, "run_script", lambda name, given: run_script(name, given | few[name]))
    config = texture_ablation.AblationConfig(
        data=nodules,
        latents=chain.latents,
        vae=chain.vae / "model",
        pipeline=chain.ldm / "pipeline",
        out=tmp_path / "ablation",
        steps=2,
        batch_size=2,
        gate=1.0,
        lesions=8,
        sampling_steps=1,
        variants=("none", "wavelet"),
    )
    texture_ablation.main(config)
    text = (config.out / "table/table.md").read_text()
    assert "| none |" in text and "| wavelet |" in text
    weights = [load_file(config.out / name / "pipeline/unet" / WEIGHTS) for name in config.variants]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
    ran: list[Path | str] = []
    monkeypatch.setattr(texture_ablation, "run_script", lambda name, given: ran.append(name))
    texture_ablation.main(config)
    assert ran == [texture_ablation.LESION_TABLE]  # no variant is trained twice
    with pytest.raises(ValueError, match="variant nothing, expected one of none, gabor"):
        texture_ablation.main(replace(config, variants=("nothing",)))
