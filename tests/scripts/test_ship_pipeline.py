"""scripts/ship_pipeline.py: what a shipped pipeline keeps; and the commands that made the one of the package."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion import LesionInpaintPipeline
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from foundation.config import parse_config
from scripts import (
    encode_latents,
    evaluate,
    prepare_nodules,
    prepare_shapes,
    ship_pipeline,
    train_classifier,
    train_ldm,
    train_vae,
)
from scripts.ship_pipeline import ShipConfig, main

ROOT = Path(__file__).parents[2]
COMMANDS = ROOT / "configs/shipped/commands.sh"
SHIPPED = ROOT / "models/lung-nodule-small"
CONFIGS = {
    "prepare_nodules": prepare_nodules.PrepareNodulesConfig,
    "train_vae": train_vae.VaeConfig,
    "encode_latents": encode_latents.EncodeConfig,
    "train_ldm": train_ldm.LdmConfig,
    "train_classifier": train_classifier.ClassifierConfig,
    "inpaint_nodules": SyntheticSetConfig,
    "evaluate": evaluate.EvaluateConfig,
    "prepare_shapes": prepare_shapes.PrepareShapesConfig,
    "ship_pipeline": ship_pipeline.ShipConfig,
}


def test_the_guide_goes_along_in_half_precision_with_what_it_knows(chain, tmp_path):
    out = tmp_path / "shipped"
    trained = chain.classifier / "pipeline"
    main(ShipConfig(pipeline=str(trained), out=out, run=chain.ldm, commands=COMMANDS))
    for part in ("guide", "unet", "vae"):
        (mine,), (theirs,) = (list((folder / part).glob("*.safetensors")) for folder in (out, trained))
        halved, given = load_file(mine), load_file(theirs)
        floats = {name for name, tensor in given.items() if tensor.is_floating_point()}
        assert floats and all(torch.equal(halved[name], given[name].half()) for name in floats)
    kept, before = (LesionInpaintPipeline.from_pretrained(folder) for folder in (out, trained))
    assert dict(kept.guide.config["figures"]) == dict(before.guide.config["figures"])
    assert kept.guide.config["allowed"] == ["malignancy"] and kept.guide.attributes == before.guide.attributes
    assert type(kept.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert not any("_name_or_path" in json.loads(path.read_text()) for path in out.rglob("*.json"))
    card = (out / "README.md").read_text()
    assert "| guide | `MultiClassifierGuidance` |" in card and COMMANDS.read_text() in card

    mask = torch.zeros(1, 1, 16, 16, 16)
    mask[..., 6:10, 6:10, 6:10] = 1
    ct_hu = torch.full(mask.shape, -800.0)

    def painted(**options):
        seeded = torch.Generator().manual_seed(0)
        return kept(ct_hu, mask, num_inference_steps=3, generator=seeded, spacing_mm=(2.0,) * 3, **options).ct

    requested_attributes = painted(attributes={"malignancy": "malignant"}, guidance_scale=50.0)
    assert torch.isfinite(requested_attributes).all() and not torch.equal(requested_attributes, painted())


def test_a_pipeline_that_is_too_large_is_refused_and_nothing_is_written(chain, tmp_path):
    with pytest.raises(ValueError, match=r"MB in half precision, expected at most 0\.001"):
        main(ShipConfig(pipeline=str(chain.classifier / "pipeline"), out=tmp_path / "shipped", most_mb=0.001))
    assert not (tmp_path / "shipped").exists()


def test_a_time_shift_is_shipped_or_the_pipelines_kept(chain, tmp_path):
    trained = str(chain.ldm / "pipeline")
    main(ShipConfig(pipeline=trained, out=tmp_path / "shifted", time_shift=0.25))
    main(ShipConfig(pipeline=str(tmp_path / "shifted"), out=tmp_path / "kept"))
    for folder in ("shifted", "kept"):
        assert LesionInpaintPipeline.from_pretrained(tmp_path / folder).config["time_shift"] == 0.25


def test_a_decoder_that_was_trained_on_is_taken_and_one_of_another_latent_is_refused(chain, tmp_path):
    trained = LesionInpaintPipeline.from_pretrained(chain.ldm / "pipeline").vae
    torch.nn.init.constant_(trained.decoder.conv_out.bias, 0.125)
    trained.save_pretrained(tmp_path / "vae")
    options = {"pipeline": str(chain.ldm / "pipeline"), "vae": str(tmp_path / "vae")}
    main(ShipConfig(out=tmp_path / "small", **options))
    assert LesionInpaintPipeline.from_pretrained(tmp_path / "small").vae.decoder.conv_out.bias[0] == 0.125
    trained.register_to_config(latents_mean=[7.0 for _ in trained.config["latents_mean"]])
    trained.save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="latents_mean differ from the pipeline's; expected the same encoder"):
        main(ShipConfig(out=tmp_path / "other", **options))
    assert not (tmp_path / "other").exists()


def test_the_packages_pipeline_fits_its_limit_and_its_card_has_its_name_and_the_commands():
    weights = list(SHIPPED.rglob("*.safetensors"))
    assert {path.parent.name for path in weights} == {"guide", "population", "shapes", "unet", "vae"}
    assert sum(path.stat().st_size for path in weights) < 30e6
    card = (SHIPPED / "README.md").read_text()
    assert COMMANDS.read_text() in card
    assert f"# {SHIPPED.name}\n" in card and f'from_pretrained("{SHIPPED.name}")' in card
    assert COMMANDS.read_text() in (ROOT / "docs/guides/training.md").read_text()


def test_the_commands_of_the_packages_pipeline_fit_their_scripts_and_one_another(tmp_path, monkeypatch):
    """Each option is known, each input comes from a command before, and the last config is headed by its command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    made = ["nodules_iso51", "nodules_native", "lidc_shapes"]  # what is there from the beginning
    for folder in made:
        Path(folder).mkdir()
    commands = [shlex.split(line) for line in joined(COMMANDS.read_text()) if not line.startswith("#")]
    for _, _, script, *argv in commands:
        config = parse_config(CONFIGS[Path(script).stem], argv)  # refuses options, and inputs that are not there yet
        configs = [value for option, value in pairwise(argv) if option == "--config"]
        if configs:
            head = [line[2:] for line in (ROOT / configs[-1]).read_text().splitlines() if line.startswith("# ")]
            assert shlex.split(joined("\n".join(head))[0]) == ["uv", "run", script, *argv]
        for part in ("", "model", "pipeline"):
            (config.out / part).mkdir(parents=True, exist_ok=True)
    assert config.out == Path("models/lung-nodule-small") and config.pipeline == "runs/shipped/pipeline"


def test_the_packages_guide_is_the_network_of_its_config():
    argv = f"--config {ROOT}/configs/shipped/classifier.yaml --data {ROOT} --out out --pipeline {SHIPPED}"
    config = parse_config(train_classifier.ClassifierConfig, argv.split())
    guide = json.loads((SHIPPED / "guide/config.json").read_text())
    (network,) = guide["classifiers"]
    assert [*network["classes"], *network["regressions"]] == list(config.heads)
    assert guide["guidance_range"] == list(config.guidance_range) and guide["allowed"] == list(config.allow)
    told = {name: network[name] for name in train_classifier.ClassifierModelConfig.__dataclass_fields__}
    assert told == {**vars(config.model), "channels": list(config.model.channels)}


def joined(text: str) -> list[str]:
    """Lines of a shell script, those that end with a backslash joined with the next."""
    return re.sub(r" *\\\n *", " ", text).splitlines()
