"""The benchmark of translation goes to its end on phantoms, with networks that are hardly trained."""

import json

import numpy as np
import pytest

from benchmarks.quality import translation as benchmark
from imaging.dataset.nodules import save_nodule_dataset
from imaging.dataset.scan_volumes import open_scans
from imaging.phantom.chest import phantom_nodules


@pytest.mark.slow
def test_methods_are_trained_once_and_compared(tmp_path, monkeypatch):
    rows = [
        {**row, "valid_mask": np.ones_like(row["valid_mask"]), "patient_id": row["nodule_id"]}  # a patient each
        for row in phantom_nodules(18, 40, 1.0)
    ]
    save_nodule_dataset(rows, tmp_path / "nodules", 40)
    small = {"channels": 4, "blocks": 1, "discriminator_channels": [4, 4], "batch_size": 1, "mixed_precision": "no"}
    small |= {"calls": 2}
    monkeypatch.setattr(benchmark, "OPTIONS", {name: given | small for name, given in benchmark.OPTIONS.items()})
    config = benchmark.TranslationBenchmark(
        tmp_path / "nodules", tmp_path / "out", "kernel", steps=1, cyclegan_steps=1, samples=2
    )
    benchmark.main(config)
    report = json.loads((config.out / "figures.json").read_text())
    assert set(report) == {"soft to sharp", "sharp to soft"}
    table = report["soft to sharp"]
    assert set(table) > {"no translation", "linear filter", "CycleGAN", "DDPM", "SynDiff", "SynDiff, mean of 2"}
    psnr = {name: np.mean([row["psnr"] for row in rows]) for name, rows in table.items()}
    assert psnr["linear filter"] > psnr["no translation"]
    names = [{entry.name for entry, _ in open_scans(config.out / kind)} for kind in "ab"]
    assert names[0] and names[1] and not names[0] & names[1]
    weights = config.out / "syndiff/translator/diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    benchmark.train(config, "syndiff")
    assert weights.stat().st_mtime_ns == before
    for name in ("figures.md", "a_to_b.png", "b_to_a.png"):
        assert (config.out / name).stat().st_size > 0
