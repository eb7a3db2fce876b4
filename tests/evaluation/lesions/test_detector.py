"""The detector: what its figures say of known lesions, and that it finds what differs and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation.lesions.detector import detect, held_out_scores, paired_by_mask
from evaluation.lesions.detector_figures import FIGURES, detector_figures
from evaluation.networks.detector_net import network_scores
from evaluation.statistics.agreement import auroc


def figures(lesion) -> dict[str, float]:
    return dict(zip(FIGURES, detector_figures(lesion), strict=True))


def ball(make_lesion, inside_hu: float, blur_mm: float = 0.0, radius: float = 7.0, size: int = 32):
    """A ball without noise, blurred by a Gaussian."""
    grid = np.stack(np.meshgrid(*3 * [np.arange(size) - size / 2 + 0.5], indexing="ij"))
    mask = (grid**2).sum(0) <= radius**2
    ct_hu = (
        gaussian_filter(np.where(mask, inside_hu, -850.0), blur_mm) if blur_mm else np.where(mask, inside_hu, -850.0)
    )
    return replace(make_lesion(0), ct_hu=ct_hu.astype(np.float32), lesion_mask=mask, valid_mask=np.ones_like(mask))


def test_figures_of_a_clean_ball_are_those_of_its_two_values(make_lesion):
    found = figures(ball(make_lesion, 50.0))
    assert found["p5_hu"] == found["p95_hu"] == 50
    assert [found["deviation_hu"], found["core_deviation"]] == pytest.approx([0, 0], abs=1e-9)
    assert found["step_at_+0_mm"] == pytest.approx(-900) and found["step_at_-2_mm"] == found["step_at_+2_mm"] == 0
    assert found["share_at_lung"] == 0 and found["overshoot"] == 0
    soft = figures(ball(make_lesion, 50.0, blur_mm=1.5))
    assert soft["rim_gradient_p95"] < 0.6 * found["rim_gradient_p95"]
    assert soft["step_at_-1_mm"] < -50 and soft["rim_detail_1_mm"] < 0.5 * found["rim_detail_1_mm"]
    ground_glass = figures(ball(make_lesion, -600.0))
    assert np.isnan(ground_glass["core_deviation"])


def test_what_is_not_valid_does_not_count(make_lesion):
    lesion = make_lesion(1)
    valid = lesion.valid_mask.copy()
    valid[:, :, 21:] = False
    torn = replace(lesion, valid_mask=valid, ct_hu=np.where(valid, lesion.ct_hu, 3000).astype(np.float32))
    other = replace(lesion, valid_mask=valid, ct_hu=np.where(valid, lesion.ct_hu, 2000).astype(np.float32))
    for name in ("relative_detail_0.6_mm", "share_at_lung", "step_at_+2_mm"):
        assert figures(torn)[name] == pytest.approx(figures(other)[name], rel=0.02), name


def test_equal_sets_are_not_told_apart_and_blurred_ones_are_by_their_detail(make_lesion, blur):
    real = [make_lesion(n, patient=f"p{n // 2}") for n in range(24)]
    again = [replace(lesion, name=f"{lesion.name}_seed0") for lesion in real]
    same = detect("same", real, again)
    assert same.auroc == pytest.approx(0.5, abs=0.1) and same.low <= 0.5 <= same.high
    found = detect("blurred", real, [blur(lesion, 1.0) for lesion in real])
    assert found.auroc > 0.95 and found.low > 0.8 and (found.pairs, found.patients) == (24, 12)
    detail = {name: alone for name, alone in found.telltales if "detail" in name or "laplacian" in name}
    assert detail and max(detail.values()) < 0.2  # made ones have less of it
    assert sum(pairs for _, pairs, _ in found.by_diameter) == 24


def test_scores_of_a_patient_come_from_classifiers_that_have_not_seen_it():
    """Each patient has a signature that says made or real; what is learned of one says nothing of another."""
    rng = np.random.default_rng(0)
    patients = [f"p{n}" for n in range(20)]
    signature = rng.standard_normal((20, len(FIGURES)))
    sign = np.where(rng.random(20) < 0.5, 1.0, -1.0)[:, None]
    rows = np.concatenate([signature + 0.1 * sign, signature - 0.1 * sign])
    scores = held_out_scores(rows, np.arange(40) >= 20, 2 * patients, seed=0)
    assert auroc(scores, np.arange(40) >= 20) < 0.75
    with pytest.raises(ValueError, match="4 lesions of 4 patients, expected at least 10 of each kind and 5 patients"):
        held_out_scores(rows[:8], np.arange(8) >= 4, 2 * patients[:4], seed=0)


def test_each_mask_is_taken_once(make_lesion):
    real = [make_lesion(n) for n in range(3)]
    made = [replace(real[n], name=f"{real[n].name}_seed{k}") for n in (2, 0) for k in range(2)]
    kept, partners = paired_by_mask(real, made)
    assert [lesion.name for lesion in kept] == ["lesion000", "lesion002"]
    assert [lesion.name for lesion in partners] == ["lesion000_seed0", "lesion002_seed0"]


def test_the_network_finds_what_is_blurred_in_patients_that_it_has_not_seen(make_lesion, blur):
    real = [make_lesion(n) for n in range(18)]
    scores = network_scores(real, [blur(lesion, 1.0) for lesion in real], seed=0, epochs=8)
    assert auroc(scores, np.arange(36) >= 18) > 0.8
