"""The benchmarks behind the tables of the shipped model: methods, unselected cases, the search."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from benchmarks.choices import search, texture_ablation
from benchmarks.quality import lesion_table, unselected_cases
from evaluation.autoencoders.matched_blur import blur_valid
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.phantom.chest import phantom_nodules
from scripts.inpaint_nodules import synthetic_row

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def nodules(chain, tmp_path):
    """Twelve validation nodules of the phantom, each of a patient of its own, and six to train on."""
    given = [load_nodules(chain.nodules, split) for split in ("validation", "train")]
    rows = [synthetic_row(row := read_nodule(split, i), row["ct_hu"], 0, 1) for split in given for i in range(6)]
    held = [{**row, "patient_id": f"patient{i}", "split": "validation"} for i, row in enumerate(rows)]
    train = [{**row, "nodule_id": f"t{i}", "patient_id": f"t{i}", "split": "train"} for i, row in enumerate(rows[:6])]
    save_nodule_dataset(iter(held + train), tmp_path / "nodules", rows[0]["ct_hu"].shape[0])
    return tmp_path / "nodules"


@pytest.mark.slow
def test_table_has_methods_ceiling_and_floor_and_nothing_is_made_twice(chain, nodules, tmp_path, monkeypatch):
    pipeline = chain.ldm / "pipeline"
    config = lesion_table.LesionTableConfig(
        data=nodules,
        out=tmp_path / "table",
        pipelines=f"ours={pipeline},gan={pipeline}",
        one_step="gan",
        split="validation",
        samples=2,
        steps=2,
        repeats=10,
        permutations=19,
    )
    lesion_table.main(config)
    text = (config.out / "table.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {cells[0]: cells[-2] for cells in lines[1:]} == {
        "ours": "2",  # network calls
        "gan": "1",
        lesion_table.CEILING: "–",
        lesion_table.FLOOR: "–",
    }
    figures = json.loads((config.out / "table.json").read_text())
    assert figures["ours"]["lesions"] == 24 and figures[lesion_table.FLOOR]["lesions"] == 12
    assert figures[lesion_table.CEILING]["MSE"] > 0 and figures[lesion_table.FLOOR]["MSE"] > 0
    changed, row = load_nodules(config.out / "floor", "validation"), load_nodules(nodules, "validation")
    blurred, real = read_nodule(changed, 3), read_nodule(row, 3)
    outside = real["lesion_mask"] == 0
    assert np.array_equal(blurred["ct_hu"][outside], real["ct_hu"][outside])
    expected = blur_valid(real["ct_hu"].astype(np.float32), real["valid_mask"], 1.5, real["spacing_mm"])[~outside]
    assert np.abs(blurred["ct_hu"][~outside] - expected).max() <= 0.5 and (expected != real["ct_hu"][~outside]).any()

    monkeypatch.setattr(lesion_table.inpaint_nodules, "painted", lambda *_: pytest.fail("made twice"))
    lesion_table.main(config)
    assert (config.out / "table.md").read_text() == text

    cases = unselected_cases.CasesConfig(
        data=nodules, lesions=config.out / "ours", out=tmp_path / "cases.png", split="validation", count=3, field_mm=20
    )
    unselected_cases.main(cases)
    with Image.open(cases.out) as picture:  # 3 rows; real, given and two seeds in three planes of 10 voxels
        assert picture.size == (4 * 3 * (20 + 2), 3 * (20 + 2) + unselected_cases.LABEL)
        grey = np.asarray(picture)[unselected_cases.LABEL :]
    tile = grey[:20, :20].astype(int)
    again = grey[:20, 6 * 22 : 6 * 22 + 20].astype(int)
    assert tile.std() > 5 and (tile != again).any()
    with pytest.raises(ValueError, match="no split 'train'"):
        unselected_cases.main(replace(cases, split="train"))


@pytest.mark.slow
def test_search_judges_each_choice_once(tmp_path, monkeypatch):
    rows = phantom_nodules(18, 32, 2.0)
    data = tmp_path / "nodules"
    save_nodule_dataset(({**row, "malignancy": 3.0} for row in rows), data, 32)
    config = search.SearchConfig(
        stage="autoencoder", data=data, out=tmp_path / "search", steps=2, lesions=2, only="factor 2;KL 1e-2"
    )
    search.main(config)
    text = (config.out / "autoencoder.md").read_text()
    assert "| factor 2 |" in text and "| KL 1e-2 |" in text and "0.5 |" in text.splitlines()[2]
    monkeypatch.setattr(search.train_vae, "main", lambda *_: pytest.fail("trained twice"))
    search.main(config)
    assert (config.out / "autoencoder.md").read_text() == text
    with pytest.raises(ValueError, match="only: 'nothing' is no choice; known: shipped, first part; 8 channels"):
        search.main(replace(config, only="nothing"))
    with pytest.raises(ValueError, match="stage ldm: give --latents and --vae"):
        search.main(replace(config, stage="ldm", only=None))


@pytest.mark.slow
def test_ablation_trains_each_variant_once_and_tests_it_against_none(chain, nodules, tmp_path, monkeypatch):
    table = texture_ablation.lesion_table
    measure = table.main
    monkeypatch.setattr(table, "main", lambda config: measure(replace(config, repeats=10, permutations=19)))
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
    monkeypatch.setattr(texture_ablation.train_ldm, "main", lambda *_: pytest.fail("trained twice"))
    texture_ablation.main(config)
    assert (config.out / "table/table.md").read_text() == text
    with pytest.raises(ValueError, match="variant nothing, expected one of none, gabor"):
        texture_ablation.main(replace(config, variants=("nothing",)))
