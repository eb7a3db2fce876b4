"""Blinded readings: balanced sheets that do not give the key away, and figures against closed forms."""

import numpy as np
import pytest
from scipy.stats import beta

from evaluation.lesions.blinded_reading import LABEL, SIDE, ZOOM, chosen_cases, confidence_auroc, pages, reading_figures
from evaluation.lesions.lesion_sets import Lesion


def lesions(count: int, hu: float, suffix: str = "") -> list[Lesion]:
    mask = np.zeros((40, 40, 40), bool)
    mask[18:22, 18:22, 18:22] = True
    ct_hu = np.where(mask, hu, -850).astype(np.float32)
    return [
        Lesion(f"n{i:02d}{suffix}", f"p{i}", ct_hu, mask, np.ones_like(mask), (1.0, 1.0, 1.0)) for i in range(count)
    ]


def test_half_of_the_masks_are_real_and_none_is_shown_twice():
    cases = chosen_cases(lesions(30, 0), lesions(30, 100, "_seed0"), 20, 5, seed=3)
    assert [case.number for case in cases] == list(range(1, 21))
    assert sum(case.real for case in cases) == 10
    assert [case.lesion.mask_name for case in cases] == [f"n{i:02d}" for i in range(5, 25)]  # index order
    assert all(case.real == ("_seed" not in case.lesion.name) for case in cases)
    others = chosen_cases(lesions(30, 0), lesions(30, 100, "_seed0"), 20, 5, seed=4)
    assert [case.real for case in cases] != [case.real for case in others]


def test_too_few_masks_are_refused():
    with pytest.raises(ValueError, match="0 masks from index 30 on"):
        chosen_cases(lesions(30, 0), lesions(30, 0, "_seed0"), None, 30, seed=0)


def test_a_page_shows_three_planes_of_each_case_in_its_place():
    sheets = pages(chosen_cases(lesions(26, 0), lesions(26, 0, "_seed0"), None, 0, seed=0))
    assert len(sheets) == 2 and sheets[0].size == sheets[1].size
    first, second = (np.asarray(sheet) for sheet in sheets)
    bright = first[LABEL + SIDE * ZOOM // 2, : first.shape[1] // 3] > 150  # the first case's row, through its middle
    assert np.diff(bright.astype(int)).clip(0).sum() == 3
    assert not second[second.shape[0] // 2 :].any()  # two cases only


def test_intervals_are_clopper_and_pearsons_and_the_difference_is_newcombes():
    truth = [True] * 30 + [False] * 29
    called = [True] * 4 + [False] * 26 + [True] * 12 + [False] * 17
    figures = reading_figures(called, truth)
    assert figures["recognised"] == pytest.approx((12 / 29, beta.ppf(0.025, 12, 18), beta.ppf(0.975, 13, 17)))
    assert figures["false_alarms"][0] == pytest.approx(4 / 30)
    assert figures["accuracy"][0] == pytest.approx((26 + 12) / 59)
    # Newcombe 1998, table II, method 10: 56/70 against 48/80 is 0.2000 (0.0524 ... 0.3339)
    truth = [False] * 70 + [True] * 80
    called = [True] * 56 + [False] * 14 + [True] * 48 + [False] * 32
    assert reading_figures(called, truth)["difference"] == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_a_reader_who_always_guesses_the_same_is_at_chance():
    truth = [True, False] * 10
    assert reading_figures([True] * 20, truth)["difference"][0] == 0
    assert confidence_auroc([3] * 20, truth) == 0.5
    assert confidence_auroc([1 if real else 5 for real in truth], truth) == 1


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 answers for 3 cases"):
        reading_figures([True, False], [True, False, True])
