from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.lesions.features import measure_features, merge
from evaluation.lesions.hu_and_seam import core_deviation
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
def measured(sets):
    return {label: _measure(lesions, label)[0] for label, lesions in sets.items()}


@pytest.fixture(scope="module")
def features(measured):
    """But for Core, which few of these lesions are large enough for."""
    return {label: {kind: f for kind, f in of.items() if kind != "Core"} for label, of in measured.items()}


@pytest.fixture(scope="module")
def pool(features):
    return merge(features["real"], features["train"])


def test_core_is_of_those_that_have_one_and_compared_by_its_logarithm(sets, measured):
    lesions = sets["real"]
    cores = {one.name: core_deviation(one.ct_hu, one.lesion_mask, one.spacing_mm) for one in lesions}
    known = {name: np.log(value) for name, value in cores.items() if value is not None}
    core = measured["real"]["Core"]
    assert 0 < len(known) < len(lesions)
    assert dict(zip([one.name for one in core.lesions], core.values[:, 0, 0], strict=True)) == pytest.approx(known)
    assert "Core deviation WD" in {metric.name for metric in set_metrics(measured["real"])}


def test_identical_sets_are_at_distance_0(features, pool):
    rows, _ = distance_rows("same", features["real"], features["real"], set_metrics(pool), 10, 20, 0)
    names = {row.metric for row in rows}
    assert {"Gabor WD", "GLCM WD, standardised", "GLRLM WD", "Fréchet 3D", "Mean HU WD", "Seam WD"} <= names
    for row in rows:
        if row.metric != "KID 3D":
            assert row.whole == pytest.approx(0, abs=1e-9), row.metric
            assert (row.ratio, row.low, row.high) == pytest.approx((1, 1, 1)), row.metric
        assert row.value == pytest.approx(row.floor.mean) and row.p_farther == row.p_differs == 1
    kernel = next(row for row in rows if row.metric == "KID 3D")
    assert kernel.whole <= 0 and kernel.ratio is None  # unbiased, so not above 0


def test_blur_is_found_by_every_texture_metric_and_ranks_by_strength(features, pool):
    metrics = set_metrics(pool)
    values = {}
    for sigma in SIGMAS:
        rows, notes = distance_rows("b", features["real"], features[f"blur {sigma}"], metrics, 20, 99, 0)
        assert notes == []
        for row in rows:
            values.setdefault(row.metric, []).append(row)
    seen = {name for name in values if name not in BLIND_TO_BLUR}
    assert len(seen) >= 8
    for name in seen:
        by_level = [row.value for row in values[name]]
        assert by_level == sorted(by_level), name
        assert values[name][-1].shared and values[name][-1].low > 1, name
        assert values[name][-1].p_farther <= 0.02 and values[name][-1].p_differs == 0.01, name


def test_the_source_s_mean_and_std_are_over_features(features, pool):
    metric = next(metric for metric in set_metrics(pool) if metric.name == "GLRLM WD")
    rows, _ = distance_rows("t", features["real"], features["train"], [metric], 10, 10, 0)
    vector = metric.measure(features["real"]["GLRLM"].values[:, 0], features["train"]["GLRLM"].values[:, 0])
    assert len(vector) == 16
    assert rows[0].whole == pytest.approx(vector.mean())
    assert rows[0].std > rows[0].value  # one feature rules the mean
    assert vector.max() > 10 * np.median(vector)  # why the standardised distance stands beside it


def test_sets_of_other_patients_are_compared_at_equal_sizes_and_by_a_two_sample_test(features, pool):
    rows, notes = distance_rows("t", features["real"], features["train"], set_metrics(pool), 15, 99, 0)
    assert notes == []
    for row in rows:
        assert (row.real_lesions, row.synthetic_lesions, row.shared) == (12, 14, False)
        assert row.floor.sizes == (6, 6) and row.floor.splits == 15
        assert row.p_farther is None and row.p_differs > 0.05, row.metric  # both sets are of one distribution
        assert row.ratio is None or row.low < row.ratio < row.high


def test_too_few_patients_have_a_distance_but_no_yardstick(features):
    few = {kind: one.subset([lesion.name for lesion in one.lesions[:5]]) for kind, one in features["real"].items()}
    rows, notes = distance_rows("few", few, few, set_metrics(features["real"]), 10, 10, 0)
    assert {row.value for row in rows} == {row.floor for row in rows} == {row.p_differs for row in rows} == {None}
    assert notes == [
        "few: no real vs real and no test, 5 lesions of 5 patients, at most 1 of one, expected at least 6 patients and "
        "none with most of the lesions; give more lesions"
    ]


def test_floors_are_given_for_growing_sizes(pool):
    rows = floor_rows(pool, set_metrics(pool), 15, 0)
    gabor = [row for row in rows if row.metric == "Gabor WD, standardised"]
    assert [row.sizes for row in gabor] == [(8, 8), (13, 13)]
    assert gabor[0].mean > gabor[1].mean


def test_one_lesion_has_no_distance_and_the_report_says_so(features, make_lesion):
    single, _ = _measure([make_lesion(3)], "single")
    rows, notes = distance_rows("single", features["real"], single, set_metrics(features["real"]), 10, 10, 0)
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
    for name in (
        "MSE",
        "HU bias [HU]",
        "Seam difference [HU]",
        "Coverage difference",
        "Spectrum error",
        "Gabor error",
        "GLCM error",
        "GLRLM error",
    ):
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
    by_distance = [test for test in tests if test.metric.endswith("WD") or "standardised" in test.metric]
    assert min(test.p for test in by_distance) * len(by_distance) < 0.05  # 199 swaps alone could not survive so many
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
