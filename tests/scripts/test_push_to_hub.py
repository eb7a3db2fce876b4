"""scripts/push_to_hub.py: what it refuses, the card that it makes, and datasets."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from hub_server import HubServer
from tiny_models import pixel_pipeline, pixel_unet

from autoencoder import AutoencoderKL3D
from autoencoder.loading import load_autoencoder
from diffusion import LesionInpaintPipeline
from foundation.config import launch, parse_config
from imaging.dataset.nodules import save_nodule_dataset
from imaging.phantom.chest import phantom_nodules
from scripts.push_to_hub import PushConfig, main

REPO = "tester/thing"


def push(*argv: object) -> None:
    """The script with these arguments, in this process."""
    launch(main, parse_config(PushConfig, ["--repo", REPO, *map(str, argv)]))


def readme(server: HubServer, stored: str) -> str:
    commit = list(server.load(stored)["commits"].values())[-1]
    return server.blob(commit["files"]["README.md"]["sha256"]).read_text()


@pytest.fixture
def model(tmp_path) -> Path:
    torch.manual_seed(0)
    AutoencoderKL3D(channels=(4,), blocks_per_level=1, latent_channels=2).save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def test_a_model_gets_a_card_from_its_run_and_keeps_one_that_it_has(hub_server, model, capsys):
    (model.parent / "config.yaml").write_text("# git commit: 12ab\nsteps: 7\n")
    push("--pipeline", model)
    assert "Git commit of the code: 12ab." in readme(hub_server, REPO) and f"# {REPO}" in readme(hub_server, REPO)
    assert f"pushed: {hub_server.endpoint}/{REPO}/commit/" in capsys.readouterr().out
    (model / "README.md").write_text("# Mine\n")
    push("--pipeline", model, "--message", "Again")
    assert readme(hub_server, REPO) == "# Mine\n"
    assert [commit["title"] for commit in hub_server.load(REPO)["commits"].values()][1:] == ["Upload", "Again"]
    mine, other = load_autoencoder(model).state_dict(), load_autoencoder(REPO).state_dict()
    assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_a_reports_figures_get_into_the_card(hub_server, model, tmp_path):
    row = {"version": "autoencoder kl", "group": "all", "figure": "psnr_db", "mean": 30.0, "low": 29.0, "high": 31.0}
    (tmp_path / "report.json").write_text(json.dumps({"summary": [row]}))
    push("--pipeline", model, "--report", tmp_path)
    assert "| psnr_db | autoencoder kl | 30 | 29 … 31 |" in readme(hub_server, REPO)


def test_a_dataset_goes_into_a_dataset_repository(hub_server, tmp_path, capsys):
    save_nodule_dataset(phantom_nodules(4, 8, 4.0), tmp_path / "nodules", 8)
    push("--dataset", tmp_path / "nodules", "--private", "false")
    assert not hub_server.load(f"datasets/{REPO}")["private"] and hub_server.load(REPO) is None
    assert readme(hub_server, f"datasets/{REPO}").startswith("---\nlicense: other\n")
    assert "patient_id go along as they are" in capsys.readouterr().out


def test_stock_diffusers_fails_on_a_pushed_pipeline_whose_card_begins_with_what_to_install(hub_server, tmp_path):
    pixel_pipeline(pixel_unet(), crop_size=8).save_pretrained(tmp_path / "pipeline")
    push("--pipeline", tmp_path / "pipeline")
    with pytest.raises(ValueError, match=r"diffusion\.unet"):  # the module that it would have to import
        DiffusionPipeline.from_pretrained(REPO)
    opening = readme(hub_server, REPO).split("```")[0]
    assert "install the Python package `lesion-diffusion`" in opening and "DiffusionPipeline.from_pretrained" in opening
    assert LesionInpaintPipeline.from_pretrained(REPO).config["crop_size"] == 8


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "give either --pipeline .* or --dataset"),
        (["--pipeline", ".", "--dataset", "."], "give either --pipeline .* or --dataset"),
        (["--dataset", ".", "--report", "."], "report .*: goes with --pipeline"),
        (["--pipeline", "."], r"not a folder of a pipeline \(no model_index\.json\)"),
        (["--dataset", "."], "not a prepared dataset"),
    ],
)
def test_what_cannot_be_pushed_ends_in_one_line(hub_server, tmp_path, monkeypatch, argv, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"error: .*{sentence}"):
        push(*argv)
    assert hub_server.requests == []
