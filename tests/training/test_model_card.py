"""The card of a saved model: what it tells of the run, its data and its figures, and what it keeps to itself."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.numpy import load_file
from tiny_models import pixel_pipeline, pixel_unet

from autoencoder import AutoencoderKL3D
from imaging.dataset.nodules import save_nodule_dataset
from imaging.phantom.chest import phantom_nodules
from training.data_record import FILE, record_data
from training.model_card import model_card, without_places, write_model_card

PATIENTS = [f"LIDC-IDRI-{number:04d}" for number in range(6)]


@pytest.fixture(scope="module")
def nodules(tmp_path_factory) -> Path:
    """Six phantom nodules under the names of LIDC-IDRI's patients, in a folder that is called after a person."""
    path = tmp_path_factory.mktemp("Jane Doe") / "nodules"
    rows = phantom_nodules(6, 8, 4.0)
    named = ({**row, "patient_id": name} for row, name in zip(rows, PATIENTS, strict=True))
    save_nodule_dataset(named, path, 8)
    return path


@pytest.fixture
def run(tmp_path, nodules) -> Path:
    """What a training leaves in its folder beside the model."""
    folder = tmp_path / "Jane Doe" / "vae"
    folder.mkdir(parents=True)
    config = {"data": str(nodules), "out": str(folder), "steps": 40, "initial": "owner/older", "model": {"kind": "kl"}}
    (folder / "config.yaml").write_text("# git commit: 0123abc-dirty\n" + yaml.safe_dump(config, sort_keys=False))
    lines = [
        {"step": 20, "loss": 0.9, "l1": 0.8},
        {"step": 20, "held_out/psnr_db": 21.0, "held_out/ssim": 0.5},
        {"step": 40, "loss": 0.5, "l1": 0.4},
        {"step": 40, "held_out/psnr_db": 30.53894},
        {"step": 40, "skipped_steps": 1.0},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    return folder


@pytest.fixture
def model(run) -> Path:
    torch.manual_seed(0)
    AutoencoderKL3D(channels=(4,), blocks_per_level=1, latent_channels=2).save_pretrained(run / "model")
    return run / "model"


def header(card: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def test_a_card_tells_the_run_its_data_and_its_last_figures(run, model, nodules):
    card = model_card(model, run, "owner/vae")
    assert card.splitlines().count("# owner/vae") == 1
    assert "Git commit of the code: 0123abc-dirty." in card and "Stopped after step 40." in card
    block = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert block == {"data": "nodules", "out": "vae", "steps": 40, "initial": "owner/older", "model": {"kind": "kl"}}
    assert "| held_out/psnr_db | 30.54 |" in card and "at step 40" in card
    assert "ssim" not in card and "skipped_steps" not in card and "| l1 |" not in card  # older, no figure, of training
    arrow = hashlib.sha256()
    for split in ("train", "validation", "test"):
        if (nodules / split).is_dir():
            arrow.update((nodules / split / "data-00000-of-00001.arrow").read_bytes())
    assert arrow.hexdigest() in card
    weights = load_file(model / "diffusion_pytorch_model.safetensors")
    number = f"{sum(array.size for array in weights.values()):,}"
    digest = hashlib.sha256((model / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
    assert f"| model | `AutoencoderKL3D` | {number} | {digest} |" in card
    assert 'load_autoencoder("owner/vae")' in card


def test_a_card_says_what_to_install_and_what_it_is_not_for_in_its_first_lines(run, model):
    text = model_card(model, run).split("\n---\n", 1)[1]
    opening = text.split("```", 1)[0]
    assert "not for diagnosis" in opening
    assert "install the Python package `lesion-diffusion`" in opening and "Diffusers alone does not know" in opening


def test_a_card_names_no_patient_and_no_place(run, model):
    card = model_card(model, run, "owner/vae")
    assert "Jane" not in card and str(Path.home()) not in card
    assert not any(patient in card for patient in PATIENTS)


def test_lidc_is_recognised_by_its_pseudonyms_and_attributed(run, model):
    card = model_card(model, run)
    assert header(card)["license"] == "apache-2.0" and "| licence | cc-by-3.0 |" in card
    assert "TCIA.2015.LO9QL9SX" in card and "@article{armato2011lidc," in card


def test_a_card_claims_no_licence_where_the_datas_is_not_known(tmp_path, run, model):
    path = tmp_path / "own"
    save_nodule_dataset(phantom_nodules(4, 8, 4.0), path, 8)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"data: .*", f"data: {path}", text))
    card = model_card(model, run)
    assert header(card)["license"] == "other" and header(card)["license_name"] == "not-stated"
    assert "| licence | not stated |" in card and "LIDC" not in card and "licence of the training data is not" in card


def test_the_licence_of_a_datasets_own_card_counts(tmp_path):
    path = tmp_path / "own"
    save_nodule_dataset(phantom_nodules(4, 8, 4.0), path, 8)
    (path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Ours\n")
    record = record_data(path)
    assert record.licence == "cc-by-nc-4.0" and not record.is_lidc


def test_the_data_is_hashed_once_and_known_after_it_has_gone(run, model, nodules, tmp_path):
    first = record_data(nodules, run)
    kept = (run / FILE).read_bytes()
    assert record_data(tmp_path / "gone", run) == first and (run / FILE).read_bytes() == kept
    assert sum(first.rows.values()) == 6 and sum(first.patients.values()) == 6
    assert record_data(tmp_path / "gone") is None


def test_a_model_without_its_run_has_a_card_that_says_so(model, tmp_path):
    card = model_card(model)
    assert "not at hand" in card and "How it was trained is not known here" in card and "None was measured." in card


def test_a_pipelines_card_lists_its_parts_and_limits(tmp_path):
    pixel_pipeline(pixel_unet(), crop_size=8, spacing_mm=0.9).save_pretrained(tmp_path / "pipeline")
    write_model_card(tmp_path / "pipeline", repo="owner/lesions")
    card = (tmp_path / "pipeline" / "README.md").read_text()
    assert 'LesionInpaintPipeline.from_pretrained("owner/lesions")' in card and "| unet | `SPADEUNet3D` |" in card
    assert "It works on 8³ voxels at 0.9 mm" in card and "from -1150 to 350 HU" in card
    assert header(card)["library_name"] == "lesion-diffusion" and "inpainting" in header(card)["tags"]


def test_a_reports_figures_stand_with_their_intervals(model, tmp_path):
    report = {
        "sets": [{"label": "real", "lesions": 134, "split": "validation"}, {"label": "ours", "lesions": 268}],
        "distances": [
            {"metric": "Gabor", "method": "ours", "ratio": 1.2345, "low": 1.1, "high": 1.4, "value": 0.5},
            {"metric": "KID", "method": "ours", "ratio": None, "low": None, "high": None, "value": 0.5},
        ],
        "pairs": [{"metric": "seam", "method": "ours", "mean": 12.0, "low": 10.0, "high": 14.25}],
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    card = model_card(model, report=tmp_path)
    assert "| ratio, Gabor | ours | 1.23 | 1.1 … 1.4 |" in card and "| seam | ours | 12 | 10 … 14.2 |" in card
    assert "on 134 lesions of the split 'validation'" in card and "KID" not in card
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"no readable report\.json .* give the folder that scripts/evaluate\.py wrote"
    ):
        model_card(model, report=tmp_path)


def test_an_autoencoder_report_gives_its_figures_over_all_crops(model, tmp_path):
    row = {"version": "autoencoder kl", "group": "all", "figure": "psnr_db", "mean": 30.0, "low": 29.0, "high": 31.0}
    summary = [row, {**row, "group": "up to 6 mm"}, {**row, "version": "unchanged", "mean": None}]
    (tmp_path / "report.json").write_text(json.dumps({"summary": summary}))
    card = model_card(model, report=tmp_path)
    assert card.count("psnr_db") == 1 and "| psnr_db | autoencoder kl | 30 | 29 … 31 |" in card


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/jane/scans", "scans"),
        ("~/scans", "scans"),
        ("../scans", "scans"),
        ("runs/jane/model", "model"),
        ("owner/name", "owner/name"),
        ("http://any:secret@host:8000/decode", "http://host:8000/decode"),
        (["/a/b", {"c": "/d/e"}], ["b", {"c": "e"}]),
        (3, 3),
    ],
)
def test_places_and_passwords_are_cut_off(given, shown):
    assert without_places(given) == shown
