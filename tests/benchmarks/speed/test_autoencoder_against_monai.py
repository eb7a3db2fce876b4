"""The comparison with MONAI's autoencoder, for a second of training."""

import json

import pytest

from benchmarks.speed import autoencoder_against_monai
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset


@pytest.mark.slow
def test_every_network_is_trained_in_turn_and_judged_on_the_test_split(phantom_dataset, tmp_path, capsys, monkeypatch):
    speed = {f"{task}{of}": 1.0 for task in ("train", "encode", "decode") for of in ("", "_peak_mib")}
    networks = autoencoder_against_monai.NETWORKS
    monkeypatch.setattr(autoencoder_against_monai, "measure_speed", lambda config: dict.fromkeys(networks, speed))
    splits = [load_nodules(phantom_dataset, split) for split in ("train", "validation", "test")]
    rows = [read_nodule(given, index) for given in splits for index in range(len(given))]
    kept = autoencoder_against_monai.VALIDATION_NODULES + 2
    given = [{**row, "patient_id": f"p{i}", "split": "train" if i < kept else "test"} for i, row in enumerate(rows)]
    save_nodule_dataset(iter(given), tmp_path / "nodules", rows[0]["ct_hu"].shape[0])
    config = autoencoder_against_monai.Config(
        data=tmp_path / "nodules",
        out=tmp_path / "out",
        minutes=1 / 60,
        search_minutes=0,
        patches=(801,),
        slice_seconds=0.5,
        curve_points=1,
    )
    autoencoder_against_monai.main(config)
    printed = capsys.readouterr().out
    results = json.loads((config.out / "results.json").read_text())
    assert results["parameters"].keys() == networks.keys()
    names = [*autoencoder_against_monai.TRAINED, "ours, a third of the time"]
    assert [training["name"] for training in results["training"]] == names
    assert all(training["steps"] > 0 and len(training["curve"]) == 1 for training in results["training"])
    assert all(f"| {name} |" in printed for name in names)
