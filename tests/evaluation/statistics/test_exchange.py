from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from evaluation.statistics import exchange
from evaluation.statistics.distances import frechet_distance, wasserstein_per_feature
from evaluation.statistics.exchange import LesionSets, draw_splits, exchange_tests, ratio_interval, split_distances


def make_sets(number, masks=16, samples=1, share=0.6, bias=0.0, spread=1.0, features=3, per_patient=1):
    """Lesions of unit variance that share `share` of it with all lesions of their mask; synthetic ones may be off."""
    rng = np.random.default_rng(number)
    of_mask = np.sqrt(share) * rng.normal(size=(masks, 1, 1, features))
    own = np.sqrt(1 - share) * rng.normal(size=(masks, 1 + samples, 1, features))
    patients = [f"p{n // per_patient:03d}" for n in range(masks)]
    made = bias + spread * (of_mask + own[:, 1:])
    return LesionSets((of_mask + own[:, :1])[:, 0], made, patients, patients, shared=True)


def p_values(sets, permutations=39, splits=5, distance=wasserstein_per_feature):
    rng = np.random.default_rng(0)
    return exchange_tests(sets, draw_splits(sets, splits, rng), distance, permutations, rng)


def apart(sets):
    """The same lesions as of different patients."""
    return replace(sets, synthetic_patients=[f"s{name}" for name in sets.synthetic_patients], shared=False)


def test_splits_share_no_patient_have_one_size_and_are_of_both_sets_alike():
    sets = make_sets(0, masks=21, samples=4, per_patient=3)
    splits = draw_splits(sets, 30, np.random.default_rng(0))
    assert splits.half == 9  # 21 lesions, up to 2 of which are dropped where a patient fills a half
    np.testing.assert_array_equal(splits.real, splits.synthetic)
    patients = np.array(sets.real_patients)
    for A, B in splits.real:
        assert len(set(A)) == len(set(B)) == 9 and not set(patients[A]) & set(patients[B])
    assert set(splits.samples.ravel()) == {0, 1, 2, 3}
    unshared = draw_splits(apart(sets), 5, np.random.default_rng(0))
    assert (unshared.real != unshared.synthetic).any()


def test_the_distances_are_those_written_out_split_by_split():
    sets = make_sets(1, masks=9, samples=2)
    splits = draw_splits(sets, 4, np.random.default_rng(3))
    values, floors = split_distances(sets, splits, wasserstein_per_feature)
    for k, (A, B) in enumerate(splits.real):
        real_a, real_b = (np.array([sets.real[row, 0] for row in rows]) for rows in (A, B))
        made_a = np.array([sets.synthetic[row, s, 0] for row, s in zip(A, splits.samples[k, 0], strict=True)])
        made_b = np.array([sets.synthetic[row, s, 0] for row, s in zip(B, splits.samples[k, 1], strict=True)])
        one, other = wasserstein_per_feature(made_a, real_b), wasserstein_per_feature(made_b, real_a)
        np.testing.assert_allclose(values[k], (one + other) / 2)
        np.testing.assert_allclose(floors[k], wasserstein_per_feature(real_a, real_b))


def test_splits_are_measured_some_at_a_time(monkeypatch):
    sets = make_sets(1, masks=9, samples=2)
    splits = draw_splits(sets, 7, np.random.default_rng(3))
    expected = split_distances(sets, splits, wasserstein_per_feature)
    stacks = []

    def distance(X, Y):
        stacks.append(len(X))
        return wasserstein_per_feature(X, Y)

    monkeypatch.setattr(exchange, "STACK_BYTES", 2 * 4 * splits.half * 3 * 8)  # two splits of 3 features
    np.testing.assert_array_equal(split_distances(sets, splits, distance), expected)
    assert max(stacks) == 2


@pytest.mark.parametrize("shared", [True, False])
def test_a_test_of_large_sets_takes_whole_patients_up_to_a_number_of_masks(monkeypatch, shared):
    sets = make_sets(2, masks=60, samples=2, per_patient=2, bias=3.0)
    sets = sets if shared else apart(sets)
    sizes = []

    def distance(X, Y):
        sizes.append(max(X.shape[-2], Y.shape[-2]))
        return wasserstein_per_feature(X, Y)

    monkeypatch.setattr(exchange, "MOST_TESTED", 20)
    assert p_values(sets, distance=distance)[1] <= 2 / 40
    assert max(sizes) == (40 if shared else 20)  # 10 patients of two masks; of shared ones both samples


def test_the_interval_leaves_out_groups_of_many_patients(monkeypatch):
    sets = make_sets(3, masks=40)
    splits = draw_splits(sets, 5, np.random.default_rng(0))
    ratio, low, high = ratio_interval(sets, splits, wasserstein_per_feature)
    monkeypatch.setattr(exchange, "JACKKNIFE_GROUPS", 10)
    of_groups = ratio_interval(sets, splits, wasserstein_per_feature)
    assert of_groups[0] == ratio
    assert 0.5 < np.log(of_groups[2] / of_groups[1]) / np.log(high / low) < 2


@pytest.mark.parametrize("share", [0.0, 0.6, 0.95])
def test_a_perfect_generator_is_as_far_as_real_lesions_whatever_the_mask_decides(share):
    ratios, whole = [], []
    for number in range(60):
        sets = make_sets(number, share=share)
        values, floors = split_distances(sets, draw_splits(sets, 20, np.random.default_rng(0)), wasserstein_per_feature)
        ratios.append(values.mean() / floors.mean())
        other = make_sets(1000 + number, share=share)
        fresh = wasserstein_per_feature(sets.real[:, 0], other.real[:, 0]).mean()
        whole.append(wasserstein_per_feature(sets.real[:, 0], sets.synthetic[:, 0, 0]).mean() / fresh)
    assert np.mean(ratios) == pytest.approx(1, abs=3 * np.std(ratios) / np.sqrt(60))
    # the whole sets of shared masks are the closer, the more the mask decides: no yardstick
    assert np.mean(whole) == pytest.approx({0.0: 1.0, 0.6: 0.8, 0.95: 0.42}[share], abs=0.05)


