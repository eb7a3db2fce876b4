import json
import shutil
from dataclasses import replace

import pytest
import torch
import torchvision
from forked import expect, start
from scipy.ndimage import gaussian_filter

from autoencoder import AutoencoderKL3D
from autoencoder.identity import IdentityAutoencoder
from scripts import evaluate_vae
from scripts.evaluate_vae import EvaluateVaeConfig, common_edge, main, named_autoencoders

pytestmark = pytest.mark.slow

FEW = {"repeats": 10, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An untrained autoencoder, one that makes everything white, the identity, and one of another window."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    AutoencoderKL3D(channels=(4, 8), blocks_per_level=1, latent_channels=2).save_pretrained(root / "random")
    white = AutoencoderKL3D(channels=(4, 8), blocks_per_level=1, latent_channels=2)
    white.decoder.conv_out.bias.data[0] = 50  # the mean of the Haar bands
    white.save_pretrained(root / "white")
    IdentityAutoencoder().save_pretrained(root / "identity")
    IdentityAutoencoder(window_width=400.0, window_level=40.0).save_pretrained(root / "narrow")
    return root


@pytest.fixture(scope="module")
def report(models, phantom_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    vae = f"random={models / 'random'},identity={models / 'identity'}"
    main(EvaluateVaeConfig(vae=vae, data=phantom_dataset, out=out, **FEW))
    return out


def summary_of(out):
    content = json.loads((out / "report.json").read_text())
    return {(row["version"], row["figure"]): row for row in content["summary"] if row["group"] == "all"}, content


def test_the_identity_is_the_unchanged_crop_in_every_figure(report):
    found, content = summary_of(report)
    figures = [name for version, name in found if version == "autoencoder identity"]
    assert {"psnr_db", "ssim", "ms_ssim", "hu_mae_lesion", "crop_power_ratio_finest"} <= set(figures)
    for name in figures:
        unchanged, identity = found["unchanged", name], found["autoencoder identity", name]
        assert unchanged["crops"] == identity["crops"] and unchanged["mean"] == identity["mean"]
    assert found["unchanged", "psnr_db"]["mean"] is None and found["unchanged", "hu_mae_lesion"]["mean"] == 0
    assert found["unchanged", "crop_power_ratio_finest"]["mean"] == 1
    assert found["blur of the same PSNR as identity", "sigma_mm"]["mean"] == 0
    assert found["autoencoder random", "hu_mae_crop"]["mean"] > 10
    assert {row["version"] for row in content["rows"]} >= {"unchanged", "autoencoder random", "autoencoder identity"}


def test_the_report_has_every_section_and_picture(report):
    for name in ("report.md", "report.html"):
        text = (report / name).read_text()
        for section in ("Image quality", "HU errors by lesion diameter", "Power spectrum ratio", "Texture distances"):
            assert section in text
    markdown = (report / "report.md").read_text()
    assert "MS-SSIM (1 scales)" in markdown and "LPIPS: not requested" in markdown
    pictures = [line.split("(")[-1].rstrip(")") for line in markdown.splitlines() if line.startswith("![")]
    ranks = [f"pictures/{rank}_{n}.png" for n in range(2) for rank in ("worst", "median", "best")]
    assert sorted(pictures) == sorted(["pictures/power_ratio.png", *ranks])


def test_the_report_says_how_often_the_test_split_was_opened(models, phantom_dataset, tmp_path, monkeypatch):
    for part in ("compare_texture", "draw_pictures"):  # which take most of the time
        monkeypatch.setattr(evaluate_vae, part, lambda *_: None)
    data = tmp_path / "data"
    shutil.copytree(phantom_dataset, data, ignore=shutil.ignore_patterns("test_openings.csv"))
    config = EvaluateVaeConfig(vae=str(models / "identity"), data=data, out=tmp_path / "out", **FEW)
    for sentence in ("opened 1 time, with 1 different", "opened 2 times, with 1 different"):
        main(config)
        assert sentence in (tmp_path / "out" / "report.md").read_text()
    main(replace(config, split="train"))
    assert "has been opened" not in (tmp_path / "out" / "report.md").read_text()
    assert len((data / "test_openings.csv").read_text().splitlines()) == 3


def test_texture_is_compared_by_sets_and_by_pairs(report):
    content = json.loads((report / "report.json").read_text())
    distances = {(row["method"], row["metric"]): row for row in content["distances"]}
    assert distances["unchanged", "Gabor WD"]["whole"] == 0 < distances["autoencoder random", "Gabor WD"]["whole"]
    assert all(row["shared"] and row["ratio"] is None for row in distances.values())  # so few patients have no halves
    assert any(note.startswith("autoencoder random: no real vs real and no test") for note in content["left_out"])
    paired = {(row["method"], row["metric"]): row["mean"] for row in content["pairs"]}
    assert paired["autoencoder identity", "Gabor error"] == 0 < paired["autoencoder random", "Gabor error"]


def test_a_blurring_autoencoder_equals_its_blur(models, phantom_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluate_vae, "reconstruct", lambda autoencoder, ct_norm: gaussian_filter(ct_norm, 0.8, mode="nearest")
    )
    monkeypatch.setattr(evaluate_vae, "draw_pictures", lambda *_: None)  # the report above has them
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    config = EvaluateVaeConfig(vae=f"soft={models / 'random'}", data=phantom_dataset, out=tmp_path / "out", **FEW)
    main(replace(config, lpips_backbone=str(tmp_path / "alexnet.pth")))
    found, content = summary_of(tmp_path / "out")
    blur = "blur of the same PSNR as soft"
    assert found[blur, "sigma_mm"]["mean"] == pytest.approx(1.6, rel=0.1)  # 0.8 voxels of 2 mm; borders differ
    assert found[blur, "psnr_db"]["mean"] == pytest.approx(found["autoencoder soft", "psnr_db"]["mean"], abs=0.02)
    made, blurred = (found[version, "crop_power_ratio_fine"]["mean"] for version in ("autoencoder soft", blur))
    assert made == pytest.approx(blurred, rel=0.3)
    paired = {(row["method"], row["metric"]): row["mean"] for row in content["pairs"]}
    assert paired["unchanged", "LPIPS"] == 0 < paired["autoencoder soft", "LPIPS"]


def test_it_runs_without_simpleitk_and_pyradiomics(models, phantom_dataset, tmp_path):
    """With an autoencoder that makes everything white, which no blur does."""
    argv = ["--vae", models / "white", "--data", phantom_dataset, "--out", tmp_path / "out", "--repeats", 10]
    log = tmp_path / "log"
    expect(start("evaluate_vae", argv, log, without="SimpleITK radiomics"), log)
    found, content = summary_of(tmp_path / "out")
    assert ("autoencoder white", "psnr_db") in found
    assert any("pyradiomics is not installed" in sentence for sentence in content["left_out"])
    assert {row["metric"] for row in content["distances"]} == {"Gabor WD", "Gabor WD, standardised"}
    assert any("farther from the original than any blur" in sentence for sentence in content["left_out"])


def test_bad_input_is_refused_before_work(models, phantom_dataset, tmp_path):
    good = EvaluateVaeConfig(vae=str(models / "identity"), data=phantom_dataset, out=tmp_path / "out", **FEW)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for change, message in (
        ({"vae": f"a={models}/absent"}, "no such folder"),
        ({"vae": ""}, "--vae is empty"),
        ({"vae": f"{models}/identity,{models}/identity"}, "name 'identity' is taken"),
        ({"vae": f"{models}/identity,{models}/narrow"}, "windows .* differ"),
        ({"data": tmp_path / "absent"}, "no such folder"),
        ({"split": "tests"}, "'tests'"),
        ({"out": tmp_path / "full"}, "exists and holds no report"),
        ({"repeats": 1}, "repeats 1, expected at least 10"),
        ({"lpips_backbone": str(tmp_path / "absent.pth")}, "no such weights file"),
    ):
        with pytest.raises(ValueError, match=message):
            main(replace(good, **change))
    assert not (tmp_path / "out").exists()


def test_crops_are_cut_to_what_all_factors_divide():
    factor = {name: type("Model", (), {"factor": value}) for name, value in (("a", 4), ("b", 8))}
    assert common_edge(factor, 51) == 48
    with pytest.raises(ValueError, match="crops of 6 voxels are smaller than the factor 8"):
        common_edge(factor, 6)
    assert named_autoencoders("kl=runs/a,owner/vq") == {"kl": "runs/a", "vq": "owner/vq"}
