from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.guided.requested_sets import changed_outside, character_of, pooled, without_volumes
from evaluation.lesions.appearance import appearance_matrix
from evaluation.lesions.features import FeatureSet
from evaluation.lesions.shared_masks import comparable_sets
from evaluation.networks.lesion_judge import LesionJudge
from imaging.lesions.mask import grown_mask


def test_the_values_of_a_wish_become_samples_of_their_masks(make_lesion):
    lesions = [make_lesion(n) for n in range(6)]
    sets = [lesions, [replace(lesion, name=f"{lesion.name}_seed0") for lesion in lesions[:5]]]
    together = pooled(sets)
    names = [f"lesion00{n}_seed{k}" for n in range(6) for k in range(2)]
    assert [lesion.name for lesion in together] == names[:-1]

    def features(of):
        return FeatureSet(np.arange(len(of), dtype=float)[:, None, None], of)

    arranged, _ = comparable_sets(features(lesions), features(together))
    assert arranged.shared and arranged.synthetic.shape[:2] == (6, 1)  # the last mask has a single sample


def test_features_keep_names_and_patients_without_the_volumes(make_lesion):
    lesions = [make_lesion(n, patient="one") for n in range(2)]
    light = without_volumes({"HU": FeatureSet(np.ones((2, 1, 3)), lesions, ("a", "b", "c"))})["HU"]
    assert light.patients == ["one", "one"] and [lesion.name for lesion in light.lesions] == ["lesion000", "lesion001"]
    assert light.lesions[0].ct_hu.size == 0 and light.names == ("a", "b", "c") and light.values.shape == (2, 1, 3)


def test_voxels_outside_what_is_painted_are_counted_exactly(make_lesion):
    scan = make_lesion(1)
    valid = scan.valid_mask.copy()
    valid[:, :, :8] = False
    scan = replace(scan, valid_mask=valid, lesion_mask=scan.lesion_mask & valid)
    painted = grown_mask(scan.lesion_mask.astype(np.uint8), 2.0, scan.spacing_mm) * valid > 0
    made = replace(scan, name="lesion001_seed3", ct_hu=np.where(painted, 0, scan.ct_hu).astype(np.float32))
    scans = {"lesion001": scan}
    assert changed_outside(scans, [made, made], 2.0) == (0, 2 * int((~painted).sum()))
    off = made.ct_hu.copy()
    off[0, 0, :2] += 1
    assert changed_outside(scans, [replace(made, ct_hu=off)], 2.0)[0] == 2
    assert changed_outside(scans, [made], 1.0)[0] > 100  # had the margin been smaller
    with pytest.raises(ValueError, match="no real lesion lesion002 to compare with"):
        changed_outside(scans, [make_lesion(2)], 2.0)


def test_a_character_has_the_hu_of_the_mask_and_the_judges_image_part(make_lesion):
    lesions = [make_lesion(n) for n in range(3)]
    torch.manual_seed(0)
    judge = LesionJudge(["texture"], appearance_matrix(lesions)[1], members=1)
    found = character_of(judge, lesions)
    inside = lesions[1].ct_hu[lesions[1].lesion_mask]
    assert found.value("mean_hu")[1] == pytest.approx(inside.mean(), rel=1e-5)
    assert found.value("p90_hu")[1] == pytest.approx(np.percentile(inside, 90), rel=1e-5)
    assert np.array_equal(found.value("texture"), found.judgement.added("texture"))
    assert found.rows(["lesion002", "lesion000"]).tolist() == [2, 0]
    assert found.names == ("texture", "mean_hu", "p10_hu", "p50_hu", "p90_hu")