@pytest.mark.parametrize("samples", [1, 3])
def test_p_values_of_a_perfect_generator_are_uniform(samples):
    found = np.array([p_values(make_sets(number, masks=12, samples=samples)) for number in range(200)])
    for p in found.T:
        assert kstest(p - 0.5 / 40, "uniform").pvalue > 0.01
        assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_p_values_stay_uniform_when_patients_have_several_lesions():
    found = []
    for number in range(150):
        sets = make_sets(number, masks=24, per_patient=2)
        rng = np.random.default_rng(5000 + number)
        of_patient = rng.normal(size=(12, 2, 3)).repeat(2, axis=0)  # what two lesions of one origin have in common
        sets = replace(sets, real=sets.real + of_patient[:, :1], synthetic=sets.synthetic + of_patient[:, None, 1:])
        found.append(p_values(sets))
    for p in np.array(found).T:
        assert kstest(p - 0.5 / 40, "uniform").pvalue > 0.01


def test_a_bias_is_found_by_both_tests_and_too_little_spread_by_the_second():
    biased = np.array([p_values(make_sets(number, masks=24, bias=0.7)) for number in range(20)])
    assert ((biased <= 0.05).mean(axis=0) >= 0.75).all()
    narrow = np.array([p_values(make_sets(number, masks=40, spread=0.6)) for number in range(20)])
    assert (narrow[:, 1] <= 0.05).mean() >= 0.75


def test_without_shared_patients_a_shift_is_found_and_none_is_not():
    same = np.array([p_values(apart(make_sets(number, share=0)))[1] for number in range(150)])
    assert kstest(same - 0.5 / 40, "uniform").pvalue > 0.01
    assert p_values(apart(make_sets(0, bias=2.0))) == (None, 1 / 40)


def test_equal_sets_have_a_ratio_of_1_and_p_values_of_1():
    sets = make_sets(0)
    sets = replace(sets, synthetic=sets.real[:, None])
    splits = draw_splits(sets, 10, np.random.default_rng(0))
    assert ratio_interval(sets, splits, wasserstein_per_feature) == pytest.approx((1, 1, 1))
    assert p_values(sets) == (1, 1)


def test_without_any_spread_there_is_no_ratio():
    sets = make_sets(0)
    sets = replace(sets, real=np.ones_like(sets.real))
    assert ratio_interval(sets, draw_splits(sets, 10, np.random.default_rng(0)), wasserstein_per_feature) is None


@pytest.mark.parametrize("shared", [True, False])
def test_the_ratios_interval_covers_1_for_a_perfect_generator(shared):
    covered = 0
    for number in range(40):
        sets = make_sets(number, masks=12)
        if not shared:
            sets = apart(replace(sets, synthetic=make_sets(number + 500, masks=12).synthetic))
        splits = draw_splits(sets, 8, np.random.default_rng(0))
        ratio, low, high = ratio_interval(sets, splits, wasserstein_per_feature)
        assert low < ratio < high
        covered += low <= 1 <= high
    assert covered >= 34  # 95 % is aimed at


def test_the_interval_is_the_jackknife_of_splits_without_a_patient():
    """One split of one feature in which a lesion's absence can be written out."""
    sets = make_sets(3, masks=6, features=1)
    splits = draw_splits(sets, 1, np.random.default_rng(0))
    (A, B), logs = splits.real[0], []
    for left_out in range(6):
        a, b = A[left_out != A], B[left_out != B]
        real_a, real_b, made_a, made_b = (
            sets.real[a, 0],
            sets.real[b, 0],
            sets.synthetic[a, 0, 0],
            sets.synthetic[b, 0, 0],
        )
        value = (wasserstein_per_feature(made_a, real_b) + wasserstein_per_feature(made_b, real_a)) / 2
        logs.append(np.log(value / wasserstein_per_feature(real_a, real_b))[0])
    ratio, low, high = ratio_interval(sets, splits, wasserstein_per_feature)
    error = np.sqrt(5 / 6 * ((np.array(logs) - np.mean(logs)) ** 2).sum())
    assert np.log(high / ratio) == pytest.approx(2.5706 * error, rel=1e-3) == np.log(ratio / low)


def test_slices_of_a_lesion_stay_together_and_the_frechet_distance_is_tested_alike():
    sets = make_sets(0, masks=12)
    sets = replace(sets, real=sets.real.repeat(3, axis=1), synthetic=sets.synthetic.repeat(3, axis=2))
    farther, differs = p_values(replace(sets, synthetic=sets.synthetic + 3), distance=_frechet)
    assert farther == differs == 1 / 40


def test_too_few_patients_and_a_patient_with_most_lesions_are_refused():
    with pytest.raises(ValueError, match="5 lesions of 5 patients"):
        draw_splits(make_sets(0, masks=5), 1, np.random.default_rng(0))
    sets = make_sets(0, masks=14)
    patients = ["p"] * 6 + sets.real_patients[6:]
    with pytest.raises(ValueError, match="14 lesions of 9 patients, at most 6 of one"):
        draw_splits(replace(sets, real_patients=patients, synthetic_patients=patients), 1, np.random.default_rng(0))


def _frechet(X, Y):
    return frechet_distance(X, Y)[..., None]
