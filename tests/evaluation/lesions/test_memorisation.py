from dataclasses import replace

import numpy as np
import pytest

from evaluation.lesions import memorisation
from evaluation.lesions.features import FeatureSet
from evaluation.lesions.memorisation import (
    check_memorisation,
    feature_variety,
    foreground_rows,
    pairwise_distances,
    seed_spread,
)


@pytest.fixture(scope="module")
def sets(make_lesion):
    return [make_lesion(n) for n in range(8)], [make_lesion(n) for n in range(20, 26)]


def test_distances_are_the_root_mean_square_over_the_union_of_masks(sets):
    train, test = sets
    distances = pairwise_distances(test, train)
    (a, mask_a), (b, mask_b) = foreground_rows(test), foreground_rows(train)
    union = (mask_a[2] + mask_b[3]) > 0
    assert distances.shape == (6, 8)
    assert distances[2, 3] == pytest.approx(np.sqrt(((a[2] - b[3])[union] ** 2).mean()), rel=1e-4)
    assert np.diag(pairwise_distances(train, train)) == pytest.approx(0, abs=1e-3)


def test_a_copy_with_fresh_noise_is_found_and_a_new_lesion_is_not(sets, make_lesion):
    train, test = sets
    noise = 25 * np.random.default_rng(0).standard_normal(train[3].ct_hu.shape).astype(np.float32)
    copy = replace(train[3], name="copy", ct_hu=train[3].ct_hu + noise)
    found = check_memorisation([make_lesion(40), copy, make_lesion(41)], train, test)
    assert found.duplicates.tolist() == [1]
    assert found.nearest[1] == 3
    assert found.synthetic[1] < found.threshold <= found.test.min()


def test_honest_lesions_are_not_closer_than_test_lesions_and_copies_are(sets, make_lesion):
    train, test = sets
    honest = check_memorisation([make_lesion(n) for n in range(50, 58)], train, test)
    assert honest.p_closer > 0.05 and not len(honest.duplicates)
    copied = check_memorisation(train, train, test)
    assert copied.p_closer < 0.01 and copied.nearest.tolist() == copied.duplicates.tolist() == list(range(8))


def test_the_check_holds_a_block_of_lesions_at_a_time(sets, make_lesion, monkeypatch):
    train, test = sets
    synthetic = [make_lesion(n) for n in range(50, 57)]
    distances = pairwise_distances(synthetic, train)
    blocks = []
    rows_of = memorisation.foreground_rows
    monkeypatch.setattr(memorisation, "foreground_rows", lambda some: (blocks.append(len(some)), rows_of(some))[1])
    monkeypatch.setattr(memorisation, "BLOCK", 3)
    found = check_memorisation(synthetic, train, test)
    assert max(blocks) == 3
    np.testing.assert_allclose(found.synthetic, distances.min(1), rtol=1e-9)
    assert found.nearest.tolist() == distances.argmin(1).tolist()


def test_the_variety_of_many_lesions_is_taken_over_drawn_pairs(make_lesion, monkeypatch):
    rng = np.random.default_rng(0)
    lesions = [replace(make_lesion(0), name=f"a{n}") for n in range(60)]
    made = FeatureSet(2 * rng.normal(size=(60, 1, 4)), lesions)
    real = FeatureSet(rng.normal(size=(60, 1, 4)), lesions)
    exact = feature_variety(made, real)[0]
    monkeypatch.setattr(memorisation, "PAIRS", 1000)
    monkeypatch.setattr(memorisation, "BLOCK_PAIRS", 300)
    drawn = feature_variety(made, real)[0]
    assert drawn != exact and drawn == pytest.approx(exact, rel=0.05)


def test_a_shared_patient_is_refused(sets):
    train, test = sets
    with pytest.raises(ValueError, match="in both real and train"):
        check_memorisation(train, train, [replace(test[0], patient_id=train[0].patient_id)])


def test_the_spread_over_seeds_is_0_for_a_model_that_ignores_them(make_lesion):
    base = make_lesion(1)
    same = [replace(base, name=f"a_seed{k}") for k in range(3)]
    shifted = [replace(base, name=f"b_seed{k}", ct_hu=base.ct_hu.clip(-1000, 200) + 15 * k) for k in range(2)]
    spread = seed_spread([*same, *shifted, make_lesion(5)])
    assert list(spread) == ["a", "b"]
    assert spread["a"] == 0
    assert spread["b"] == pytest.approx(15 / 750 / np.sqrt(2), rel=1e-3)  # 15 HU in a window of 1500 HU over [-1, 1]


def test_variety_is_measured_in_units_of_the_real_one(make_lesion):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 1, 4))
    real = FeatureSet(values, [make_lesion(n) for n in range(8)])
    assert feature_variety(real, real) == (pytest.approx(1), None)
    assert feature_variety(FeatureSet(values / 2, real.lesions), real)[0] == pytest.approx(0.5)
    seeds = [replace(make_lesion(n // 2), name=f"lesion{n // 2:03d}_seed{n % 2}") for n in range(8)]
    between, within = feature_variety(FeatureSet(np.repeat(values[:4], 2, axis=0), seeds), real)
    distance = np.linalg.norm(values[:, None, 0] - values[None, :, 0], axis=-1)
    unit, of_four = (distance[:n, :n].sum() / (n * (n - 1)) for n in (8, 4))
    assert within == 0 and between == pytest.approx(of_four / unit)
