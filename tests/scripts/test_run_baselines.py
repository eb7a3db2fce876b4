"""Every baseline from one command: killed at each stage and continued, and one table at the end."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import DatasetDict

from autoencoder import AutoencoderKL3D
from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.loading import load_autoencoder
from diffusion import LesionInpaintPipeline, SPADEUNet3D, conditioning
from diffusion.process import training_scheduler
from evaluation.baselines import sets, tables
from evaluation.baselines.config import CONFIGS, ORDER, BaselinesConfig
from evaluation.baselines.methods import method_of
from evaluation.baselines.pixels import prepare_pixels
from evaluation.lesions import synthetic_sets, whole_crops
from evaluation.reports import lesion_pictures
from evaluation.reports.baseline_table import PROPOSAL_TABLE
from evaluation.reports.whole_crop_tables import TABLE_5_1, TABLE_5_2
from foundation.command import run_script
from guidance import MultiClassifierGuidance, NoduleClassifier3D
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.window import to_norm
from scripts import encode_latents
from scripts.run_baselines import main
from training import fixed_time
from training.checkpoint import read_progress
from training.fixed_time import planned, steps_per_second
from training.run import TrainingRun

SMALL = {"batch_size": 2, "warmup_steps": 1, "evaluate_crops": 1, "evaluate_steps": 1, "log_every": 1}
PIXEL = {"vae": "identity", "target": "x0", "noise_schedule": "linear"}
METHODS = {
    "snr": PIXEL | {"texture": {"losses": {"dog": 0.3}, "gate": 1.0, "time_policy": "snr"}},
    "conditional_gan": PIXEL | {"objective": "gan"},
    "ours": {"model": {"map_channels": 4}},
}
STEPS_PER_SECOND = 2 / 60  # a checkpoint every second step


class Killed(BaseException):
    """No exception that a script may handle."""


@pytest.fixture(scope="module")
def inputs(phantom_dataset, tmp_path_factory) -> dict[str, Path]:
    """Phantom nodules, each a patient of its own; an untrained autoencoder, latents, configs of three tiny methods."""
    root = tmp_path_factory.mktemp("inputs")
    splits = [load_nodules(phantom_dataset, split) for split in ("train", "validation", "test")]
    rows = [read_nodule(nodules, index) for nodules in splits for index in range(len(nodules))]
    save_nodule_dataset(({**row, "patient_id": row["nodule_id"]} for row in rows), root / "nodules", 16)
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.0, 0.1], "latents_std": [0.5, 0.4]}
    AutoencoderKL3D(channels=(4, 8), blocks_per_level=1, latent_channels=2, **statistics).save_pretrained(root / "vae")
    encoding = {"variants": 1, "variants_in_context": 1, "paint_margin_mm": 3.0}
    encode_latents.main(encode_latents.EncodeConfig(root / "nodules", str(root / "vae"), root / "latents", **encoding))
    (root / "configs").mkdir()
    for name, method in METHODS.items():
        model = {"channels": [4, 8], "blocks_per_level": 1, "map_channels": 0} | method.get("model", {})
        (root / f"configs/{name}.yaml").write_text(yaml.safe_dump(SMALL | method | {"model": model}))
    return {"data": root / "nodules", "latents": root / "latents", "vae": root / "vae", "configs": root / "configs"}


@pytest.fixture
def config(inputs, tmp_path) -> BaselinesConfig:
    options = {"split": "validation", "steps": 2, "batch_size": 4, "inception": "none", "pixel_variants": 1}
    return BaselinesConfig(**inputs, **options, out=tmp_path / "out", budget_minutes=1.6)  # three steps


@pytest.fixture
def quick(monkeypatch):
    """A machine of known speed, few resamples, no pictures."""
    monkeypatch.setattr(fixed_time, "steps_per_second", lambda options: STEPS_PER_SECOND)
    monkeypatch.setattr("training.run.plot_curves", lambda metrics, picture: None)
    for draw in ("draw_distributions", "draw_lesions", "draw_copies"):
        monkeypatch.setattr(lesion_pictures, draw, lambda *_: None)
    few = {"evaluate": {"repeats": 10, "permutations": 10}}
    monkeypatch.setattr(tables, "run_script", lambda name, given: run_script(name, given | few.get(name, {})))


def files(out: Path) -> dict[str, bytes]:
    """Weights and lesions by path."""
    found = [*out.rglob("pipeline/**/*.safetensors"), *out.rglob("*.arrow")]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def figures(out: Path) -> str:
    """The table but for its times."""
    return (out / "table1.md").read_text().split("## What")[0]


def dies(monkeypatch, module, function: str, call: int) -> None:
    """Let the process die in this call of a function, as often as it is started."""
    real, calls = getattr(module, function), []

    def dying(*arguments, **options):
        calls.append(function)
        if len(calls) == call:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(module, function, dying)


@pytest.mark.slow
def test_killed_at_every_stage_and_continued_it_ends_with_the_same_bytes_and_a_full_table(
    config, quick, monkeypatch, capsys
):
    undisturbed = replace(config, out=config.out.with_name("undisturbed"))
    main(undisturbed)
    printed = capsys.readouterr().out

    training = TrainingRun
    update = training.update
    for module, function, call in (
        (conditioning, "blank", 3),  # in the midst of encoding
        (training, "update", 3),  # after the checkpoint of step 2
        (synthetic_sets, "paint_batch", 2),
        (sets, "seconds_per_lesion", 1),
        (training, "update", 2),  # of the next method
        (lesion_pictures, "draw_lesions", 1),
    ):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            dies(patch, module, function, call)
            main(config)
    assert not (config.out / "table1.md").exists()
    with monkeypatch.context() as patch:  # all is trained and painted; only the report is missing
        patch.setattr(training, "update", None)
        patch.setattr(synthetic_sets, "paint_batch", None)
        main(config)
    assert files(config.out) == files(undisturbed.out) and len(files(config.out)) > 8
    assert figures(config.out) == figures(undisturbed.out)
    assert training.update is update

    table = (config.out / "table1.md").read_text()
    assert table in capsys.readouterr().out and "conditional_gan, 2 of 3: 3 steps in 1.6 minutes" in printed
    first = table.split("## Further")[0]
    rows = {line.split("|")[1].strip(): line for line in first.splitlines() if line.startswith("| ")}
    proposal = [f"proposal: {name} (other data)" for name in PROPOSAL_TABLE]
    assert list(rows) == ["set", "---", *METHODS, "real vs real", *proposal]
    report = json.loads((config.out / "report/report.json").read_text())
    gabor = next(r for r in report["distances"] if (r["method"], r["metric"]) == ("ours", "Gabor WD"))
    assert f"{gabor['value']:.3g} ({gabor['std']:.3g})" in rows["ours"]
    assert f"{gabor['floor']['mean']:.3g} ({gabor['floor']['std']:.3g})" in rows["real vs real"]
    mse = next(r for r in report["pairs"] if (r["method"], r["metric"]) == ("snr", "MSE"))
    assert rows["snr"].endswith(f"{100 * mse['mean']:.3g} ({100 * mse['std']:.3g}) |")
    assert "FID and KID: switched off" in table
    assert "6 synthetic lesions, 6 real ones; foreground only." in table
    taken = [[cell.strip() for cell in line.split("|")] for line in table.split("## What")[1].splitlines()]
    steps_and_calls = {cells[1]: (cells[2], cells[4]) for cells in taken if len(cells) > 5}
    assert steps_and_calls["snr"] == steps_and_calls["ours"] == ("3", "2")
    assert steps_and_calls["conditional_gan"] == ("3", "1")  # a GAN is called once

    with monkeypatch.context() as patch:  # a method more or less only makes the table anew
        patch.setattr(training, "update", None)
        main(replace(config, methods="ours"))
        assert "| snr |" not in figures(config.out) and "| ours |" in figures(config.out)
    for change, message in (
        ({"budget_minutes": 2.0}, r"snr/method\.json: made with other settings \(budget_minutes: 1\.6 -> 2\.0\); go"),
        ({"seed": 1}, r"pixel/settings\.json: made with other settings \(seed: 0 -> 1\)"),
        ({"steps": 3}, r"snr/sampling\.json: made with other settings \(steps: 2 -> 3\); go back to those, delete .*/"),
        ({"lesions": 2}, r"snr/sampling\.json: .* \(lesions: None -> 2\)"),
        ({"pixel_variants": 2}, r"pixel/settings\.json: .* \(variants: 1 -> 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            main(replace(config, **change))


@pytest.mark.slow
def test_whole_crops_of_a_gan_of_ours_and_of_ours_with_each_classifier_in_lsdms_tables(config, quick, monkeypatch):
    monkeypatch.setattr(whole_crops, "LEAST_EDGE", 11)  # the phantom's crops have 16 voxels
    pipeline = LesionInpaintPipeline(
        load_autoencoder(config.vae), SPADEUNet3D(2, 12, channels=(4, 8), map_channels=4), training_scheduler("v")
    )
    bare = config.out.with_name("bare")
    pipeline.save_pretrained(bare)
    classifier = NoduleClassifier3D({"malignancy": ["benign", "malignant"]}, ["texture"], latent_channels=2, cells=4)
    pipeline.register_modules(guide=MultiClassifierGuidance.of([classifier]))
    guided = config.out.with_name("guided")
    pipeline.save_pretrained(guided)

    others = {"guide": str(guided), "pipelines": f"again={config.out / 'ours/pipeline'}"}
    config = replace(config, task="whole", methods="conditional_gan,ours", **others)
    with pytest.raises(ValueError, match=r"guide .*bare: this pipeline has none; train one with"):
        main(replace(config, methods="ours", guide=str(bare)))
    main(config)
    tables = (config.out / "tables.md").read_text()
    ours = ["ours", "ours + malignancy", "ours + texture", "ours + guide"]
    for section, source in (("5.1", TABLE_5_1), ("5.2", TABLE_5_2)):
        part = tables.split(f"Table {section})")[1].split("\n## ")[0]
        rows = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("| ")][2:]
        printed = [f"{name} (2D, other data)" for name in source]
        assert rows == ["conditional_gan", *ours, "again", whole_crops.OTHERS, *printed]
    assert "FID: switched off" in tables and "6 crops a set; 6 of them in the paired figures." in tables

    crops = {name: (config.out / name / "lesions/validation").glob("*.arrow") for name in (*ours, "again")}
    crops = {name: b"".join(file.read_bytes() for file in sorted(found)) for name, found in crops.items()}
    assert crops["ours"] == crops["again"] and len(set(crops.values())) == len(ours)
    real = load_nodules(config.data, "validation")
    made = load_nodules(config.out / "conditional_gan/lesions", "validation")
    outside = np.array(real[0]["lesion_mask"]) == 0
    assert (np.array(real[0]["ct_hu"]) != np.array(made[0]["ct_hu"]))[outside].mean() > 0.9
    with monkeypatch.context() as patch:  # nothing is made twice
        patch.setattr(synthetic_sets, "paint_batch", None)
        main(config)


def test_a_signal_ends_it_after_the_step_in_hand(config, quick, monkeypatch, capsys):
    update = TrainingRun.update

    def signalled(run, loss, logs=None):
        update(run, loss, logs)
        if run.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "update", signalled)
    with pytest.raises(SystemExit) as end:
        main(replace(config, methods="ours"))
    assert end.value.code == 0 and "stopped; the same command goes on" in capsys.readouterr().out
    assert read_progress(config.out / "ours/checkpoint").step == 1
    assert not (config.out / "ours/lesions").exists()


def test_one_precision_for_all_or_that_of_the_config(config):
    precisions = {
        requested: method_of(replace(config, mixed_precision=requested), "ours").settings["mixed_precision"]
        for requested in (None, "bf16")
    }
    assert precisions == {None: "no", "bf16": "bf16"}


def test_steps_are_planned_from_the_measured_speed_once(config, monkeypatch):
    monkeypatch.setattr(fixed_time, "LEAST_MEASURED_S", 0.3)
    method = method_of(replace(config, budget_minutes=0.05), "ours")
    rate = steps_per_second(method.options)
    assert 1 < rate < 1000 and list(method.out.iterdir()) == []
    monkeypatch.setattr(fixed_time, "steps_per_second", lambda options: 2.0)
    method = method_of(replace(config, budget_minutes=30.0), "ours")
    plan = planned(method.options)
    assert plan == {"steps": 0.95 * 30 * 60 * 2, "evaluate_every": fixed_time.NEVER, "checkpoint_every": 120}
    monkeypatch.setattr(fixed_time, "steps_per_second", lambda options: 3.0)
    assert planned(method.options) == plan


def test_voxel_methods_see_ct_norm_itself_with_the_margin_of_the_latents(config):
    prepare_pixels(config)
    vae = load_autoencoder(config.out / "pixel/model")
    row = read_latent(load_latents(config.out / "pixel/latents", "train"), 0)
    assert vae.factor == 1 and row["latent_mean"].shape == (1, 16, 16, 16) and not row["latent_std"].any()
    expected = to_norm(row["ct_hu"].astype("float32"))
    assert abs(row["latent_mean"][0] - expected).max() < 1e-6
    assert row["paint_margin_mm"] == 3.0


def test_every_config_of_the_project_is_a_method_of_the_source_or_ours(inputs, tmp_path):
    config = BaselinesConfig(**inputs | {"configs": CONFIGS}, out=tmp_path, budget_minutes=1.0)
    assert config.chosen() == list(ORDER)
    methods = {name: method_of(config, name).settings for name in ORDER}
    pixel = {name for name, method in methods.items() if Path(method["vae"]) == tmp_path / "pixel/model"}
    assert pixel == set(ORDER) - {"ldm_concat", "ours"}
    assert all(methods[name]["target"] == "x0" for name in pixel)
    assert all(methods[name]["model"]["map_channels"] == 0 for name in pixel - {"spade_gan"})
    policies = {
        name: (t["time_policy"], t["losses"].get("dog", 0.0), t["gate"])
        for name, t in ((name, methods[name]["texture"]) for name in ORDER)
        if t["time_policy"] != "constant"
    }
    assert policies == {
        "snr": ("snr", 0.3, 1.0),
        "film": ("film", 1.0, 1.0),
        "uncertainty": ("uncertainty", 1.0, 1.0),
        "step_aware": ("step_aware", 0.0, 0.3),  # the squared error alone
    }
    gans = {name for name in ORDER if methods[name]["objective"] == "gan"}
    assert gans == {"conditional_gan", "spade_gan"} and all(methods[name]["evaluate_steps"] == 1 for name in gans)
    ours, concat = methods["ours"]["model"], methods["ldm_concat"]["model"]
    assert ours["map_channels"] > 0 and ours | {"map_channels": 0, "num_labels": 2} == concat


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": "ours,nothing"}, r"'nothing' is unknown; known in .*configs: snr, conditional_gan, ours"),
        ({"methods": "ours,ours"}, r"methods ours,ours: expected each name once"),
        ({"methods": ""}, r"expected each name once, and at least one"),
        ({"budget_minutes": 0.0}, r"budget_minutes 0\.0: expected a time above 0"),
        ({"budget_minutes": float("nan")}, r"budget_minutes nan: expected a time above 0"),
        ({"steps": 0}, r"steps 0: expected at least 1"),
        ({"lesions": 0}, r"lesions 0: expected at least 1"),
        ({"out": Path("a,b")}, r"out a,b: expected a path without a comma"),
        ({"guide": "models"}, r"guide, pipelines: of whole crops; add --task whole or leave them out"),
        ({"vae": None}, r"ours\.yaml: a method in latent space; give --latents and --vae"),
    ],
)
def test_bad_input_is_named_before_anything_is_made(config, change, message):
    with pytest.raises(ValueError, match=message):
        main(replace(config, **change))
    assert not config.out.exists()


def test_latents_of_patients_that_are_to_be_judged_are_refused(config, tmp_path, inputs):
    test_patients = set(load_nodules(inputs["data"], "test")["patient_id"][:])
    encoded = load_latents(inputs["latents"], "train")
    leaking = encoded.map(lambda row: {"patient_id": min(test_patients)})
    DatasetDict({"train": leaking}).save_to_disk(tmp_path / "leaking")
    with pytest.raises(ValueError, match=r"leaking: trains on 1 patients of the test split of .*encode that dataset"):
        main(replace(config, latents=tmp_path / "leaking", split="test"))
