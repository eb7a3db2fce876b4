"""Whole crops against the real ones: what counts, and that the real ones themselves are perfect."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.lesions.lesion_sets import load_lesions
from evaluation.lesions.whole_crops import (
    CROP,
    LESION,
    OTHERS,
    Networks,
    as_crop,
    fidelity,
    of_other_patients,
    shown_by_both,
)
from evaluation.networks.nodule_net import load_nodule_net
from imaging.dataset.nodules import save_nodule_dataset
from imaging.phantom.chest import phantom_nodules

SIZE = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six phantom nodules, each a patient of its own."""
    folder = tmp_path_factory.mktemp("phantom") / "nodules"
    rows = ({**row, "split": "train", "patient_id": row["nodule_id"]} for row in phantom_nodules(6, SIZE))
    save_nodule_dataset(rows, folder, SIZE)
    return folder


def test_the_real_crops_themselves_are_equal_and_other_patients_are_not(data):
    real, _ = load_lesions(data, "train")
    found = fidelity(real, {"same": data}, "train", Networks(load_nodule_net()), repeats=10, permutations=10)
    figures = {(row.method, row.metric): row.mean for row in found.pairs}
    assert figures["same", "SSIM"] == pytest.approx(1) and figures["same", "MS-SSIM"] == pytest.approx(1)
    assert 0 < figures[OTHERS, "SSIM"] < 0.9
    whole = {region: rows[0].whole for region, rows in found.distances.items() if rows[0].metric == "Fréchet 3D"}
    assert whole == pytest.approx({CROP: 0, LESION: 0}, abs=1e-6)
    assert found.distances[CROP][0].value != pytest.approx(found.distances[LESION][0].value, rel=0.01)


def test_a_crop_is_what_lies_in_its_scan(make_lesion):
    lesion = make_lesion(0)
    valid_mask = np.zeros(lesion.valid_mask.shape, bool)
    valid_mask[2:, 3:-1, 4:] = True
    crop = as_crop(replace(lesion, valid_mask=valid_mask))
    assert np.array_equal(crop.ct_hu, lesion.ct_hu[2:, 3:-1, 4:]) and crop.lesion_mask.all() and crop.valid_mask.all()


def test_chance_is_a_crop_of_another_patient_that_shows_enough_of_the_same_voxels(make_lesion):
    slab = np.zeros(make_lesion(0).valid_mask.shape, bool)
    slab[:21] = True
    first, same, small, other = make_lesion(0, "a"), make_lesion(1, "a"), make_lesion(2, "b"), make_lesion(3, "c")
    small = replace(small, valid_mask=slab)
    assert shown_by_both(first, small) is None and shown_by_both(first, other).all()
    others = of_other_patients([first, same, small, other])
    assert [(one.name, one.patient_id) for one in others] == [
        (one.name, one.patient_id) for one in (first, same, other)
    ]
    for found, source in zip(others, (other, other, first), strict=True):
        assert np.array_equal(found.ct_hu, source.ct_hu)
    assert of_other_patients([first, same]) == []
