import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from lidc_factory import nodule, outline, roi, write_annotation

from imaging.lidc.scan_nodules import (
    ScanResult,
    ScanSettings,
    load_result,
    load_row,
    prepare_scan,
    result_path,
    save_result,
)
from imaging.lidc.scans import LeftOut, Scan, find_scans, read_scan_table
from imaging.semantic_map import FIRST_NODULE, LABELS

SPACING = (2.0, 1.0, 1.0)
ORIGIN = (-20.0, -30.0, -100.0)


@pytest.fixture
def nifti_scan(tmp_path):
    """A body of tissue with a lung in it, and a nodule in the lung that one reader drew twice as large."""
    z, y, x = np.indices((16, 60, 64))
    ct_hu = np.where((y > 4) & (y < 56) & (x > 4) & (x < 60), 40, -1000).astype(np.int16)
    ct_hu[((y - 30) ** 2 + (x - 32) ** 2 < 20**2) & (z > 1) & (z < 14)] = -850
    distance = np.sqrt(((z - 8) * 2) ** 2 + (y - 30) ** 2 + (x - 32) ** 2)
    ct_hu[distance <= 5] = 30
    ct_hu += np.random.default_rng(0).integers(-9, 9, ct_hu.shape).astype(np.int16)
    image = sitk.GetImageFromArray(ct_hu)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(ORIGIN)
    masks = [distance <= radius for radius in (5, 5, 8)]
    sessions = []
    for mask in masks:
        slices = np.flatnonzero(mask.any(axis=(1, 2)))
        sessions.append([nodule("n", [roi(outline(mask[k]), ORIGIN[2] + k * SPACING[0]) for k in slices])])
    write_annotation(tmp_path / "a.xml", "1.2.3", sessions)
    pd.DataFrame({"ct": ["a.nii.gz"], "annotation": ["a.xml"], "patient_id": ["0007"]}).to_csv(
        tmp_path / "scans.csv", index=False
    )
    return tmp_path, image, masks


@pytest.mark.parametrize("axes", ["LPS", "RAS", "RPI", "ASL"])
def test_a_nifti_scan_is_matched_by_position_however_its_axes_are_stored(nifti_scan, axes):
    folder, image, masks = nifti_scan
    sitk.WriteImage(sitk.DICOMOrient(image, axes), str(folder / "a.nii.gz"))
    (scan,) = read_scan_table(folder / "scans.csv")
    assert scan.patient_id == "0007"
    for policy, expected in (("consensus", masks[0]), ("union", masks[2])):
        settings = ScanSettings(crop_size=20, mask_policy=policy, with_semantic_map=False)
        result = prepare_scan(scan, settings)
        assert result.left_out == [] and result.rows[0]["volume_mm3"] == expected.sum() * 2.0
        assert result.rows[0]["whole_in_crop"]
    small = prepare_scan(scan, ScanSettings(crop_size=8, with_semantic_map=False))
    assert not small.rows[0]["whole_in_crop"]


def test_the_crop_has_lung_tissue_and_nodule_in_its_semantic_map(nifti_scan):
    folder, image, masks = nifti_scan
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    (scan,) = read_scan_table(folder / "scans.csv")
    settings = ScanSettings(crop_size=12, spacing_mm=None, mask_policy="consensus", scan_maps=folder / "maps")
    (row,) = prepare_scan(scan, settings).rows
    np.testing.assert_array_equal(row["semantic_map"] >= FIRST_NODULE, row["lesion_mask"])
    np.testing.assert_array_equal(row["semantic_map"] == LABELS.index("solid_part"), row["solid_mask"])
    around = row["semantic_map"][4:8][row["lesion_mask"][4:8] == 0]
    assert (around == LABELS.index("lung")).mean() > 0.95
    (path,) = (folder / "maps").glob("0007-*_semantic.nii.gz")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(labels >= FIRST_NODULE, masks[0])
    assert LABELS[labels[8, 30, 20]] == "lung" and LABELS[labels[8, 8, 8]] == "soft_tissue"
    assert LABELS[labels[8, 1, 1]] == "background"


def test_high_values_are_lowered_before_resampling(nifti_scan):
    folder, image, _ = nifti_scan
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    (scan,) = read_scan_table(folder / "scans.csv")
    (row,) = prepare_scan(scan, ScanSettings(crop_size=20, max_hu=-100, with_semantic_map=False)).rows
    assert row["ct_hu"].max() == -100


