"""What answers say: against closed forms, published examples and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from evaluation.reading.answers import Answer
from evaluation.reading.figures import (
    Read,
    agreement_between,
    agreement_within,
    cohen_kappa,
    fleiss_kappa,
    groups,
    most_missed,
    reader_figures,
    reading_figures,
)
from evaluation.reading.study import KeyCase


def read(case: int, real: bool, verdict: str, confidence: int = 3, reader: str = "anna", **about) -> Read:
    answer = Answer(reader, case, case, "first", verdict, confidence, 1.0, "")
    return Read(answer, KeyCase(case, real, f"n{case}", f"p{case}", **about))


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


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 answers for 3 cases"):
        reading_figures([True, False], [True, False, True])


def test_a_readers_auroc_is_that_of_the_signed_confidence_and_lies_in_its_interval():
    rng = np.random.default_rng(0)
    reads = [
        read(n, n % 2 == 0, ("real", "synthetic")[int(rng.random() < 0.4 + 0.2 * (n % 2))], int(rng.integers(1, 6)))
        for n in range(60)
    ]
    figures = reader_figures(reads)
    sign = [(1 if r.called_synthetic else -1) * (r.answer.confidence - 0.5) for r in reads]
    value, low, high = figures["auroc"]
    assert value == pytest.approx(roc_auc_score([not r.truth.real for r in reads], sign))
    assert low < value < high and high - low == pytest.approx(4 * 0.075, abs=0.1)  # Hanley & McNeil: about 0.075
    assert figures["specificity"][0] == pytest.approx(1 - figures["false_alarms"][0])
    assert figures["specificity"][1] < figures["specificity"][0] < figures["specificity"][2]


def test_a_sure_reader_has_an_auroc_of_one_and_one_who_always_says_the_same_is_at_chance():
    sure = [read(n, n % 2 == 0, ("real", "synthetic")[n % 2], 5) for n in range(20)]
    same = [read(n, n % 2 == 0, "real") for n in range(20)]
    assert reader_figures(sure)["auroc"] == (1, 1, 1)
    assert reader_figures(same)["auroc"][0] == 0.5 and reader_figures(same)["difference"][0] == 0


def test_kappas_are_those_of_published_examples():
    # the worked example that most texts give: 14 raters, 10 subjects, 5 categories, 0.210
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=5e-4)
    # 50 cases: both yes 20, both no 15, only the first yes 5, only the second yes 10: (0.7 - 0.5) / (1 - 0.5)
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa([True, True], [True, True]) is None and fleiss_kappa(np.array([[3, 0], [3, 0]])) is None
    with pytest.raises(ValueError, match="differ in number"):
        fleiss_kappa(np.array([[2, 1], [2, 2]]))


def test_agreement_counts_the_cases_that_readers_share():
    calls = {"anna": "rrssrs", "ben": "rsssrs", "carl": "rrssr"}
    verdicts = {"r": "real", "s": "synthetic"}
    reads = {
        name: [read(n, True, verdicts[c], reader=name) for n, c in enumerate(given)] for name, given in calls.items()
    }
    found = agreement_between(reads)
    assert [cases for _, cases in found.values()] == [6, 5, 5, 5]
    assert found["anna and ben (Cohen)"][0] == pytest.approx((5 / 6 - 0.5) / 0.5)
    assert found["anna and carl (Cohen)"][0] == 1
    # all but case 1 unanimous: (1 + 1/3 + 1 + 1 + 1) / 5; 8 of 15 real: chance (64 + 49) / 225
    assert found["all (Fleiss)"][0] == pytest.approx((13 / 15 - 113 / 225) / (1 - 113 / 225))


def test_agreement_within_a_reader_compares_repeats_with_first_showings():
    first = [read(n, True, v) for n, v in enumerate(("real", "real", "synthetic", "synthetic"))]
    repeats = [read(n, True, v) for n, v in ((0, "real"), (2, "real"), (3, "synthetic"))]
    share, kappa, cases = agreement_within(first, repeats)
    assert cases == 3 and share[0] == pytest.approx(2 / 3) and kappa == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert agreement_within(first, []) is None


def test_groups_take_the_lower_bound_in_and_keep_what_is_unknown():
    reads = [
        read(1, True, "real", diameter_mm=5.99, texture=1.0, mean_hu=-700.0),
        read(2, True, "real", diameter_mm=6.0, texture=2.0, mean_hu=-600.0),
        read(3, True, "real", diameter_mm=25.0, texture=5.0, mean_hu=30.0),
        read(4, True, "real"),
    ]
    members = {
        kind: {name: [r.truth.case for r in of] for name, of in found.items()} for kind, found in groups(reads).items()
    }
    assert members["diameter"] == {"below 6 mm": [1], "6 to 10 mm": [2], "20 mm and more": [3], "unknown": [4]}
    assert members["texture"] == {"ground glass": [1], "part-solid": [2], "solid": [3], "unknown": [4]}
    assert members["mean HU"] == {
        "below -600 HU": [1], "-600 to -200 HU": [2], "-200 HU and more": [3], "unknown": [4]
    }  # fmt: skip


def test_the_most_missed_cases_are_those_that_most_readers_were_surest_and_wrong_about():
    reads = [
        *(read(1, False, "real", 2, name) for name in ("anna", "ben")),
        *(read(2, False, "real", 5, name) for name in ("anna", "ben")),
        read(3, False, "real", 5, "anna"),
        read(3, False, "synthetic", 5, "ben"),
        read(4, False, "synthetic"),
        read(5, True, "synthetic"),
    ]
    found = most_missed(reads, real=False, count=2)
    assert [(case.case, wrong, readers, confidence) for case, wrong, readers, confidence in found] == [
        (2, 2, 2, 5), (1, 2, 2, 2)
    ]  # fmt: skip
    assert [row[0].case for row in most_missed(reads, real=True, count=9)] == [5]
