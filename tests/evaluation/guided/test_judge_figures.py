from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from evaluation.guided.judge_figures import judge_rows, malignant_or_not
from evaluation.networks.lesion_judge import Judgement


@pytest.fixture
def sized(make_lesion):
    """Forty lesions of two patients each five, whose masks are boxes of growing volume."""
    lesion, lesions = make_lesion(0), []
    for n in range(40):
        mask = np.zeros_like(lesion.lesion_mask)
        mask.ravel()[: 20 + 10 * n] = True
        lesions.append(replace(lesion, name=f"n{n}", patient_id=f"p{n // 4}", lesion_mask=mask))
    return lesions


def test_labels_follow_the_policy():
    labels = malignant_or_not(np.array([1.0, 2.0, 3.0, 4.5, np.nan]), "exclude_between")
    np.testing.assert_array_equal(labels, [0, 0, np.nan, 1, np.nan])


def test_a_judge_is_examined_as_a_whole_by_size_alone_and_at_equal_size(sized):
    rng = np.random.default_rng(0)
    log_volume = np.log([lesion.lesion_mask.sum() for lesion in sized])
    malignant = np.arange(40) + rng.normal(0, 8, 40) > 20
    image = rng.normal(size=40)
    ratings = {"malignancy": np.where(malignant, 4.5, 1.5), "texture": np.round(3 + image + rng.normal(size=40))}
    ratings["texture"][:3] = np.nan
    judgement = Judgement(("malignancy", "texture"), np.stack([image, image], 1), np.stack([log_volume, log_volume], 1))
    rows, notes = judge_rows(judgement, sized, ratings, "exclude_between", "test", 50, 0)
    assert notes == [] and [row.attribute for row in rows] == ["malignancy", "texture"]
    first, second = rows
    assert first.value == pytest.approx(roc_auc_score(malignant, image + log_volume))
    assert first.size_only == pytest.approx(roc_auc_score(malignant, log_volume)) and first.size_only > 0.8
    assert abs(first.size_at_equal_size - 0.5) < first.size_only - 0.5  # what matching leaves of size is less
    assert first.low <= first.value <= first.high and first.measure == "AUROC" and first.lesions == 40
    known = slice(3, None)
    assert second.value == pytest.approx(spearmanr((image + log_volume)[known], ratings["texture"][known]).statistic)
    assert second.equal_size > 0.4 and second.lesions == 37 and second.size_at_equal_size is None


def test_attributes_without_a_figure_are_named(sized):
    nothing = np.zeros((40, 2))
    judgement = Judgement(("malignancy", "texture"), nothing, nothing)
    ratings = {"malignancy": np.full(40, 1.5), "texture": np.arange(40) % 5 + 1.0}
    rows, notes = judge_rows(judgement, sized, ratings, "exclude_between", "test", 20, 0)
    assert rows == []
    assert notes[0] == "test: no figure of the judge for malignancy, all 40 rated lesions are alike"
    assert notes[1] == "test: no figure of the judge for texture, it says the same of all"
