from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.lesions.features import measure_features, merge
from evaluation.lesions.method_tests import method_tests
from evaluation.lesions.pair_comparison import pair_values, paired_rows
from evaluation.lesions.set_comparison import distance_rows, floor_rows, set_metrics
from evaluation.networks.nodule_net import NoduleNet

pytest.importorskip("radiomics", reason="pyradiomics does not build on this Python")

SIGMAS = (0.6, 1.0, 1.6)
BLIND_TO_BLUR = {"KID 3D", "Mean HU WD", "Fréchet 3D"}  # the first two by design, the third: random weights here


def _measure(lesions, label):
    torch.manual_seed(0)
    return measure_features(lesions, label, nodule_net=NoduleNet(targets=1).eval())


@pytest.fixture(scope="module")
def sets(make_lesion, blur):
    real = [make_lesion(n) for n in range(12)]
    blurred = {f"blur {sigma}": [blur(lesion, sigma) for lesion in real] for sigma in SIGMAS}
    return {"real": real, "train": [make_lesion(n) for n in range(30, 44)], **blurred}


@pytest.fixture(scope="module")
def features(sets):
    return {label: _measure(lesions, label)[0] for label, lesions in sets.items()}


@pytest.fixture(scope="module")
def pool(features):
    return merge(features["real"], features["train"])


def test_identical_sets_are_at_distance_0(features, pool):
    rows, _, _ = distance_rows("same", features["real"], features["real"], pool, set_metrics(pool), 10, 0)
    names = {row.metric for row in rows}
    assert {"Gabor WD", "GLCM WD, standardised", "GLRLM WD", "Fréchet 3D", "Mean HU WD", "Seam WD"} <= names
    for row in rows:
        if row.metric != "KID 3D":
            assert row.value == pytest.approx(0, abs=1e-9), row.metric
    assert next(row.value for row in rows if row.metric == "KID 3D") <= 0  # unbiased, so not above 0


def test_blur_is_worse_than_real_against_real_at_every_texture_metric_and_ranks_by_strength(features, pool):
    metrics = set_metrics(pool)
    values = {}
    for sigma in SIGMAS:
        rows, _, _ = distance_rows("b", features["real"], features[f"blur {sigma}"], pool, metrics, 20, 0)
        for row in rows:
            values.setdefault(row.metric, []).append(row)
    seen = {name for name in values if name not in BLIND_TO_BLUR}
    assert len(seen) >= 8
    for name in seen:
        by_level = [row.value for row in values[name]]
        assert by_level == sorted(by_level), name
        assert values[name][-1].same_size > values[name][-1].floor.high, name
        assert values[name][-1].share_above == 0


def test_the_source_s_mean_and_std_are_over_features(features, pool):
    metric = next(metric for metric in set_metrics(pool) if metric.name == "GLRLM WD")
    rows, _, _ = distance_rows("t", features["real"], features["train"], pool, [metric], 10, 0)
    vector = metric.measure(features["real"]["GLRLM"].values[:, 0], features["train"]["GLRLM"].values[:, 0])
    assert len(vector) == 16
    assert (rows[0].value, rows[0].std) == (pytest.approx(vector.mean()), pytest.approx(vector.std()))
    assert vector.max() > 10 * np.median(vector)  # why the standardised distance stands beside it


def test_the_floor_has_the_comparisons_sizes_and_an_interval_holds_the_value(features, pool):
    rows, floors, _ = distance_rows("t", features["real"], features["train"], pool, set_metrics(pool), 15, 0)
    for row in rows:
        assert row.floor.sizes == (12, 14) and row.floor.splits == 15 == len(floors[row.metric])
        assert row.low <= row.value <= row.high
        assert row.same_size == row.value


def test_without_a_pool_the_comparison_is_repeated_at_half_the_size(features):
    real = features["real"]
    rows, _, _ = distance_rows("b", real, features["blur 1.0"], real, set_metrics(real), 15, 0)
    assert all(row.floor.sizes == (6, 6) for row in rows)
    assert any(row.same_size != row.value for row in rows)


def test_floors_are_given_for_growing_sizes(pool):
    rows = floor_rows(pool, set_metrics(pool), 15, 0)
    gabor = [row for row in rows if row.metric == "Gabor WD, standardised"]
    assert [row.sizes for row in gabor] == [(8, 8), (13, 13)]
    assert gabor[0].mean > gabor[1].mean


def test_one_lesion_has_no_distance_and_the_report_says_so(features, make_lesion):
    single, _ = _measure([make_lesion(3)], "single")
    rows, _, notes = distance_rows("single", features["real"], single, single, set_metrics(features["real"]), 10, 0)
    assert rows == [] and all("only one lesion" in note for note in notes)


def test_lesions_without_texture_are_named_and_kept_for_the_rest(make_lesion):
    lesion = make_lesion(1)
    one_voxel = np.zeros_like(lesion.lesion_mask)
    one_voxel[12, 13, 14] = True
    flat = replace(lesion, name="flat", ct_hu=np.where(lesion.lesion_mask, -100, lesion.ct_hu).astype(np.float32))
    found, problems = _measure([lesion, replace(lesion, name="voxel", lesion_mask=one_voxel), flat], "odd")
    assert [one.name for one in found["Gabor"].lesions] == ["lesion001", "flat"]
    assert len(found["HU"].lesions) == len(found["Nodule net"].lesions) == 3
    assert any("voxel: constant" in p for p in problems) and any("flat: constant" in p for p in problems)
    assert any("voxel: no texture features" in p for p in problems)


def test_paired_figures_of_equal_lesions_are_perfect(sets, features, pool):
    pairs = [(lesion, lesion) for lesion in sets["real"]]
    values, notes = pair_values(pairs, features["real"], features["real"], pool)
    for name in ("MSE", "HU bias [HU]", "Seam difference [HU]", "Gabor error", "GLCM error", "GLRLM error"):
        assert set(values[name].values()) == {0.0}, name
    assert values["SSIM"]["lesion000"] == pytest.approx(1) == values["MS-SSIM"]["lesion000"]
    assert "PSNR [dB]" not in values and len([n for n in notes if "infinite" in n]) == len(pairs)


def test_paired_figures_and_tests_rank_two_methods(sets, features, pool):
    methods = {name: features[name] for name in ("blur 0.6", "blur 1.6")}
    values = {
        name: pair_values(list(zip(sets["real"], sets[name], strict=True)), features["real"], features[name], pool)[0]
        for name in methods
    }
    patients = {lesion.name: lesion.patient_id for lesion in sets["real"]}
    weak, strong = ({row.metric: row for row in paired_rows(n, values[n], patients, 20, 0)} for n in methods)
    assert weak["SSIM"].mean > strong["SSIM"].mean and weak["MSE"].mean < strong["MSE"].mean
    assert weak["MSE"].low < weak["MSE"].mean < weak["MSE"].high
    tests, notes = method_tests(features["real"], methods, values, set_metrics(pool), 199, 0)
    assert notes == []
    for test in tests:
        assert test.p <= test.p_holm <= 1 and test.patients == 12
    significant = {test.metric for test in tests if test.p_holm < 0.05 and test.difference < 0}
    assert {"MSE", "Gabor error", "GLCM error"} <= significant


def test_methods_without_common_lesions_are_not_tested(features):
    tests, notes = method_tests(
        features["real"],
        {"a": features["blur 0.6"], "b": features["train"]},
        {"a": {}, "b": {}},
        set_metrics(features["real"]),
        20,
        0,
    )
    assert tests == [] and all("0 patients in common" in note for note in notes)
