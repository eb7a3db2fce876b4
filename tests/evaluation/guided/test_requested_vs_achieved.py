import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from evaluation.guided.requested_vs_achieved import class_row, leak_row, rank_row, real_spread_of


def test_classes_are_told_as_scikit_learn_tells_them_and_within_their_masks(requested):
    rng = np.random.default_rng(0)
    benign, malignant, size = rng.normal(size=30), rng.normal(0.8, 1, 30), rng.normal(0, 3, 30)
    row = class_row(
        requested("malignancy", "benign", 1.5, 2, benign, size),
        requested("malignancy", "malignant", 4.5, 2, malignant, size),
        200,
        0,
    )
    truth = np.repeat([0, 1], 30)
    assert row.equal_size == pytest.approx(roc_auc_score(truth, np.r_[benign, malignant]))
    assert row.auroc == pytest.approx(roc_auc_score(truth, np.r_[benign + size, malignant + size]))
    assert row.within_mask == pytest.approx((malignant > benign).mean())
    assert row.share_benign == pytest.approx((benign < 0).mean())
    assert row.share_malignant == pytest.approx((malignant > 0).mean())
    assert row.equal_low < row.equal_size < row.equal_high and row.within_low < row.within_mask < row.within_high
    assert (row.scale, row.lesions) == (2, 30)


def test_unasked_lesions_that_stand_for_both_classes_are_not_told_apart(requested):
    values = np.random.default_rng(1).normal(size=12)
    row = class_row(
        requested("malignancy", "benign", 1.5, 0, values), requested("malignancy", "malignant", 4.5, 0, values), 20, 0
    )
    assert [row.auroc, row.equal_size, row.within_mask] == pytest.approx([0.5, 0.5, 0.5])
    assert row.share_benign + row.share_malignant == pytest.approx(1)


def test_intervals_hold_their_figures_where_every_mask_obeys_a_little(requested):
    size = np.random.default_rng(5).normal(0, 3, 16)
    benign = requested("malignancy", "benign", 1.5, 1, size)
    row = class_row(benign, requested("malignancy", "malignant", 4.5, 1, size + 0.1), 50, 0)
    assert row.within_mask == 1 and 0.5 < row.equal_size < 0.6
    assert row.equal_low <= row.equal_size <= row.equal_high <= 1
    sets = [requested("mean_hu", f"{n}", n, 1, size, hu=size + n) for n in (0.0, 0.1, 0.2)]
    row = rank_row(sets)
    assert row.within_mask == 1 and row.low <= row.rho <= row.high


def test_achieved_hu_is_held_against_requested_hu(requested):
    rng = np.random.default_rng(2)
    numbers, achieved = (-600.0, -300.0, 0.0), {}
    sets = []
    for number in numbers:
        achieved[number] = 0.5 * number - 100 + 50 * rng.normal(size=20)
        sets.append(requested("mean_hu", f"{number:g}", number, 4, np.zeros(20), hu=achieved[number]))
    row = rank_row(sets)
    x, y = np.repeat(numbers, 20), np.concatenate([achieved[number] for number in numbers])
    assert row.rho == pytest.approx(spearmanr(x, y).statistic) and row.low < row.rho < row.high
    assert row.error_hu == pytest.approx(np.abs(x - y).mean())
    assert row.slope == pytest.approx(np.polyfit(x, y, 1)[0])
    assert row.means == {number: pytest.approx(values.mean()) for number, values in achieved.items()}
    inside = [spearmanr(numbers, [achieved[number][mask] for number in numbers]).statistic for mask in range(20)]
    assert row.within_mask == pytest.approx(np.mean(inside))


def test_a_rating_is_what_the_image_says_of_it_and_unasked_lesions_obey_nothing(requested):
    values = np.random.default_rng(3).normal(size=8)
    sets = [requested("texture", str(n), n, 0, values, size=5.0) for n in (1, 3, 5)]
    row = rank_row(sets)
    assert row.rho == pytest.approx(0, abs=1e-12) and row.slope == pytest.approx(0, abs=1e-12)
    assert row.within_mask is None and row.error_hu is None
    assert row.means[1] == pytest.approx(10 * values.mean())  # the fixture's texture is ten times its malignancy
    constant = [requested("texture", str(n), n, 1, np.zeros(4)) for n in (1, 5)]
    assert rank_row(constant).rho is None


def test_leakage_is_the_mean_change_of_the_same_lesions_in_real_standard_deviations(requested, character):
    rng = np.random.default_rng(4)
    before, after, real = (
        rng.normal(size=9),
        rng.normal(1, 1, 9),
        character(rng.normal(size=50), hu=rng.normal(0, 80, 50)),
    )
    spread = real_spread_of(real)
    unconditional = character(before, hu=100 * before)
    row = leak_row(requested("texture", "solid", 5, 2, after, hu=100 * after), unconditional, spread)
    expected = (after - before).mean()
    assert row.changes["malignancy"] == pytest.approx(expected / real.value("malignancy").std())
    assert row.changes["p10_hu"] == pytest.approx(100 * expected / real.value("p10_hu").std())
    fewer = leak_row(
        requested("texture", "solid", 5, 2, after[:5]), unconditional, spread
    )  # a lesion of four could not be made
    assert fewer.changes["malignancy"] == pytest.approx((after[:5] - before[:5]).mean() / spread["malignancy"])
    assert real_spread_of(character([1.0, 1.0]))["malignancy"] == 1
