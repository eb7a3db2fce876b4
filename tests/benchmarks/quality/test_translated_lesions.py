"""Lesions are painted in both kinds, translated and judged; a translator that changes nothing leaves their figures."""

import json

import pytest
from tiny_models import pixel_pipeline

from benchmarks.quality import translated_lesions as benchmark
from diffusion.translator import Translator
from evaluation.translation.methods import FOLDER, LINEAR, load_translators


@pytest.mark.slow
def test_translated_lesions_are_judged(nodules, tmp_path, measured_once):
    Translator("cyclegan").save_pretrained(tmp_path / "models" / LINEAR / FOLDER)
    assert set(load_translators(tmp_path / "models")) == {LINEAR}
    pixel_pipeline().save_pretrained(tmp_path / "pipeline")
    config = benchmark.TranslatedLesions(
        nodules, tmp_path / "models", tmp_path / "out", pipeline=str(tmp_path / "pipeline"), steps=1
    )
    benchmark.main(config)
    report = json.loads((config.out / "figures.json").read_text())
    assert set(report) == {"no translation", "linear filter"}
    softened, unchanged = report.values()
    for text in ("painted", "real"):
        assert softened[text]["lesion_hu"] > 0  # a soft kernel takes contrast from small lesions
        assert unchanged[text]["lesion_hu"] == pytest.approx(softened[text]["lesion_hu"], abs=1e-3)
        assert 0 <= softened[text]["auroc"] <= 1
    assert "| linear filter |" in (config.out / "figures.md").read_text()
