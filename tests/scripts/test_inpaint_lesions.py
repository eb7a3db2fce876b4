"""Several lesions in one run: rows of a table, labels of a mask, places that are chosen; in files and in the record."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from scipy.ndimage import binary_erosion

from diffusion import LesionInpaintPipeline
from evaluation.inpainting.painting import SEED_STEP, painted_lesion
from evaluation.inpainting.planning import Planned
from foundation.config import launch, parse_config
from imaging.files.ct import read_ct, write_ct
from imaging.geometry import index_of_point, point_of_index
from imaging.lesions.sites import free_lung
from imaging.phantom.chest import chest_phantom
from scripts.inpaint import InpaintConfig
from scripts.inpaint import main as inpaint_main

TABLE = "diameter_mm,seed\n9,3\n12,\n"


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A DICOM folder without nodules."""
    phantom = chest_phantom((60, 76, 88), (4.0, 4.0, 4.0), n_nodules=0, seed=2)
    folder = tmp_path_factory.mktemp("scan") / "dicom"
    write_dicom_series(folder, phantom.ct_hu, phantom.spacing_mm)
    return folder


def inpaint(scan: Path, chain, out: Path, *argv: object) -> Path:
    common = ["--ct", scan, "--pipeline", chain.ldm / "pipeline", "--steps", 2, "--device", "cpu", "--out", out]
    launch(inpaint_main, parse_config(InpaintConfig, [*map(str, [*common, *argv])]))
    return out


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture(scope="module")
def two(scan, chain, tmp_path_factory) -> Path:
    """Two lesions at chosen places, in both formats."""
    root = tmp_path_factory.mktemp("two")
    (root / "table.csv").write_text(TABLE)
    argv = ("--lesions", root / "table.csv", "--site", "auto", "--output-format", "both", "--seed", 5)
    return inpaint(scan, chain, root / "out", *argv)


def test_rows_of_a_table_are_lesions_apart_in_free_lung_and_in_the_record(two, scan):
    labels, lesions = voxels(two / "lesion_mask.nii.gz"), json.loads((two / "record.json").read_text())["lesions"]
    assert [lesion["voxels"] for lesion in lesions] == np.bincount(labels.ravel())[1:].tolist()
    assert [(lesion["diameter_mm"], lesion["seed"]) for lesion in lesions] == [(9, 3), (12, 6)]
    assert all(set(lesion["noise"]) == {"lesion_hu", "surroundings_hu", "ratio"} for lesion in lesions)
    apart_mm = 4 * np.linalg.norm(np.subtract(*(lesion["center"] for lesion in lesions)))
    assert apart_mm > 9 / 2 + 12 / 2 + 10
    image = sitk.ReadImage(str(two / "lesion_mask.nii.gz"))
    lung = free_lung(read_ct(scan))
    assert all(lung.share_of(sitk.Cast(image == number, sitk.sitkUInt8)) > 0.95 for number in (1, 2))
    assert (two / "overview.png").exists() and (two / "overview_2.png").exists()


def test_each_lesion_is_a_segment(two):
    labels = voxels(two / "lesion_mask.nii.gz")
    segmentation = hd.seg.segread(two / "lesions_seg.dcm")
    assert segmentation.number_of_segments == 3  # and the painted region
    shown = segmentation.get_volume(combine_segments=False).array
    assert [int(shown[..., number].sum()) for number in range(2)] == np.bincount(labels.ravel())[1:].tolist()


def test_labels_of_a_mask_are_painted_one_after_the_other(two, scan, chain, tmp_path):
    labels = two / "lesion_mask.nii.gz"
    both = inpaint(scan, chain, tmp_path / "both", "--mask", labels, "--output-format", "nifti", "--seed", 5)
    image = sitk.ReadImage(str(labels))
    for number in (1, 2):
        write_ct(sitk.Cast(image == number, sitk.sitkUInt8), tmp_path / f"{number}.nii.gz")
    first = ("--mask", tmp_path / "1.nii.gz", "--output-format", "nifti", "--seed", 5)
    inpaint(scan, chain, tmp_path / "first", *first)
    second = ("--mask", tmp_path / "2.nii.gz", "--seed", 6)
    inpaint(tmp_path / "first/ct.nii.gz", chain, tmp_path / "second", *second)
    np.testing.assert_array_equal(voxels(both / "ct.nii.gz"), voxels(tmp_path / "second/ct.nii.gz"))
    np.testing.assert_array_equal(voxels(both / "lesion_mask.nii.gz"), voxels(labels))


