"""A training that pushes its result: refused before it starts, pushed when it is finished, kept where that fails."""

import json
import math
import time
from dataclasses import replace

import pytest
import torch
from hub_server import HubServer
from torch import nn
from torch.utils.data import Dataset

from autoencoder import AutoencoderKL3D
from autoencoder.loading import load_autoencoder
from training.config import TrainingConfig
from training.run import TrainingRun
from training.sharing import push_result

REPO = "tester/autoencoder"


class Crops(Dataset):
    """Two crops of noise."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item):
        return {"ct_norm": torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(item[1]))}


class Reconstruction(nn.Module):
    """An autoencoder whose forward is its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = AutoencoderKL3D(channels=(4,), blocks_per_level=1, latent_channels=2)

    def forward(self, ct_norm):
        return (
            (self.autoencoder.decode(self.autoencoder.encode(ct_norm).latent_dist.mode()).sample - ct_norm).abs().mean()
        )


def train(config: TrainingConfig) -> None:
    torch.manual_seed(0)
    network = Reconstruction()
    run = TrainingRun(config)
    run.prepare(network)
    for batch in run.batches(Crops()):
        run.update(run.model(batch["ct_norm"]))
        if run.evaluation_due():
            run.log({"held_out/psnr_db": 12.5})
    if run.finished:
        run.save("model", lambda averaged: averaged.autoencoder)


@pytest.fixture
def config(tmp_path) -> TrainingConfig:
    return TrainingConfig(
        data=tmp_path / "data", out=tmp_path / "run", steps=2, batch_size=1, log_every=1, push_to_hub=REPO
    )


def committed(server: HubServer, name: str) -> bytes:
    commit = list(server.load(REPO)["commits"].values())[-1]
    return server.blob(commit["files"][name]["sha256"]).read_bytes()


def test_a_finished_training_is_on_the_hub_with_its_card(hub_server, config):
    train(config)
    assert hub_server.load(REPO)["private"]
    card = committed(hub_server, "README.md").decode()
    assert card == (config.out / "model" / "README.md").read_text()
    assert f"# {REPO}" in card and "| held_out/psnr_db | 12.5 |" in card
    mine, other = load_autoencoder(config.out / "model").state_dict(), load_autoencoder(REPO).state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


@pytest.mark.parametrize(
    ("repo", "token", "sentence"),
    [
        ("autoencoder", True, "repository 'autoencoder': expected OWNER/NAME"),
        (REPO, False, "tester/autoencoder: no access token; set HF_TOKEN"),
        ("someone/autoencoder", True, "someone/autoencoder: the access token may not write there"),
    ],
)
def test_a_push_that_cannot_succeed_ends_a_training_before_it_starts(
    hub_server, config, monkeypatch, repo, token, sentence
):
    if not token:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=sentence):
        TrainingRun(replace(config, push_to_hub=repo))
    assert not (config.out / "config.yaml").exists()


def test_a_broken_line_leaves_the_model_and_says_how_to_push_it_later(hub_server, config, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub_server.cut_off = {"POST /api/repos/create": 3, "PUT /storage/": math.inf}
    train(config)
    told = capsys.readouterr().err
    assert "note: tester/autoencoder: the connection to the Hub failed 3 times" in told
    assert "the push is tried when the training is finished" in told
    assert "not pushed: tester/autoencoder: the connection to the Hub failed 3 times" in told
    assert f"scripts/push_to_hub.py --pipeline {config.out / 'model'} --repo {REPO}" in told
    assert json.loads((config.out / "model" / "config.json").read_text())["_class_name"] == "AutoencoderKL3D"
    hub_server.cut_off.clear()
    push_result(config, config.out / "model")
    assert "# tester/autoencoder" in committed(hub_server, "README.md").decode()


def test_a_continued_training_may_be_told_to_push(hub_server, config):
    train(replace(config, push_to_hub=None))
    assert hub_server.load(REPO) is None and hub_server.requests == []
    train(replace(config, hub_private=False))
    assert not hub_server.load(REPO)["private"]
    assert "# tester/autoencoder" in committed(hub_server, "README.md").decode()