def test_a_result_comes_back_as_it_was_saved(tmp_path):
    rng = np.random.default_rng(0)
    row = {"nodule_id": "a", "malignancy": None, "ct_hu": rng.integers(-9, 9, (3, 3, 3)).astype(np.int16)}
    result = ScanResult([row, row | {"nodule_id": "b"}], [LeftOut("mark", "p", "s", "m", "why")], {"slices": 3})
    save_result(tmp_path / "r.npz", result)
    loaded = load_result(tmp_path / "r.npz")
    assert loaded.left_out == result.left_out and loaded.facts == result.facts
    for again in (loaded.rows[1], load_row(tmp_path / "r.npz", 1)):
        assert again["nodule_id"] == "b" and again["malignancy"] is None
        np.testing.assert_array_equal(again["ct_hu"], row["ct_hu"])
    assert load_result(tmp_path / "r.npz", with_arrays=False).rows == [
        {"nodule_id": "a", "malignancy": None},
        {"nodule_id": "b", "malignancy": None},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


def test_a_result_whose_directory_lies_beyond_the_file_is_named(tmp_path):
    save_result(tmp_path / "r.npz", ScanResult([], [], {}))
    content = (tmp_path / "r.npz").read_bytes()
    at = content.rindex(b"PK\5\6") + 16  # the offset of the archive's directory
    (tmp_path / "r.npz").write_bytes(content[:at] + b"\xff" * 4 + content[at + 4 :])
    with pytest.raises(ValueError, match=r"r\.npz: cannot be read .*; delete it, and it is made again"):
        load_result(tmp_path / "r.npz")


def test_a_result_is_requested_for_again_when_a_setting_or_a_file_changes(nifti_scan):
    folder, image, _ = nifti_scan
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    (scan,) = read_scan_table(folder / "scans.csv")
    first = result_path(folder, scan, ScanSettings())
    assert first == result_path(folder, scan, ScanSettings())
    assert first != result_path(folder, scan, ScanSettings(consensus_level=0.75))
    (folder / "a.xml").write_text((folder / "a.xml").read_text() + "\n")
    assert first != result_path(folder, scan, ScanSettings())


def test_scan_tables_that_cannot_be_used_say_why(tmp_path):
    table = tmp_path / "scans.csv"
    for text, message in [
        ("ct,patient_id\na,b\n", "lacks the columns annotation"),
        ("ct,annotation,patient_id\na.nii,a.xml,\n", "line 2 has no patient_id"),
        ("ct,annotation,patient_id\na.nii,a.xml,p\n", r"line 2 names .*a\.nii, which does not exist"),
    ]:
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_scan_table(table)
    with pytest.raises(ValueError, match="no such folder"):
        find_scans(tmp_path / "none")
    with pytest.raises(ValueError, match="no DICOM file in this folder or below it"):
        find_scans(tmp_path)


@pytest.mark.real_data
def test_the_union_of_a_real_scan_equals_the_mask_published_for_that_nodule(real_data_dir):
    ((scan,), _) = find_scans(real_data_dir / "lidc_dicom" / "LIDC-IDRI-0001")
    published = sitk.ReadImage(str(real_data_dir / "nodules_native" / "LIDC-IDRI-0001_R_1_mask.nii.gz"))
    ct = sitk.ReadImage(str(real_data_dir / "nodules_native" / "LIDC-IDRI-0001_R_1_ct.nii.gz"))
    settings = ScanSettings(crop_size=72, spacing_mm=None, mask_policy="union", with_semantic_map=False)
    (row,) = prepare_scan(scan, settings).rows
    expected = sitk.GetArrayFromImage(published) > 0
    assert row["volume_mm3"] == pytest.approx(expected.sum() * np.prod(published.GetSpacing()))
    ours, theirs = (np.argwhere(mask) for mask in (row["lesion_mask"], expected))
    np.testing.assert_array_equal(ours - ours.min(axis=0), theirs - theirs.min(axis=0))
    np.testing.assert_array_equal(row["ct_hu"][tuple(ours.T)], sitk.GetArrayFromImage(ct)[tuple(theirs.T)])
    table = pd.read_csv(real_data_dir / "nodules_native" / "nodules.csv").set_index("nodule")
    readers = pd.DataFrame(json.loads(row["reader_ratings"]))
    for name in readers:
        assert readers[name].mode().iloc[0] == table.loc["LIDC-IDRI-0001_R_1", name], name


@pytest.mark.real_data
def test_a_real_nifti_scan_is_matched_by_position(real_data_dir):
    folder = real_data_dir / "whole_ct"
    scan = Scan("ct", "LIDC-IDRI-0002", (folder / "LIDC-IDRI-0002_ct.nii.gz",), folder / "071.xml")
    result = prepare_scan(scan, ScanSettings(with_semantic_map=False))
    (row,) = result.rows
    lesion, around = row["lesion_mask"] > 0, row["ct_hu"] < -400
    assert row["readers"] == 2 and row["malignancy"] == 4.5
    # A ground-glass nodule: denser than lung, much lighter than the pleura it lies on.
    assert -800 < np.median(row["ct_hu"][lesion]) < -450 and around[lesion].mean() > 0.8
