"""Which lesions a reading shows, and the pages of a sheet."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.lesions.lesion_sets import Lesion
from evaluation.reading.cases import chosen_cases, load_set, texture_ratings
from evaluation.reading.sheet import LABEL, SIDE, ZOOM, pages


def lesions(count: int, hu: float, suffix: str = "") -> list[Lesion]:
    mask = np.zeros((40, 40, 40), bool)
    mask[18:22, 18:22, 18:22] = True
    ct_hu = np.where(mask, hu, -850).astype(np.float32)
    return [
        Lesion(f"n{i:02d}{suffix}", f"p{i}", ct_hu, mask, np.ones_like(mask), (1.0, 1.0, 1.0)) for i in range(count)
    ]


def test_half_of_the_masks_are_real_and_none_is_shown_twice():
    cases = chosen_cases(lesions(30, 0), lesions(30, 100, "_seed0"), 20, 5, seed=3)
    assert [case.number for case in cases] == list(range(1, 21))
    assert sum(case.real for case in cases) == 10
    assert [case.lesion.mask_name for case in cases] == [f"n{i:02d}" for i in range(5, 25)]  # index order
    assert all(case.real == ("_seed" not in case.lesion.name) for case in cases)
    others = chosen_cases(lesions(30, 0), lesions(30, 100, "_seed0"), 20, 5, seed=4)
    assert [case.real for case in cases] != [case.real for case in others]


def test_too_few_masks_are_refused():
    with pytest.raises(ValueError, match="0 masks from index 30 on"):
        chosen_cases(lesions(30, 0), lesions(30, 0, "_seed0"), None, 30, seed=0)


def test_a_page_shows_three_planes_of_each_case_in_its_place():
    sheets = pages(chosen_cases(lesions(26, 0), lesions(26, 0, "_seed0"), None, 0, seed=0))
    assert len(sheets) == 2 and sheets[0].size == sheets[1].size
    first, second = (np.asarray(sheet) for sheet in sheets)
    bright = first[LABEL + SIDE * ZOOM // 2, : first.shape[1] // 3] > 150  # the first case's row, through its middle
    assert np.diff(bright.astype(int)).clip(0).sum() == 3
    assert not second[second.shape[0] // 2 :].any()  # two cases only


def test_sets_without_a_common_mask_give_as_many_lesions_each_in_random_order():
    real = lesions(9, 0)
    synthetic = [
        replace(lesion, name=f"made_{number}_seed{seed}")
        for seed in (0, 1)
        for number, lesion in enumerate(lesions(7, 9))
    ]
    training, cases = chosen_cases(real, synthetic, 4, 0, seed=1), chosen_cases(real, synthetic, None, 4, seed=1)
    assert [sum(case.real for case in of) for of in (training, cases)] == [2, 5] and len(cases) == 10
    names = [case.lesion.mask_name for case in (*training, *cases)]
    assert len(set(names)) == 14  # no lesion and no mask twice
    truth = [case.real for case in cases]
    assert truth != sorted(truth) and truth != sorted(truth, reverse=True)
    with pytest.raises(ValueError, match="no lesion of each kind from index 40 on"):
        chosen_cases(real, synthetic, None, 40, seed=1)


def test_a_folder_of_crops_alone_is_read_with_the_lesion_in_the_centre(tmp_path):
    for name, hu in (("b", 30), ("a", -40)):
        image = sitk.GetImageFromArray(np.full((20, 22, 24), hu, np.int16))
        image.SetSpacing((0.7, 0.7, 1.5))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    (tmp_path / "c.nii.gz").write_bytes(b"broken")
    found, left_out = load_set(tmp_path, "all")
    assert [lesion.name for lesion in found] == ["a", "b"] and len(left_out) == 1 and "c.nii.gz" in left_out[0]
    assert found[0].spacing_mm == pytest.approx((1.5, 0.7, 0.7)) and found[0].ct_hu.mean() == -40
    assert np.argwhere(found[0].lesion_mask).tolist() == [[10, 11, 12]]


def test_textures_are_those_of_the_table_and_missing_where_nobody_rated(tmp_path):
    (tmp_path / "nodules.csv").write_text("nodule,patient_id,split,texture\n1,p,test,4.5\n2,q,test,\n3,r,test,solid\n")
    assert texture_ratings(tmp_path, "all") == {"1": 4.5}
    (tmp_path / "nodules.csv").write_text("nodule,patient_id,split\n1,p,test\n")
    assert texture_ratings(tmp_path, "all") == {} == texture_ratings(tmp_path / "none", "all")
