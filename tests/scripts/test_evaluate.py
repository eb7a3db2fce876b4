import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchvision
from scipy.ndimage import gaussian_filter

from evaluation.lesions import radiomics
from evaluation.lesions.features import FeatureSet
from scripts import evaluate
from scripts.evaluate import EvaluateConfig, main, synthetic_sets

pytestmark = pytest.mark.slow

OFF = {"inception": "none", "lpips_backbone": "none", "repeats": 10, "permutations": 10}


def _write(folder, name, ct_hu, mask):
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(ct_hu.astype(np.float32)), str(folder / f"{name}_ct.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(mask.astype(np.uint8)), str(folder / f"{name}_mask.nii.gz"))


def _lesion(number):
    rng = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in (20, 21, 22)), indexing="ij"))
    mask = ((grid / rng.uniform(3, 4, 3)[:, None, None, None]) ** 2).sum(0) <= 1
    texture = gaussian_filter(rng.standard_normal(mask.shape), 0.8)
    ct_hu = (
        -850
        + rng.uniform(400, 900) * gaussian_filter(mask.astype(float), 0.7)
        + 300 * texture
        + 25 * rng.standard_normal(mask.shape)
    )
    return ct_hu, mask


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Real and training lesions; blurred ones, two noisy seeds (one mask differs), and a set that copies training."""
    root = tmp_path_factory.mktemp("sets")
    for n in range(7):
        ct_hu, mask = _lesion(n)
        _write(root / "real", f"nodule{n}", ct_hu, mask)
        _write(root / "train", f"train{n}", *_lesion(100 + n))
        _write(root / "blurred", f"nodule{n}", np.where(mask, gaussian_filter(ct_hu, 1.0), ct_hu), mask)
        for seed in range(2):
            noise = 80 * np.random.default_rng(seed).standard_normal(ct_hu.shape)
            shifted = np.roll(mask, 1) if (n, seed) == (6, 1) else mask
            _write(root / "seeds", f"nodule{n}_seed{seed}", np.where(mask, ct_hu + noise, ct_hu), shifted)
        _write(root / "copied", f"nodule{n}", *_lesion(100 + n if n == 2 else 200 + n))
    return root


@pytest.fixture(scope="module")
def report(folders):
    out = folders / "report"
    names = ("blurred", "seeds", "copied")
    main(
        EvaluateConfig(
            real=folders / "real",
            train=folders / "train",
            synthetic=",".join(f"{name}={folders / name}" for name in names),
            out=out,
            **OFF,
        )
    )
    return out


def test_the_report_has_all_that_its_inputs_allow(report):
    pytest.importorskip("radiomics", reason="pyradiomics does not build on this Python")
    content = json.loads((report / "report.json").read_text())
    assert [one["label"] for one in content["sets"]] == ["real", "training set", "blurred", "seeds", "copied"]
    metrics = {row["metric"] for row in content["distances"]}
    assert {"Gabor WD", "GLCM WD", "GLRLM WD", "Gabor WD, standardised", "Fréchet 3D", "Seam WD"} <= metrics
    for row in content["distances"]:
        assert row["floor"]["sizes"] == [3, 3], row
        assert row["shared"] == (row["method"] != "training set")
    assert {row["metric"] for row in content["pairs"]} >= {"MSE", "PSNR [dB]", "HU bias [HU]", "GLRLM error"}
    assert {row["metric"] for row in content["floors"]} == metrics
    for name in ("report.md", "report.html"):
        text = (report / name).read_text()
        assert all(section in text for section in ("Summary", "Paired figures", "Copies of training", "Diversity"))
    markdown = (report / "report.md").read_text()
    pictures = [line.split("(")[-1].rstrip(")") for line in markdown.splitlines() if line.startswith("![")]
    drawn = {"distances", "floors", "gabor", "glcm", "glrlm", "spectrum", "tsne", "gallery"}
    drawn |= {f"copies_{n}{part}" for n in range(3) for part in ("", "_pairs")}
    assert sorted(pictures) == sorted(f"pictures/{name}.png" for name in drawn)
    assert {str(file.relative_to(report)) for file in (report / "pictures").iterdir()} == set(pictures)


def test_the_detector_judges_each_set_beside_its_controls(tmp_path, monkeypatch):
    """Of sets large enough; the report says what gives the blurred ones away."""
    for n in range(12):
        ct_hu, mask = _lesion(n)
        _write(tmp_path / "real", f"nodule{n}", ct_hu, mask)
        _write(tmp_path / "blurred", f"nodule{n}", np.where(mask, gaussian_filter(ct_hu, 1.0), ct_hu), mask)
    monkeypatch.setattr("scripts.evaluate.measure_features", lambda lesions, *_: (hu_features(lesions), []))
    monkeypatch.setattr("evaluation.lesions.detector.REPEATS", 1)
    names = {"real": tmp_path / "real", "synthetic": str(tmp_path / "blurred"), "out": tmp_path / "out"}
    main(EvaluateConfig(**names, **(OFF | {"detector": "figures"})))
    content = json.loads((tmp_path / "out/report.json").read_text())
    found = {row["label"]: row for row in content["detections"]}
    assert found, content["left_out"]
    assert set(found) == {"blurred", *(f"real, blurred {s} mm" for s in ("0.3", "0.5", "1")), "real, without noise"}
    assert found["blurred"]["auroc"] > 0.8 and found["blurred"]["pairs"] == 12 and found["blurred"]["network"] is None
    assert any("6 lesions of 12 patients" in remark for remark in content["left_out"])  # real against real needs 20
    markdown = (tmp_path / "out/report.md").read_text()
    assert "what gives it away" in markdown


def hu_features(lesions):
    """The one kind of features that every report has."""
    values = np.array([[[lesion.ct_hu[lesion.lesion_mask].mean(), 1.0]] for lesion in lesions])
    return {"HU": FeatureSet(values, lesions), "Nodule net": FeatureSet(values, lesions)}


def test_what_is_missing_is_named(report):
    left_out = "\n".join(json.loads((report / "report.json").read_text())["left_out"])
    assert "FID and KID: switched off" in left_out and "LPIPS: switched off" in left_out
    assert "nodule6_seed1: its mask differs" in left_out
    assert "not tested, they have 0 patients in common" in left_out  # blurred and seeds share no lesion's name


def test_a_copy_of_a_training_lesion_is_found_with_its_picture(report):
    content = json.loads((report / "report.json").read_text())
    found = {row["method"]: row["duplicates"] for row in content["copies"]}
    assert [pair[:2] for pair in found["copied"]] == [["nodule2", "train2"]]
    assert found["blurred"] == []
    assert "nodule2 copies train2" in (report / "report.html").read_text()


def test_seeds_are_grouped_by_mask(report):
    rows = {row["method"]: row for row in json.loads((report / "report.json").read_text())["diversity"]}
    # two draws of noise of 80 HU, in units of 750 HU: their standard deviation is 80 √(2/π) on average
    assert rows["seeds"]["seed_masks"] == 6
    assert rows["seeds"]["seed_spread"] == pytest.approx(80 / 750 * np.sqrt(2 / np.pi), rel=0.1)
    assert rows["blurred"]["seed_masks"] == 0 and rows["blurred"]["seed_spread"] is None


def test_the_same_seed_gives_the_same_report(folders, tmp_path):
    config = EvaluateConfig(real=folders / "real", synthetic=str(folders / "blurred"), out=tmp_path / "a", **OFF)
    main(config)
    first = {file.name: file.read_bytes() for file in (tmp_path / "a").rglob("*") if file.is_file()}
    main(config)
    second = {file.name: file.read_bytes() for file in (tmp_path / "a").rglob("*") if file.is_file()}
    assert first == second and len(first) > 5


@pytest.fixture
def undrawn(monkeypatch):
    """Without pictures, which take most of the time."""
    for part in ("draw_distributions", "draw_lesions", "draw_copies"):
        monkeypatch.setattr(evaluate, part, lambda *_: None)


def test_fid_and_lpips_are_reported_when_weights_are_given(folders, tmp_path, undrawn):
    torch.manual_seed(0)
    inception = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(inception.state_dict(), tmp_path / "inception.pth")
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    few = folders / "few"
    for n in range(2):
        _write(few, f"nodule{n}", *_lesion(n + 1))
    main(
        EvaluateConfig(
            real=few,
            synthetic=f"same={few}",
            out=tmp_path / "report",
            inception=str(tmp_path / "inception.pth"),
            lpips_backbone=str(tmp_path / "alexnet.pth"),
            repeats=10,
            permutations=10,
        )
    )
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    values = {row["metric"]: row["whole"] for row in content["distances"]}
    assert values["FID"] == pytest.approx(0, abs=1e-9) and values["KID"] <= 1e-9
    assert {row["metric"]: row["mean"] for row in content["pairs"]}["LPIPS"] == 0
    left_out = "\n".join(content["left_out"])
    assert "no real vs real and no test, 2 lesions of 2 patients" in left_out and "PSNR is infinite" in left_out


def test_one_pair_without_pyradiomics_still_gets_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(radiomics.importlib.util, "find_spec", lambda name: None)
    for folder, noise in (("real", 0), ("made", 50)):
        ct_hu, mask = _lesion(1)
        _write(tmp_path / folder, "only", ct_hu + noise, mask)
    main(EvaluateConfig(real=tmp_path / "real", synthetic=str(tmp_path / "made"), out=tmp_path / "report", **OFF))
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    left_out = "\n".join(content["left_out"])
    assert "pyradiomics is not installed" in left_out and "only one lesion" in left_out
    assert content["distances"] == [] and content["floors"] == []
    means = {row["metric"]: row["mean"] for row in content["pairs"]}
    assert means["HU bias [HU]"] == pytest.approx(50, abs=0.1) and "GLCM error" not in means


def test_without_a_synthetic_set_real_is_compared_with_real(folders, tmp_path, undrawn):
    main(EvaluateConfig(real=folders / "real", train=folders / "train", out=tmp_path / "report", **OFF))
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {row["method"] for row in content["distances"]} == {"training set"}
    assert {tuple(row["sizes"]) for row in content["floors"]} == {(7, 7)}


def test_bad_input_is_refused_before_work(folders, tmp_path):
    good = EvaluateConfig(real=folders / "real", out=tmp_path / "out", **OFF)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for change, message in (
        ({"real": tmp_path / "absent"}, "absent: no such folder"),
        ({"synthetic": f"a={tmp_path / 'absent'}"}, "absent: no such folder"),
        ({"synthetic": "a=x,a=y"}, "name 'a' is taken"),
        ({"out": tmp_path / "full"}, "exists and holds no report"),
        ({"train": folders / "real"}, "7 patients, such as nodule0, are in --real and in --train"),
        ({"repeats": 1}, "repeats 1, expected at least 10"),
        ({"inception": str(tmp_path / "absent.pth")}, "no such weights file"),
        ({"real_split": "tests"}, "split 'tests', expected one of train, validation, test, all"),
    ):
        with pytest.raises(ValueError, match=message):
            main(replace(good, **change))
    assert not (tmp_path / "out").exists()


def test_sets_are_called_by_their_folder_unless_named(tmp_path):
    named = synthetic_sets("ours=runs/a,runs/b")
    assert {name: str(path) for name, path in named.items()} == {"ours": "runs/a", "b": "runs/b"}
    assert synthetic_sets(None) == {}
