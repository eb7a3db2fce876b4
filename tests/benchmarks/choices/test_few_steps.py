"""The few-steps benchmark: ratios of two sets in the same masks, what "few enough" means, and a run from end to end."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.choices import few_steps
from benchmarks.choices.few_steps import Row, apart_hu, fewest_calls, ratio_to_reference
from evaluation.lesions.features import FeatureSet
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.set_comparison import SetMetric
from evaluation.statistics.distances import wasserstein_per_feature

METRIC = SetMetric("Seam WD", "Seam", wasserstein_per_feature, tested=True)


def lesion(name: str, patient: str, hu: float = 0.0) -> Lesion:
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 1:3, 2] = True
    return Lesion(name, patient, np.full(mask.shape, hu, np.float32), mask, np.ones_like(mask), (1.0, 1.0, 1.0))


def feature_set(values: np.ndarray) -> FeatureSet:
    """Two lesions of each patient."""
    lesions = [lesion(f"nodule{i}", f"patient{i // 2}") for i in range(len(values))]
    return FeatureSet(values[:, None, None], lesions, ("seam",))


def test_ratio_of_two_far_shifts_is_the_ratio_of_the_shifts():
    real = np.random.default_rng(0).normal(size=24)
    near, far = feature_set(real + 100), feature_set(real + 150)
    # shifts are so large that a distance is a difference of means, in which the two halves of a split cancel
    assert ratio_to_reference(feature_set(real), far, near, METRIC, 0) == pytest.approx((1.5, 1.5, 1.5))
    assert ratio_to_reference(feature_set(real), near, near, METRIC, 0) == (1.0, 1.0, 1.0)


def test_interval_of_the_ratio_holds_it_and_grows_with_the_spread_over_patients():
    rng = np.random.default_rng(1)
    real, shifts = rng.normal(size=40), np.repeat(rng.uniform(-1, 1, 20), 2)
    widths = []
    for spread in (5.0, 40.0):
        made = feature_set(real + 150 + spread * shifts)
        ratio, low, high = ratio_to_reference(feature_set(real), made, feature_set(real + 100), METRIC, 0)
        assert low < ratio < high and ratio == pytest.approx(1.5, rel=spread / 100)
        widths.append(high - low)
    assert widths[1] > 4 * widths[0]


def test_lesions_that_one_set_lacks_are_left_out_of_both():
    real = np.random.default_rng(0).normal(size=24)
    reference = feature_set(real + 100)
    made = feature_set(real + 150).subset([f"nodule{i}" for i in range(4, 24)])
    assert ratio_to_reference(feature_set(real), made, reference, METRIC, 0)[0] == pytest.approx(1.5)


def test_lesions_are_apart_by_the_mean_over_their_masks():
    a, b = [lesion("x", "p", 10.0), lesion("y", "p", 0.0)], [lesion("y", "p", 40.0), lesion("x", "p", 30.0)]
    b[1].ct_hu[0] = 1000  # outside the mask
    assert apart_hu(a, b) == pytest.approx((20 + 40) / 2)
    assert apart_hu(a[:1], b) == pytest.approx(20)


def test_few_is_enough_only_if_no_larger_number_differs():
    def rows(ratios: dict[int, float]) -> list[Row]:
        return [
            Row("ddim", calls, 0.0, {}, {"Gabor": (ratio, 0, 9)}, (0.5, 0.4, 0.6)) for calls, ratio in ratios.items()
        ]

    assert fewest_calls(rows({4: 1.3, 8: 1.04, 16: 0.96, 250: 1.0}), ["Gabor"]) == 8
    assert fewest_calls(rows({4: 1.0, 8: 1.06, 16: 1.0, 250: 1.0}), ["Gabor"]) == 16
    assert fewest_calls(rows({4: 0.9, 8: 1.0, 250: 1.0}), ["Gabor"]) == 8  # nearer to real, and not yet there
    assert fewest_calls(rows({4: 1.2, 16: 1.2, 250: 1.0}), ["Gabor"]) == 250


@pytest.mark.slow
def test_few_steps_compares_samplers_and_continues(chain, nodules, tmp_path, measured_once, monkeypatch):
    monkeypatch.setattr(few_steps, "TEST_SPLITS", 4)
    config = few_steps.FewStepsConfig(
        pipeline=str(chain.ldm / "pipeline"),
        data=nodules,
        out=tmp_path / "few",
        samplers=("ddim", "unipc"),
        calls=(2, 1),
        repeats=10,
        device="cpu",
    )
    few_steps.main(config)
    text = (config.out / "few_steps.md").read_text()
    assert "12 synthetic and 12 real lesions (validation)" in text and text.count("| unipc | 2 | 0.0 |") == 1
    assert text.count("| ddim | 1 |") == 2 and (config.out / "few_steps.png").stat().st_size > 10_000

    made = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.arrow")}
    few_steps.main(config)
    assert len(made) == 4 and made == {path: path.stat().st_mtime_ns for path in config.out.rglob("*.arrow")}
    assert (config.out / "few_steps.md").read_text() == text
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 -> 1\)"):
        few_steps.main(replace(config, seed=1))
    with pytest.raises(ValueError, match='"flow-euler" does not fit this pipeline'):
        few_steps.main(replace(config, samplers=("flow-euler",)))
    with pytest.raises(ValueError, match="at least two numbers from 1 on"):
        few_steps.main(replace(config, calls=(4,)))
