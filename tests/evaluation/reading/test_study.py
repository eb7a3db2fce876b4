"""The folder of a study: volumes that do not give the class away, the key, and the order of each reader."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.reading.cases import Case, chosen_cases
from evaluation.reading.preparation import write_study
from evaluation.reading.study import KEY, VOLUMES, check_study_folder, load_study, open_key, reading_order


def test_a_volume_is_the_exact_crop_around_its_lesion_whose_shape_all_share(study_folder, lesions):
    study = load_study(study_folder)
    assert study.shape == (29, 29, 29) and study.spacing_mm == (1, 1, 1)
    by_name = {lesion.name: lesion for lesion in lesions(8, -300) + lesions(8, 40, "_seed0")}
    for case in open_key(study_folder):
        crop = by_name[case.lesion].ct_hu[0:29, 2:31, 2:31]  # the mask's centre is rounded to (14, 16, 16)
        np.testing.assert_array_equal(study.volumes[case.case - 1], np.rint(crop))


def test_the_key_says_what_a_case_is_and_is_sealed(study_folder):
    key = open_key(study_folder)
    assert [case.case for case in key] == list(range(1, 9))
    assert all(case.real == ("_seed" not in case.lesion) for case in key)
    counted = [case for case in key if case.case in load_study(study_folder).cases]
    assert len(counted) == 6 and sum(case.real for case in counted) == 3
    assert len({case.patient for case in key}) == 8  # no mask twice
    assert key[0].diameter_mm == pytest.approx((6 / np.pi * 64) ** (1 / 3))
    assert {case.lesion[:3]: case.texture for case in key}["n03"] == 5
    names = b"".join((study_folder / name).read_bytes() for name in ("study.json", KEY, VOLUMES))
    assert b"seed0" not in names and b"n03" not in names


def test_numbers_and_order_do_not_follow_the_class(lesions, tmp_path):
    cases = chosen_cases(lesions(40, 0), lesions(40, 100, "_seed0"), None, 0, seed=0)
    write_study(tmp_path / "study", cases, [], 0, {}, None, seed=0)
    real = np.array([case.real for case in open_key(tmp_path / "study")])
    assert 5 < (real[1:] != real[:-1]).sum() < 35 and 4 < real[:20].sum() < 16


def test_a_reader_sees_training_first_and_each_repeat_long_after_its_first_showing(study_folder):
    study = load_study(study_folder)
    order = reading_order(study, "anna")
    assert order == reading_order(study, "anna") != reading_order(study, "ben")
    assert [s.case for s in order[:2]] == sorted(study.training) and {s.kind for s in order[:2]} == {"training"}
    assert sorted(s.case for s in order if s.kind == "first") == sorted(study.cases)
    first = {s.case: place for place, s in enumerate(order) if s.kind == "first"}
    repeats = [(place, s.case) for place, s in enumerate(order) if s.kind == "repeat"]
    assert len(repeats) == 2 == len({case for _, case in repeats})
    for place, case in repeats:
        assert first[case] < 2 + 3 <= place  # in the first half, then in the second


def test_other_spacings_are_resampled_and_it_is_said_where_that_could_tell_the_classes_apart(lesions, tmp_path):
    made = lesions(4, 40, spacing_mm=0.9)
    mixed = [(lesion, True) for lesion in lesions(2, 0)] + [(lesion, False) for lesion in made[2:]]
    cases = [Case(number, *one) for number, one in enumerate(mixed, 1)]
    warnings = write_study(tmp_path / "study", cases, [], 0, {}, None, seed=0)
    assert len(warnings) == 1 and "real and synthetic crops have different spacings" in warnings[0]
    study = load_study(tmp_path / "study")
    assert study.spacing_mm == (1, 1, 1) and study.shape == (25, 25, 25)  # 14 * 0.9 = 12.6 mm on each side
    for case in open_key(tmp_path / "study"):
        centre = study.volumes[case.case - 1, 12, 12, 12]
        assert abs(centre - (0 if case.real else 40)) < 80


def test_what_cannot_be_prepared_is_refused(lesions, tmp_path):
    cases = chosen_cases(lesions(4, 0), lesions(4, 100), None, 0, seed=0)
    with pytest.raises(ValueError, match="3 repeats of 4 cases, expected at most half"):
        write_study(tmp_path / "study", cases, [], 3, {}, None, seed=0)
    small = [replace(case, lesion=replace(case.lesion, spacing_mm=(0.5, 1, 1))) for case in cases]
    with pytest.raises(ValueError, match=r"n0\d: the largest cube around the lesion's centre has 14 mm"):
        write_study(tmp_path / "study", small, [], 0, {}, None, seed=0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and holds no reading study"):
        check_study_folder(tmp_path)


def test_a_study_with_answers_is_not_replaced(study_folder):
    check_study_folder(study_folder)
    (study_folder / "answers.csv").touch()
    with pytest.raises(ValueError, match="readers have begun to answer"):
        check_study_folder(study_folder)


def test_damage_is_named(study_folder):
    (study_folder / KEY).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"key\.bin: damaged"):
        open_key(study_folder)
    (study_folder / VOLUMES).write_bytes((study_folder / VOLUMES).read_bytes()[:500])
    with pytest.raises(ValueError, match=r"study\.json: damaged"):
        load_study(study_folder)
    (study_folder / KEY).unlink()
    with pytest.raises(ValueError, match="prepare the study first"):
        open_key(study_folder)
