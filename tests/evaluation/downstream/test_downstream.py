"""Downstream networks: figures against references, fair batches, pasted copies, and a run that is cut off."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import f1_score, roc_auc_score

from evaluation.downstream.arms import ARMS, draw_batch
from evaluation.downstream.comparison import arm_figures
from evaluation.downstream.crops import Crop, pasted, share_of_patients, window_of
from evaluation.downstream.experiment import Cell, cells_of
from evaluation.downstream.tasks import TASKS, detection_outcome, froc, heat_map, segmentation_outcome
from foundation.claimed_folder import folder_lock
from imaging.dataset.nodules import save_nodule_dataset
from imaging.phantom.chest import phantom_nodules
from scripts.evaluate_downstream import DownstreamConfig, main

EDGE = 40


def crop_of(number: int, centre: tuple[int, int, int] = (20, 20, 20), radius: float = 4.0) -> Crop:
    """A ball in noisy lung."""
    random = np.random.default_rng(number)
    distance = np.linalg.norm(np.indices(3 * (EDGE,)).T - np.array(centre), axis=-1).T
    mask = distance <= radius
    hu = gaussian_filter(np.where(mask, 0.0, -860.0), 0.7) + 20 * random.standard_normal(mask.shape)
    valid = np.ones(mask.shape, bool)
    return Crop(f"n{number}", f"p{number // 2}", hu.astype(np.int16), mask, valid, (1.0, 1.0, 1.0), number % 2 == 0)


class Threshold(torch.nn.Module):
    """Says lesion above -430 HU."""

    def forward(self, ct_norm):
        return 10 * (ct_norm + 0.04)


def test_the_dice_of_a_threshold_is_that_of_scikit_learn():
    crop = crop_of(0)
    ct, lesion, _ = window_of(crop, np.full(3, 4), 32)
    expected = f1_score(lesion.ravel() > 0, (ct > -0.04).ravel())
    assert segmentation_outcome(Threshold(), crop)["dice"] == pytest.approx(expected)
    assert 0.5 < expected < 1


def test_a_network_whose_heat_is_at_the_lesion_hits_it_and_one_elsewhere_does_not():
    crop = crop_of(0, centre=(12, 20, 25))
    here, elsewhere = torch.from_numpy(heat_map(crop.lesion_mask)), torch.from_numpy(heat_map(crop_of(1).lesion_mask))
    for heat, hit in ((here, True), (elsewhere, False)):
        outcome = detection_outcome(lambda ct, heat=heat: torch.logit(heat.clamp(1e-6, 1 - 1e-6))[None, None], crop)
        assert (outcome["hit"] > 0.9) == hit
        assert (max(outcome["false"], default=0.0) > 0.9) != hit


def test_froc_counts_false_positives_per_crop():
    outcomes = [{"hit": 0.9, "false": [0.8, 0.1]}, {"hit": 0.5, "false": [0.6]}, {"hit": 0.0, "false": [0.3]}]
    # none allowed: above 0.8, one of three; one (1/3 per crop): above 0.6; two: above 0.3; all: what has any score
    assert froc(outcomes, (0.0, 1 / 3, 2 / 3, 2.0)).tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_the_classification_figure_is_scikit_learns():
    random = np.random.default_rng(0)
    outcomes = [{"score": float(random.normal() + k % 2), "malignant": bool(k % 2)} for k in range(40)]
    expected = roc_auc_score([o["malignant"] for o in outcomes], [o["score"] for o in outcomes])
    assert TASKS["classification"].figure(outcomes) == pytest.approx(expected)


def test_a_batch_has_the_shares_of_its_arm_and_holds_the_lesion():
    sources = {"real": [crop_of(0)], "synthetic": [crop_of(1)], "pasted": [crop_of(2)]}
    batch = draw_batch(ARMS["synthetic"], sources, 400, 32, 0.0, 8.0, np.random.default_rng(0))
    names = [crop.name for *_, crop in batch]
    assert set(names) == {"n0", "n1"} and 150 < names.count("n0") < 250
    assert all(lesion.sum() == crop.lesion_mask.sum() for _, lesion, _, crop in batch)


def test_a_larger_share_of_patients_holds_the_smaller_one():
    crops = [crop_of(number) for number in range(40)]
    few, many = ({crop.name for crop in share_of_patients(crops, share, 3)} for share in (0.2, 0.5))
    assert few < many and len(few) == 8 and len(many) == 20


def test_a_pasted_lesion_is_the_lesion_in_another_patients_lung(monkeypatch):
    from evaluation.lesions import free_sites

    monkeypatch.setattr(free_sites, "lung_mask", lambda ct, *_, **__: np.ones(ct.shape, bool))
    crops = [crop_of(0, radius=3.0), crop_of(2, centre=(8, 8, 8), radius=3.0)]  # of two patients
    first = next(crop for crop in pasted(crops, 0) if crop.name == "n0_pasted")
    assert first.patient_id == "p0" and first.lesion_mask.sum() == crops[0].lesion_mask.sum()
    inside = np.sort(first.ct_hu[first.lesion_mask])
    assert np.array_equal(inside, np.sort(crops[0].ct_hu[crops[0].lesion_mask]))


def test_the_gain_is_the_difference_of_the_arms_and_its_interval_holds_what_was_put_in():
    random = np.random.default_rng(0)
    base = random.uniform(0.5, 0.7, (3, 60))
    outcomes = {
        Cell("segmentation", arm, 1.0, seed): [{"dice": float(value + more)} for value in base[seed]]
        for arm, more in (("real", 0.0), ("synthetic", 0.05))
        for seed in range(3)
    }
    patients = {"segmentation": [f"p{k // 2}" for k in range(60)]}
    plain, synthetic = arm_figures(outcomes, patients, 200, random)
    assert plain.figure[0] == pytest.approx(base.mean()) and plain.gain is None
    assert plain.figure[1] < base.mean() < plain.figure[2]
    assert synthetic.gain == pytest.approx((0.05, 0.05, 0.05), abs=1e-9)  # the same draws for both
    wrong = {cell: list(rows)[1:] for cell, rows in outcomes.items()}
    with pytest.raises(ValueError, match="59 test crops, expected 60"):
        arm_figures(wrong, patients, 10, random)


def test_an_arm_without_real_lesions_is_trained_once():
    cells = cells_of(["detection"], ["real", "synthetic_only"], (0.1, 1.0), 2)
    assert [cell.fraction for cell in cells if cell.arm == "synthetic_only"] == [1.0, 1.0]
    assert len({cell.file for cell in cells}) == len(cells) == 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downstream") / "nodules"
    splits = ("train", "validation")
    rows = ({**row, "split": splits[index // 6 % 2]} for index, row in enumerate(phantom_nodules(24, 32)))
    save_nodule_dataset(rows, folder, 32)
    return folder


@pytest.mark.slow
def test_a_run_that_is_cut_off_is_continued_and_reported(data, tmp_path, capsys):
    out = tmp_path / "out"
    config = DownstreamConfig(
        data=data, synthetic=(data,), out=out, tasks=("segmentation", "detection"), arms=("real", "synthetic"),
        fractions=(1.0,), seeds=1, steps=2, batch_size=2, resamples=10, stop_after=1, threads=1,
    )  # fmt: skip
    main(config)
    assert "1 of 4 trainings" in capsys.readouterr().out
    first = {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*_0.json")}
    with folder_lock(out / "cells", "detection_real_1_0.json"):  # another process is at it
        main(replace(config, stop_after=None))
    assert "3 of 4 trainings" in capsys.readouterr().out
    main(replace(config, stop_after=None))
    assert {path: (out / "cells" / path).stat().st_mtime_ns for path in first} == first
    report = json.loads((out / "report.json").read_text())
    assert len(report["figures"]) == 4 and not report["left_out"]
    assert (out / "segmentation.png").is_file() and (out / "report.html").is_file()
    with pytest.raises(ValueError, match="steps"):
        main(replace(config, steps=3))


def test_sets_that_share_patients_or_differ_in_spacing_are_refused(data, tmp_path):
    from scripts.evaluate_downstream import check_alike, check_apart

    with pytest.raises(ValueError, match="patient p0 is in the training"):
        check_apart([crop_of(0)], [crop_of(1)])
    with pytest.raises(ValueError, match="expected one"):
        check_alike([crop_of(0), replace(crop_of(1), spacing_mm=(2.0, 1.0, 1.0))])
    with pytest.raises(ValueError, match="fractions"):
        DownstreamConfig(data=data, synthetic=(data,), out=tmp_path, fractions=(0.0,))
