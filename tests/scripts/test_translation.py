"""Train a translation and translate a scan with it: the two scripts on tiny data."""

import json
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series

from diffusion.option_types import TranslationWeights
from diffusion.translator import Translator
from imaging.dataset.scan_volumes import save_scans
from imaging.files.ct import read_ct
from scripts.train_translation import TranslationConfig
from scripts.train_translation import main as train
from scripts.translate import TranslateConfig
from scripts.translate import main as translate


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two sets of noise of different strength."""
    folder = tmp_path_factory.mktemp("translation")
    for number, name in enumerate("ab"):
        random = np.random.default_rng(number)
        scans = [(f"{name}{n}", -700 + 60 * (2 - number) * random.standard_normal((16, 16, 18))) for n in range(2)]
        save_scans(scans, folder / name, 1.0)
    return TranslationConfig(
        data=folder / "a",
        other=folder / "b",
        out=folder / "run",
        difference="dose",
        kind_a="low",
        kind_b="full",
        channels=4,
        blocks=1,
        discriminator_channels=(4, 4),
        patch_size=12,
        steps=4,
        batch_size=2,
        warmup_steps=0,
        log_every=1,
        checkpoint_every=2,
        evaluate_every=4,
        losses=TranslationWeights(head_start=1),
    )


@pytest.fixture(scope="module")
def run(config):
    train(config)
    return config.out


def test_a_run_that_was_interrupted_ends_with_the_same_weights(config, run, tmp_path):
    stopped = replace(config, out=tmp_path / "run", max_minutes=0.0)
    train(stopped)
    assert not (tmp_path / "run/translator").exists()
    train(replace(stopped, max_minutes=None))
    file = "translator/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "run" / file).read_bytes() == (run / file).read_bytes()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"a_to_b_cycle", "b_to_a_l1", "a_to_b_step"} < logged[0].keys() and logged[-1]["a_to_b_texture"] > 0
    assert (run / "samples.png").stat().st_size > 0
    card = (run / "translator/README.md").read_text()
    assert "between the kinds low (a) and full (b)" in card and "autoencoder" not in card.split("## Training")[0]
    assert "texture" not in card.split("## Figures")[1].split("## Parts")[0]  # of training patches, not held out


@pytest.mark.parametrize("process", ["ddpm", "cyclegan"])
def test_the_baselines_are_trained_by_the_same_script(config, tmp_path, process):
    train(replace(config, out=tmp_path / "run", process=process, calls=2, steps=1))
    assert Translator.from_pretrained(tmp_path / "run/translator").config["process"] == process


def test_a_dicom_series_becomes_a_derived_series_with_the_voxels_of_the_nifti(run, tmp_path):
    ct_hu = np.random.default_rng(0).integers(-1000, 300, (12, 16, 20)).astype(np.int16)
    write_dicom_series(tmp_path / "in", ct_hu, (1.0, 1.0, 1.0), PatientName="Kowalska^Anna")
    out = tmp_path / "out"
    translate(
        TranslateConfig(ct=tmp_path / "in", model=str(run / "translator"), to="full", out=out, output_format="both")
    )
    made, nifti = (sitk.GetArrayFromImage(read_ct(out / name)) for name in ("ct", "ct.nii.gz"))
    assert np.array_equal(made, nifti) and made.shape == ct_hu.shape and (made != ct_hu).mean() > 0.5
    header = pydicom.dcmread(next((out / "ct").iterdir()))
    assert header.SeriesDescription == "Translated CT" and "not for diagnosis" in header.ImageComments
    assert header.ImageType[0] == "DERIVED" and "Kowalska" not in str(header)
    assert header.ContributingEquipmentSequence[-1].ManufacturerModelName == "Translator"
    record = json.loads((out / "record.json").read_text())
    assert record["settings"]["to"] == "full" and record["padding_voxels_changed"] == 0
    assert record["mean_change_hu"] == pytest.approx((nifti.astype(float) - ct_hu).mean(), abs=1e-6)
    assert (out / "overview.png").stat().st_size > 0


def test_a_file_gives_a_file_and_the_same_seed_the_same_voxels(run, tmp_path):
    image = sitk.GetImageFromArray(np.random.default_rng(1).integers(-1000, 300, (13, 14, 15)).astype(np.int16))
    sitk.WriteImage(image, tmp_path / "scan.nii.gz")
    made = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        out = tmp_path / name
        translate(
            TranslateConfig(
                ct=tmp_path / "scan.nii.gz", model=str(run / "translator"), to="low", out=out, seed=seed, tile=8
            )
        )
        made.append(sitk.GetArrayFromImage(read_ct(out / "ct.nii.gz")))
    assert np.array_equal(made[0], made[1]) and made[0].shape == (13, 14, 15)


def test_wrong_input_is_refused_with_one_sentence(config, run, tmp_path):
    with pytest.raises(ValueError, match="--to sharp: the model translates between full and low; choose one of them"):
        translate(TranslateConfig(ct=tmp_path, model=str(run / "translator"), to="sharp", out=tmp_path / "out"))
    scan = tmp_path / "scan.nii.gz"
    scan.touch()
    with pytest.raises(ValueError, match="a derived series needs the DICOM folder that it derives from"):
        TranslateConfig(ct=scan, model="m", to="low", out=tmp_path, output_format="dicom")
    for change, message in (
        ({"kind_b": "low"}, "kind_a 'low', kind_b 'low': expected two names"),
        ({"residual_hu": 0.0}, "residual_hu 0.0: expected a number of HU above 0"),
        ({"calls": 0}, "calls 0, channels 4, blocks 1: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config, **change)
    with pytest.raises(ValueError, match=r"losses\.cycle -1: expected a number of at least 0"):
        TranslationWeights(cycle=-1)
    with pytest.raises(ValueError, match=r"losses\.discriminator_rate 0: expected a rate above 0"):
        TranslationWeights(discriminator_rate=0)
