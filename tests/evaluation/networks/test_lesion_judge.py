import json

import numpy as np
import pytest
import torch

from evaluation.lesions.appearance import appearance_matrix
from evaluation.networks.lesion_judge import (
    RECORD,
    LesionJudge,
    judge_lesions,
    load_judge,
    save_judge,
)


@pytest.fixture
def lesions(make_lesion):
    return [make_lesion(n) for n in range(4)]


@pytest.fixture
def judge(lesions):
    torch.manual_seed(0)
    judge = LesionJudge(["malignancy", "texture"], appearance_matrix(lesions)[1], members=3, width=8)
    judge.size_slope.copy_(torch.tensor([2.0, -1.0]))
    judge.size_offset.copy_(torch.tensor([-3.0, 5.0]))
    judge.unit.copy_(torch.tensor([1.0, 4.0]))
    return judge


def test_a_verdict_is_a_line_in_log_volume_and_the_average_of_the_members(judge, lesions):
    said = judge_lesions(judge, lesions)
    log_volume = np.log([lesion.lesion_mask.sum() for lesion in lesions])
    np.testing.assert_allclose(said.size, np.outer(log_volume, [2, -1]) + np.array([-3, 5]), rtol=1e-5)
    inputs = torch.from_numpy(np.c_[appearance_matrix(lesions)[0], log_volume]).float().clamp(-4, 4)
    alone = np.mean([member(inputs).detach().numpy() for member in judge.eval().members], axis=0)
    np.testing.assert_allclose(said.appearance, alone * [1, 4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(said.whole("texture"), said.size[:, 1] + said.added("texture"))


def test_saved_and_loaded_it_says_the_same_and_keeps_its_record(judge, lesions, tmp_path):
    save_judge(tmp_path / "judge", judge, {"patients": ["one"], "label_policy": "exclude_between"})
    loaded, record = load_judge(tmp_path / "judge")
    np.testing.assert_array_equal(judge_lesions(loaded, lesions).appearance, judge_lesions(judge, lesions).appearance)
    assert record["patients"] == ["one"] and loaded.attributes == ("malignancy", "texture")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_figures_far_from_real_ones_are_taken_as_far_and_no_farther(judge, lesions):
    features = torch.from_numpy(appearance_matrix(lesions)[0]).float()
    log_volume = torch.ones(len(lesions))
    judge.eval()
    far, farther = judge(features + 1e3, log_volume), judge(features + 1e6, log_volume)
    assert torch.equal(far, farther)


def test_what_is_no_judge_or_knows_other_figures_is_refused(judge, lesions, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: holds no judge .*; train one with"):
        load_judge(tmp_path / "nowhere")
    save_judge(tmp_path / "judge", judge, {})
    record = json.loads((tmp_path / "judge" / RECORD).read_text())
    (tmp_path / "judge" / RECORD).write_text(json.dumps(record | {"attributes": ["malignancy"]}))
    with pytest.raises(ValueError, match="holds no judge"):
        load_judge(tmp_path / "judge")
    with pytest.raises(ValueError, match="trained on other figures of appearance"):
        judge_lesions(LesionJudge(["texture"], judge.features[:-1]), lesions)
