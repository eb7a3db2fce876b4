"""Plausibility against real lesions, and the characters that are drawn from them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from evaluation.lesions import real_lesions
from evaluation.lesions.characters import characters_of
from evaluation.lesions.real_lesions import (
    CHARACTER,
    SHIPPED,
    RealLesions,
    figures_of,
    load_real_lesions,
    save_real_lesions,
)
from imaging.dataset.manifest import ASKED
from imaging.dataset.nodules import save_nodule_dataset
from scripts import measure_real_lesions

TRAIN, HELD_OUT, FRESH, SIZE = 110, 100, 100, 24


def row(lesion, split: str, number: int) -> dict:
    return {
        "nodule_id": f"n{number:03d}",
        "patient_id": f"{split}{number:03d}",
        "source": "made",
        "split": split,
        "ct_hu": lesion.ct_hu,
        "lesion_mask": lesion.lesion_mask.astype(np.uint8),
        "valid_mask": lesion.valid_mask.astype(np.uint8),
        "spacing_mm": np.ones(3, np.float32),
        "diameter_mm": 5.0 + number / 100,
        "volume_mm3": float(lesion.lesion_mask.sum()),
        "texture": 1.0 + number % 5,
        "malignancy": None if number % 2 else 4.0,
    }


@pytest.fixture(scope="module")
def lesions(make_lesion):
    return [make_lesion(number, shape=(SIZE,) * 3) for number in range(TRAIN + HELD_OUT + FRESH)]


@pytest.fixture(scope="module")
def data(lesions, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("real") / "nodules"
    splits = [
        ("train", range(TRAIN)),
        ("validation", range(TRAIN, TRAIN + HELD_OUT)),
        ("test", range(TRAIN + HELD_OUT, TRAIN + HELD_OUT + 2)),
    ]
    save_nodule_dataset((row(lesions[n], split, n) for split, numbers in splits for n in numbers), path, SIZE)
    return path


@pytest.fixture(scope="module")
def real(data) -> RealLesions:
    return real_lesions.measure_real_lesions(data)


def test_a_distance_is_scipys_mahalanobis_of_the_standardised_and_limited_figures(real, lesions):
    rounded = [replace(lesion, ct_hu=np.rint(lesion.ct_hu)) for lesion in lesions]  # as a dataset stores them
    train = figures_of(rounded[:TRAIN])[0]
    mean, std = train.mean(0), np.maximum(train.std(0), 1e-9)
    limited = np.clip((train - mean) / std, -6, 6)
    covariance, _ = ledoit_wolf(limited)
    odd = replace(rounded[-1], ct_hu=rounded[-1].ct_hu * 3)
    for lesion in (rounded[-2], odd):
        given = np.clip((figures_of([lesion])[0][0] - mean) / std, -6, 6)
        expected = mahalanobis(given, limited.mean(0), np.linalg.inv(covariance))
        assert real.distances([lesion])[0] == pytest.approx(expected, rel=1e-4)


def test_plausibility_is_the_share_of_held_out_lesions_as_far_or_farther(real):
    for distance in (0.0, *real.held_out[[0, 50, 99]], real.held_out[10] + 1e-9, 1e6):
        counted = (1 + sum(d >= distance for d in real.held_out)) / (1 + HELD_OUT)
        assert real.plausibility(np.array([distance]))[0] == pytest.approx(counted)


def test_lesions_of_the_same_kind_are_refused_as_often_as_the_threshold_says(real, lesions):
    fresh = real.plausibility(real.distances(lesions[TRAIN + HELD_OUT :]))
    assert (fresh < 0.1).mean() < 0.2 and 0.4 < (fresh < 0.5).mean() < 0.6


def test_what_is_like_no_real_lesion_is_implausible(real, lesions, blur):
    lesion = lesions[-1]
    inside = lesion.lesion_mask
    rng = np.random.default_rng(0)
    wrong = {
        "one value": np.where(inside, lesion.ct_hu[inside].mean(), lesion.ct_hu),
        "no lesion": np.where(inside, -850 + 25 * rng.standard_normal(inside.shape), lesion.ct_hu),
        "calcium": np.where(inside, 400, lesion.ct_hu),
        "blurred": blur(lesion, 2.5).ct_hu,
    }
    made = [replace(lesion, ct_hu=ct_hu.astype(np.float32)) for ct_hu in wrong.values()]
    assert real.plausibility(real.distances(made)).tolist() == [pytest.approx(1 / (1 + HELD_OUT))] * len(made)
    assert real.plausibility(real.distances([lesion]))[0] > 0.05


def test_a_reference_is_read_as_it_was_written_and_nothing_else_is_read(real, tmp_path):
    save_real_lesions(tmp_path / "real.safetensors", real, {"data": "made"})
    again = load_real_lesions(tmp_path / "real.safetensors")
    assert again.names == real.names
    for name in vars(real):
        np.testing.assert_array_equal(getattr(again, name), getattr(real, name))
    save_file({"mean": np.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("other", "text", "missing"):
        with pytest.raises(ValueError, match=rf"{name}.safetensors: no reference of real lesions .*measure_real_les"):
            load_real_lesions(tmp_path / f"{name}.safetensors")


def test_the_script_writes_what_is_measured_and_the_hash_of_its_data(real, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure_real_lesions, "measure_real_lesions", {data: real}.__getitem__)
    out = tmp_path / "real.safetensors"
    measure_real_lesions.main(measure_real_lesions.MeasureConfig(data=data, out=out))
    np.testing.assert_array_equal(load_real_lesions(out).precision, real.precision)
    assert f"{TRAIN} training lesions" in capsys.readouterr().out
    with safe_open(out, "numpy") as file:
        said = json.loads(file.metadata()["data"])
    assert said["rows"] == {"train": TRAIN, "validation": HELD_OUT} and len(said["sha256"]) == 64


def test_a_reference_of_other_figures_is_refused(real, lesions):
    with pytest.raises(ValueError, match="made with other figures of appearance; make it again with measure_real"):
        replace(real, names=("p5", "p25")).distances(lesions[:1])


def test_too_few_lesions_are_no_reference(lesions, tmp_path):
    rows = [row(lesions[n], ("train", "validation")[n % 2], n) for n in range(6)]
    save_nodule_dataset(rows, tmp_path / "few", SIZE)
    with pytest.raises(ValueError, match="few: 3 lesions in split 'train', expected at least 100"):
        real_lesions.measure_real_lesions(tmp_path / "few")


def test_the_shipped_reference_fits_the_figures_and_names_nobody(lesions):
    shipped = load_real_lesions()
    assert shipped.distances(lesions[:1]).shape == (1,) and len(shipped.character) > 500
    assert b"LIDC-IDRI-0" not in SHIPPED.read_bytes() and SHIPPED.stat().st_size < 2**17


def test_a_drawn_character_is_all_that_is_known_of_one_real_lesion_within_the_ranges(real):
    drawn = characters_of("real", {"texture": (2, 3), "diameter_mm": (5.2, 6.0)}, real)
    numbers = set()
    for seed in range(40):
        character = drawn.draw(seed, np.random.default_rng(seed))
        (number,) = np.flatnonzero(np.isclose(real.character[:, 0], character.requested["diameter_mm"]))
        assert number % 5 in (1, 2) and 20 <= number <= 100
        assert character.mask_mm == real.equivalent_mm[number]
        known = ("diameter_mm", "texture", "mean_hu", "p10_hu", "p50_hu", "p90_hu")
        assert set(character.requested) == {*known, *([] if number % 2 else ["malignancy"])}
        assert character.requested == {
            name: real.character[number, CHARACTER.index(name)] for name in character.requested
        }
        numbers.add(number)
    assert len(numbers) > 15


def test_uniform_characters_fill_their_ranges(real):
    drawn = characters_of("uniform", {"mean_hu": (-500, -300), "diameter_mm": (6, 10)}, real)
    made = [drawn.draw(seed, np.random.default_rng(seed)) for seed in range(200)]
    assert {tuple(character.requested) for character in made} == {("diameter_mm", "mean_hu")}
    assert all(character.mask_mm == character.requested["diameter_mm"] for character in made)
    for name, low, high in (("mean_hu", -500, -300), ("diameter_mm", 6, 10)):
        values = np.array([character.requested[name] for character in made])
        assert values.min() >= low and values.max() <= high
        assert np.allclose(np.quantile(values, (0.25, 0.75)), low + (high - low) * np.array([0.25, 0.75]), rtol=0.05)


@pytest.mark.parametrize(
    ("population", "ranges", "message"),
    [
        ("real", {"colour": (1, 2)}, 'ranges: attribute "colour" is unknown; known: diameter_mm, malignancy'),
        ("real", {"texture": (3, 2)}, "ranges: texture from 3 to 2, expected two finite numbers, the lower first"),
        ("real", {"texture": (1, float("nan"))}, "ranges: texture from 1 to nan, expected two finite"),
        ("real", {"diameter_mm": (40, 50)}, r"none of 110 real lesions is within the ranges \(diameter_mm 40 to 50\)"),
        ("uniform", {"texture": (1, 5)}, "population uniform: the diameter has no range"),
    ],
)
def test_distributions_that_cannot_be_drawn_from_are_refused(real, population, ranges, message):
    with pytest.raises(ValueError, match=message):
        characters_of(population, ranges, real)


def test_the_manifest_has_a_column_for_every_attribute():
    assert set(ASKED) == set(CHARACTER)
