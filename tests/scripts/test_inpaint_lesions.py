"""Several lesions in one run: rows of a table, labels of a mask, places that are chosen; in files and in the record."""

import json
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series

from foundation.config import launch, parse_config
from imaging.files.ct import read_ct, write_ct
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


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("x,y,z\n1,2,3\n", "columns x, y, z, expected diameter_mm among them"),
        ("diameter_mm\n", "no lesion, expected one row for each"),
        ("diameter_mm,x\n9,3\n", "line 2: 1 of x, y, z; give all three, or none"),
        ("diameter_mm\nbig\n", "line 2: diameter_mm 'big', expected a number"),
        ("diameter_mm,seed\n9,-1\n", "line 2: seed '-1', expected a whole number of at least 0"),
        ("diameter_mm\n9\n", "lesion 1 has no x, y, z; give them, or pass --site auto"),
        ("diameter_mm,x,y,z,colour\n9,40,38,30,red\n", 'attribute "colour" is unknown to this pipeline'),
    ],
)
def test_fault_of_a_table_is_named(table: str, message: str, scan, chain, tmp_path):
    (tmp_path / "table.csv").write_text(table)
    with pytest.raises(SystemExit, match=message):
        inpaint(scan, chain, tmp_path / "out", "--lesions", tmp_path / "table.csv")
    assert not (tmp_path / "out").exists()
