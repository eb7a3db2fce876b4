"""The chain of scripts from nodules to a scan with a lesion, as a user would run it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from datasets import Dataset
from scipy.ndimage import distance_transform_edt

from autoencoder import AutoencoderKL3D
from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.latents import standardise
from autoencoder.loading import load_autoencoder
from diffusion import LesionInpaintPipeline, SPADEUNet3D
from diffusion.process import training_scheduler
from foundation.config import launch, parse_config
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.files.ct import read_ct, write_ct
from imaging.geometry import index_of_point
from imaging.lesions.composition import solid_part
from imaging.lesions.mask import grown_mask
from imaging.lesions.measured_attributes import measured_attributes
from imaging.lesions.sites import find_lesion_sites
from imaging.phantom.chest import chest_phantom, phantom_image
from imaging.semantic_map import inpainting_map
from imaging.window import to_norm
from scripts.encode_latents import EncodeConfig
from scripts.encode_latents import main as encode_main
from scripts.inpaint import InpaintConfig
from scripts.inpaint import main as inpaint_main
from scripts.push_to_hub import PushConfig
from scripts.push_to_hub import main as push_main
from scripts.train_classifier import ClassifierConfig
from scripts.train_classifier import main as classifier_main
from scripts.train_ldm import check_spacing, population_of

RECORD = {
    "lesions",
    "created",
    "settings",
    "pipeline_sha256",
    "versions",
    "lesion_voxels",
    "painted_voxels",
    "changed_outside_paint",
    "mean_hu_before",
    "mean_hu_after",
    "noise",
    "refused",
}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A phantom scan on disk, its axes turned and shifted, and the voxel (z, y, x) deepest in the lung."""
    phantom = chest_phantom((40, 56, 64), (5.0, 4.0, 4.0), n_nodules=1, seed=2)
    image = phantom_image(phantom)
    image.SetOrigin((120.5, -33.25, 7.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_ct(image, path)
    depth_mm = distance_transform_edt(phantom.lung_mask & (phantom.nodule_labels == 0), sampling=phantom.spacing_mm)
    center = np.unravel_index(depth_mm.argmax(), depth_mm.shape)
    return path, ",".join(str(int(index)) for index in center)


def inpaint(*argv: object) -> None:
    """scripts/inpaint.py with these arguments, in this process."""
    launch(inpaint_main, parse_config(InpaintConfig, [*map(str, argv), "--steps", "4", "--device", "cpu"]))


@pytest.fixture(scope="module")
def drawn(chain, scan, tmp_path_factory):
    """The results for a centre and a diameter."""
    out = tmp_path_factory.mktemp("drawn") / "result"
    inpaint(
        "--ct", scan[0], "--center", scan[1], "--diameter-mm", 12, "--pipeline", chain.ldm / "pipeline", "--out", out
    )
    return out


def geometry(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), image.GetPixelID()


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def assert_only_the_lesion_changed(ct: sitk.Image, out: Path) -> None:
    before, after, mask = sitk.GetArrayFromImage(ct), voxels(out / "ct.nii.gz"), voxels(out / "lesion_mask.nii.gz")
    painted = voxels(out / "paint_mask.nii.gz")
    np.testing.assert_array_equal(after[painted == 0], before[painted == 0])
    assert (painted >= mask).all()
    assert (after != before)[mask == 1].mean() > 0.5
    written = geometry(sitk.ReadImage(str(out / "ct.nii.gz")))
    for a, b in zip(written[:4], geometry(ct)[:4], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert written[4] == ct.GetPixelID()
    assert geometry(sitk.ReadImage(str(out / "lesion_mask.nii.gz")))[:4] == written[:4]
    assert (out / "overview.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((out / "record.json").read_text())
    assert set(record) == RECORD and record["changed_outside_paint"] == 0
    assert record["lesion_voxels"] == mask.sum() and len(record["pipeline_sha256"]) == 64
    assert record["mean_hu_after"] == pytest.approx(after[mask == 1].mean())


def test_every_training_leaves_model_config_curves_and_pictures(chain):
    for folder, model in ((chain.vae, "model"), (chain.ldm, "pipeline"), (chain.classifier, "pipeline")):
        for name in ("config.yaml", "metrics.jsonl", "curves.png", "checkpoint/state.pt", model):
            assert (folder / name).exists()
        assert yaml.safe_load((folder / "config.yaml").read_text())["steps"] == 3
        assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".bin", ".tmp", ".old")]
    for folder in (chain.vae, chain.ldm):
        assert (folder / "samples/step_000003.png").read_bytes().startswith(b"\x89PNG")
    metrics = [json.loads(line) for line in (chain.vae / "metrics.jsonl").read_text().splitlines()]
    assert next(line["held_out/psnr_db"] for line in metrics if "held_out/psnr_db" in line) > 5
    assert LesionInpaintPipeline.from_pretrained(chain.ldm / "pipeline").guide is None
    guided = LesionInpaintPipeline.from_pretrained(chain.classifier / "pipeline")
    assert guided.guide.attributes == ("malignancy", "lobulation", "spiculation", "texture")
    assert guided.guide.classes == {"malignancy": ["benign", "malignant"]} and "malignancy" not in guided.guide.refused
    report = json.loads((chain.classifier / "report/report.json").read_text())
    assert set(report["figures"]) == set(guided.guide.attributes) == set(guided.guide.config["figures"])
    assert report["figures"]["malignancy"]["control"] is not None
    assert guided.config["crop_size"] == 16 and guided.config["spacing_mm"] == 2


def test_the_population_has_every_training_lesion_once_as_it_was_measured(chain):
    latents, names = load_latents(chain.latents, "train"), ("malignancy", "mean_hu", "p90_hu")
    population = population_of(latents, names, (4000, 0))
    nodules = load_nodules(chain.nodules, "train")
    rows = [read_nodule(nodules, index) for index in range(len(nodules))]
    rows.sort(key=lambda row: row["nodule_id"])
    assert population.config["attributes"] == list(names)  # a rating chooses a lesion where it is requested
    measured = [measured_attributes(row["ct_hu"], row["lesion_mask"]) for row in rows]
    expected = [[row["malignancy"], each["mean_hu"], each["p90_hu"]] for row, each in zip(rows, measured, strict=True)]
    np.testing.assert_allclose(population.appearance, expected, atol=0.1)
    volume_mm3 = [row["lesion_mask"].sum() * np.prod(row["spacing_mm"]) for row in rows]
    np.testing.assert_allclose(population.diameter_mm**3 * np.pi / 6, volume_mm3, rtol=0.1)  # a variant may be cut
    top = float(np.median([each["p90_hu"] for each in measured]))  # of a window that half of them exceed
    shown = population_of(latents, names, (2000, top - 1000))
    clipped = [measured_attributes(np.clip(row["ct_hu"], top - 2000, top), row["lesion_mask"]) for row in rows]
    expected = [[each["mean_hu"], each["p90_hu"]] for each in clipped]
    np.testing.assert_allclose(shown.appearance[:, 1:], expected, atol=0.5)
    assert (shown.appearance[:, 2] == top).sum() >= len(rows) / 2 and (population.appearance[:, 2] > top).any()
    assert population_of(latents, ("malignancy",), (4000, 0)) is None


@torch.no_grad()
def test_latents_are_encoded_in_variants_and_standardised_on_the_training_split(chain):
    vae = AutoencoderKL3D.from_pretrained(chain.vae / "model")
    train, watched = (load_latents(chain.latents, split) for split in ("train", "validation"))
    assert len(train) == 6 * 8 and len(watched) == 6 and set(watched["variant"]) == {0}
    assert sorted(path.name for path in chain.latents.iterdir() if path.is_dir()) == ["train", "validation"]
    rows = [read_latent(train, index) for index in range(len(train))]
    assert len({(row["nodule_id"], row["variant"]) for row in rows}) == len(rows)
    plain = [row for row in rows if row["variant"] == 0]
    mean = np.stack([row["latent_mean"] for row in plain])
    square = mean**2 + np.stack([row["latent_std"] for row in plain]) ** 2
    np.testing.assert_allclose(mean.mean(axis=(0, 2, 3, 4)), 0, atol=1e-4)
    np.testing.assert_allclose(square.mean(axis=(0, 2, 3, 4)), 1, rtol=1e-3)

    row = plain[1]
    nodules = load_nodules(chain.nodules, "train")
    nodule = read_nodule(nodules, nodules["nodule_id"][:].index(row["nodule_id"]))
    np.testing.assert_array_equal(row["ct_hu"], nodule["ct_hu"])
    np.testing.assert_array_equal(row["lesion_mask"], nodule["lesion_mask"])
    np.testing.assert_array_equal(row["paint_mask"], grown_mask(nodule["lesion_mask"], 3.0, nodule["spacing_mm"]))
    crop = (row["ct_hu"], row["lesion_mask"], row["paint_mask"], row["spacing_mm"], row["valid_mask"])
    solid_mask = solid_part(nodule["ct_hu"], nodule["lesion_mask"], nodule["texture"], nodule["spacing_mm"])
    maps = [inpainting_map(*crop), inpainting_map(*crop, solid_mask=solid_mask)]
    assert any(np.array_equal(row["semantic_map"], one) for one in maps)
    for row in rows[::5]:
        ct_norm = to_norm(torch.from_numpy(row["ct_hu"].astype(np.float32)))[None, None]
        blanked = torch.where(torch.from_numpy(row["paint_mask"]) > 0, -1.0, ct_norm)
        for name, volume in (("latent_mean", ct_norm), ("blanked_latent", blanked)):
            expected = standardise(vae.encode(volume).latent_dist.mean, vae.config)[0]
            np.testing.assert_allclose(row[name], expected, atol=1e-4)


def test_a_centre_and_a_diameter_give_a_scan_that_differs_inside_the_mask_only(drawn, scan, chain):
    ct = read_ct(scan[0])
    assert_only_the_lesion_changed(ct, drawn)
    mask = sitk.ReadImage(str(drawn / "lesion_mask.nii.gz"))
    volume_mm3 = sitk.GetArrayFromImage(mask).sum() * np.prod(mask.GetSpacing())
    assert volume_mm3 == pytest.approx(np.pi / 6 * 12**3, rel=0.25)  # in voxels of 80 mm³
    record = json.loads((drawn / "record.json").read_text())
    assert record["settings"]["seed"] == 0 and record["settings"]["diameter_mm"] == 12
    assert record["settings"]["center"] == [float(index) for index in scan[1].split(",")]
    weights = sorted((chain.ldm / "pipeline").rglob("*.safetensors"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()
    assert record["pipeline_sha256"] == digest and set(record["versions"]) >= {"torch", "diffusers"}


def test_a_mask_file_gives_the_lesion_that_was_drawn_and_the_guide_another(drawn, scan, chain, tmp_path):
    common = ("--ct", scan[0], "--mask", drawn / "lesion_mask.nii.gz", "--pipeline", chain.classifier / "pipeline")
    malignant = ("--attributes.malignancy", "malignant")
    inpaint(*common, *malignant, "--guidance-scale", 0, "--out", tmp_path / "unguided")
    np.testing.assert_array_equal(voxels(tmp_path / "unguided/ct.nii.gz"), voxels(drawn / "ct.nii.gz"))
    inpaint(*common, *malignant, "--guidance-scale", 300, "--out", tmp_path / "guided")
    assert_only_the_lesion_changed(read_ct(scan[0]), tmp_path / "guided")
    assert (voxels(tmp_path / "guided/ct.nii.gz") != voxels(drawn / "ct.nii.gz")).any()
    record = json.loads((tmp_path / "guided/record.json").read_text())
    assert record["settings"]["attributes"] == {"malignancy": "malignant"}


@pytest.fixture(scope="module")
def masks(scan, drawn, tmp_path_factory):
    """Mask files that do not fit the scan."""
    folder = tmp_path_factory.mktemp("masks")
    mask = sitk.ReadImage(str(drawn / "lesion_mask.nii.gz"))
    shifted = sitk.Image(mask)
    shifted.SetOrigin([value + 3 for value in mask.GetOrigin()])
    sitk.WriteImage(mask[1:, :, :], str(folder / "smaller.nii.gz"))
    sitk.WriteImage(shifted, str(folder / "shifted.nii.gz"))
    sitk.WriteImage(mask * 0, str(folder / "empty.nii.gz"))
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give either --mask, or --center z,y,x together with --diameter-mm"),
        ("--mask {good} --center {center} --diameter-mm 12", "give either --mask, or --center"),
        ("--mask {good} --center {center}", "give either --mask, or --center"),
        ("--mask {good} --diameter-mm 12", "give either --mask, or --center"),
        ("--center {center}", "give either --mask, or --center"),
        ("--mask {masks}/none.nii.gz", "none.nii.gz: no such file; check the spelling"),
        ("--mask {masks}/smaller.nii.gz", "smaller.nii.gz: (40, 56, 63) voxels (z, y, x), but the CT has (40, 56, 64)"),
        (
            "--mask {masks}/shifted.nii.gz",
            "shifted.nii.gz: its corners lie up to 5.20 mm from the CT's, expected the same grid",
        ),
        ("--mask {masks}/empty.nii.gz", "empty.nii.gz: the mask is empty, expected at least one voxel above 0"),
        (
            "--center 20,30,64 --diameter-mm 12",
            "outside the image, whose voxel indices (z, y, x) run from (0, 0, 0) to",
        ),
        ("--center {center} --diameter-mm -5", "diameter"),
        ("--center {center} --diameter-mm 40", "the model's grid 32 mm; expected at most 22 mm"),
        (
            "--mask {good} --attributes.malignancy evil",
            "malignancy: 'evil', expected a number from 1 to 5, or benign, malignant",
        ),
        ("--mask {good} --attributes.age old", 'attribute "age" is unknown to this pipeline; known: malignancy'),
        ("--mask {good} --attributes.age old --pipeline {ldm}", '"age" is unknown to this pipeline; known: none'),
        ("--mask {good} --pipeline no/where", "no/where"),
        ("--mask {good} --ct nowhere.nii.gz", "nowhere.nii.gz: no such file or folder"),
    ],
)
def test_bad_input_ends_in_one_line_and_nothing_is_written(
    arguments, message, chain, scan, drawn, masks, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    known = {"good": drawn / "lesion_mask.nii.gz", "center": scan[1], "masks": masks, "ldm": chain.ldm / "pipeline"}
    given = arguments.format(**known).split()
    defaults = ["--ct", scan[0], "--pipeline", chain.classifier / "pipeline", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as end:
        inpaint(*defaults, *given)
    assert isinstance(end.value.code, str)  # which Python prints before it exits with status 1
    assert end.value.code.startswith("error: ") and message in end.value.code and "\n" not in end.value.code
    assert not (tmp_path / "out").exists()


def test_an_encoded_folder_is_not_overwritten_and_both_classes_are_needed(chain, tmp_path):
    with pytest.raises(ValueError, match="latents: exists already; choose another --out or delete it"):
        encode_main(EncodeConfig(chain.nodules, str(chain.vae / "model"), chain.latents))
    with pytest.raises(ValueError, match=r"not an encoded dataset \(.*\); make one with scripts/encode_latents\.py"):
        classifier_main(ClassifierConfig(tmp_path, tmp_path / "out", pipeline=chain.ldm / "pipeline"))


def test_a_pushed_pipeline_comes_back_from_the_hub_with_its_guide(chain, hub_server):
    push_main(PushConfig(pipeline=chain.classifier / "pipeline", repo="tester/nodules"))
    loaded = LesionInpaintPipeline.from_pretrained("tester/nodules", token=hub_server.token)
    local = LesionInpaintPipeline.from_pretrained(chain.classifier / "pipeline")
    for name in ("vae", "unet", "guide"):
        mine, other = getattr(local, name).state_dict(), getattr(loaded, name).state_dict()
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
    push_main(PushConfig(pipeline=chain.vae / "model", repo="tester/autoencoder"))
    vae = load_autoencoder("tester/autoencoder", token=hub_server.token)
    weights, expected = vae.state_dict(), local.vae.state_dict()
    assert vae.config["latents_std"] == local.vae.config["latents_std"]
    assert weights.keys() == expected.keys() and all(torch.equal(weights[key], expected[key]) for key in weights)
    assert isinstance(load_autoencoder("tester/nodules", token=hub_server.token), AutoencoderKL3D)  # out of a pipeline
    with pytest.raises(ValueError, match=r"not a folder of a pipeline \(no model_index\.json\)"):
        push_main(PushConfig(pipeline=chain.ldm, repo="tester/nodules"))


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_dicom_series_changes_inside_the_mask_only(real_data_dir, tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL3D(channels=(4, 8), blocks_per_level=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    unet = SPADEUNet3D(channels=(8, 16), blocks_per_level=1, map_channels=4)
    pipeline = LesionInpaintPipeline(vae, unet, training_scheduler("v"), crop_size=32, spacing_mm=1.0)
    pipeline.save_pretrained(tmp_path / "pipeline")
    series = real_data_dir / "lidc_dicom/LIDC-IDRI-0001"
    ct = read_ct(series)
    center = index_of_point(ct, find_lesion_sites(ct, 12, 1)[0])
    argv = ("--center", ",".join(f"{index:.0f}" for index in center), "--diameter-mm", 12, "--out", tmp_path / "out")
    inpaint("--ct", series, "--pipeline", tmp_path / "pipeline", "--output-format", "both", *argv)
    assert_only_the_lesion_changed(ct, tmp_path / "out")


@pytest.mark.parametrize(
    ("spacings", "found"),
    [
        ([(2.0, 2.0, 2.0), (1.0, 1.0, 1.0)], "spacing differs between its crops"),
        ([(2.0, 1.0, 1.0)] * 2, r"spacing is \(2\.0, 1\.0, 1\.0\) mm \(z, y, x\)"),
    ],
)
def test_spacings_that_one_model_cannot_learn_are_refused(spacings, found, tmp_path):
    rows = Dataset.from_dict({"spacing_mm": [list(spacing) for spacing in spacings]})
    with pytest.raises(ValueError, match=found + ", expected one isotropic spacing; prepare the nodules again"):
        check_spacing(rows, tmp_path)