@pytest.fixture
def unpainted(monkeypatch) -> None:
    """Painting anything fails the test."""
    monkeypatch.setattr(LesionInpaintPipeline, "__call__", lambda *_, **__: pytest.fail("painted"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("x,y,z\n1,2,3\n", "columns x, y, z, expected diameter_mm among them"),
        ("diameter_mm\n", "no lesion, expected one row for each"),
        ("diameter_mm,x\n9,3\n", "line 2: 1 of x, y, z; give all three, or none"),
        ("diameter_mm\nbig\n", "line 2: diameter_mm 'big', expected a number"),
        ("diameter_mm,seed\n9,-1\n", "line 2: seed '-1', expected a whole number of at least 0"),
        ("diameter_mm\n9\n", "line 2: no x, y, z; give them, or pass --site auto"),
        ("diameter_mm,x,y,z,seed\n9,25,38,30,1\n9,25,38,30,1\n", "lesion 1 of 2: later ones cover all of it"),
        ("diameter_mm,x,y,z,colour\n9,25,38,30,red\n", 'line 2: attribute "colour" is unknown to this pipeline'),
    ],
)
def test_fault_of_a_table_is_named(table: str, message: str, scan, chain, tmp_path, unpainted):
    (tmp_path / "table.csv").write_text(table)
    with pytest.raises(SystemExit, match=message):
        inpaint(scan, chain, tmp_path / "out", "--lesions", tmp_path / "table.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("9,25,38,99,", r"center_zyx is \(99.0, 38.0, 25.0\), outside the image"),
        ("9,2,2,30,", r"0 % of the lesion at \(30.0, 2.0, 2.0\) .* lies in the lung, expected 10 %"),
        ("3,25,38,30,", r"diameter_mm is 3.0, expected 8.00 \(two voxels of 4.00 mm\) to 60.0 mm"),
        ("28,25,38,30,", r"the mask spans .* mm \(z, y, x\), the model's grid 32 mm"),
        ("9,25,38,30,evil", "malignancy: 'evil'"),
        ("200,,,,", "found 0 places for a lesion of 200 mm, expected 1"),
    ],
)
def test_a_wrong_row_is_named_before_the_first_lesion_is_painted(row, message, scan, chain, tmp_path, unpainted):
    rows = ["diameter_mm,x,y,z,malignancy", *["9,25,38,30,malignant"] * 6, row]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    argv = ("--lesions", tmp_path / "table.csv", "--site", "auto", "--pipeline", chain.classifier / "pipeline")
    with pytest.raises(SystemExit, match=rf"table\.csv, line 8: {message}"):
        inpaint(scan, chain, tmp_path / "out", *argv)
    assert not (tmp_path / "out").exists()


def test_a_label_too_large_for_the_model_is_named_before_the_first_is_painted(scan, chain, tmp_path, unpainted):
    labels = sitk.Image(read_ct(scan).GetSize(), sitk.sitkUInt8)
    labels.CopyInformation(read_ct(scan))
    labels[20:23, 38:41, 30:33], labels[60:70, 38:48, 30:33] = 1, 2
    write_ct(labels, tmp_path / "labels.nii.gz")
    with pytest.raises(SystemExit, match=r"labels\.nii\.gz, label 2: the mask spans \[12.0, 40.0, 40.0\] mm"):
        inpaint(scan, chain, tmp_path / "out", "--mask", tmp_path / "labels.nii.gz")


def test_a_drawn_lesion_at_the_pleura_ends_with_the_lung(scan, chain, tmp_path, capsys):
    ct = read_ct(scan)
    lung = free_lung(ct)
    at_the_pleura = np.argwhere(lung.lung & (lung.clearance_mm < 5))[0]
    center = ",".join(str(at) for at in index_of_point(ct, point_of_index(lung.grid, at_the_pleura)))
    out = inpaint(scan, chain, tmp_path / "out", "--center", center, "--diameter-mm", 16)
    assert "% of the shape lies outside the lung and is cut off" in capsys.readouterr().out
    segmentation = hd.seg.segread(out / "lesions_seg.dcm").get_volume(combine_segments=False).array
    assert 0 < segmentation[..., 0].sum() * 4**3 < 0.9 * np.pi / 6 * 16**3
    record = json.loads((out / "record.json").read_text())
    assert record["mean_hu_before"] < -500  # no wall in it


class Painter:
    """A pipeline whose lesion fills its label from the seed `good` on, and is a speck before."""

    config = {"crop_size": 32, "spacing_mm": 1.0, "detailed_map": True}  # noqa: RUF012 - as a pipeline has it

    def __init__(self, good: int) -> None:
        self.good, self.seeds = good, []

    def __call__(self, ct, mask, generator, **_):
        self.seeds.append(generator.initial_seed())
        inside = sitk.GetArrayFromImage(mask) > 0
        if len(self.seeds) < self.good:
            inside = binary_erosion(inside, iterations=2)
        made = sitk.GetImageFromArray(np.where(inside, 30, sitk.GetArrayViewFromImage(ct)).astype(np.int16))
        made.CopyInformation(ct)
        return SimpleNamespace(ct=made, paint_mask=mask)


@pytest.mark.parametrize(("good", "accepted"), [(1, True), (3, True), (4, False)])
def test_a_lesion_that_is_not_where_its_label_is_gets_two_more_seeds(good, accepted):
    ct = sitk.GetImageFromArray(np.random.default_rng(0).normal(-850, 20, (40, 40, 40)).astype(np.int16))
    part = sitk.GetImageFromArray(np.ones((8, 8, 8), np.uint8))
    lesion = Planned((slice(16, 24), slice(16, 24), slice(16, 24)), part, {}, 7, None, None)
    config, painter = InpaintConfig(ct=Path(__file__), mask=Path(__file__), out=Path("out")), Painter(good)
    made, tried, reason = painted_lesion(config, painter, ct, lesion)
    tries = min(good, 3)
    assert painter.seeds == [7 + k * SEED_STEP for k in range(tries)]
    assert (made is not None) == accepted and tried.seed == (painter.seeds[-1] if accepted else 7)
    assert reason == "" if accepted else "after 3 seeds" in reason

    anything = replace(config, least_dice=0.0)
    assert painted_lesion(anything, Painter(9), ct, lesion)[0] is not None
    with pytest.raises(ValueError, match=r"least_dice 1.5, expected a share from 0 to 1"):
        replace(config, least_dice=1.5)
