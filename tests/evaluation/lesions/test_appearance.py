from dataclasses import replace

import numpy as np
import pytest

from evaluation.lesions.appearance import appearance_features, appearance_matrix, volume_mm3
from imaging.window import to_norm


def flat(lesion, inside_hu=35.0, outside_hu=-850.0):
    """The lesion's mask filled with one value, in a constant lung."""
    return replace(lesion, ct_hu=np.where(lesion.lesion_mask, inside_hu, outside_hu).astype(np.float32))


def test_figures_of_a_flat_lesion_are_those_of_its_two_levels(make_lesion):
    found = appearance_features(flat(make_lesion(1)))
    tissue, lung = to_norm(np.array([35.0, -850.0]))
    for name in ("p5", "p95", "mean", "shell3"):
        assert found[name] == pytest.approx(tissue, abs=1e-5)
    for name in ("shell4", "shell7"):
        assert found[name] == pytest.approx(lung, abs=1e-5)
    assert found["contrast"] == pytest.approx(tissue - lung, abs=1e-5)
    assert (found["filled"], found["beyond"], found["deviation"], found["bright"]) == (1, 0, 0, 0)
    assert found["detail_fine"] > np.log(1e-2)  # the step at the border is detail inside, too
    hollow = appearance_features(flat(make_lesion(1), inside_hu=300, outside_hu=-1000))
    assert hollow["bright"] == 1 and hollow["dark"] == 0


def test_turned_and_mirrored_lesions_look_the_same(make_lesion):
    lesion = make_lesion(2, shape=(25, 27, 29))
    turned = replace(
        lesion,
        **{
            name: getattr(lesion, name).transpose(2, 0, 1)[::-1].copy()
            for name in ("ct_hu", "lesion_mask", "valid_mask")
        },
    )
    first, second = appearance_features(lesion), appearance_features(turned)
    for name in ("mean", "deviation", "skewness", "bright", "p25"):
        assert second[name] == pytest.approx(first[name], rel=1e-5, abs=1e-5)
    for name in ("filled", "contrast"):  # what looks outside the mask may lose a rim of the cube
        assert second[name] == pytest.approx(first[name], abs=0.05)


def test_noise_blur_and_spikes_move_the_figures_that_are_named_after_them(make_lesion, blur):
    lesion = make_lesion(3)
    noise = 60 * np.random.default_rng(0).standard_normal(lesion.ct_hu.shape)
    plain = appearance_features(lesion)
    noisy = appearance_features(replace(lesion, ct_hu=(lesion.ct_hu + noise).astype(np.float32)))
    assert noisy["detail_fine"] > plain["detail_fine"] + 0.1 and noisy["rough_outside"] > plain["rough_outside"] + 0.3
    smooth = appearance_features(blur(lesion, 1.5))
    assert smooth["gradient_inside"] < plain["gradient_inside"] and smooth["detail_fine"] < plain["detail_fine"]
    ball = flat(lesion)
    centre = np.argwhere(lesion.lesion_mask).mean(0).round().astype(int)
    spiky = ball.ct_hu.copy()
    spiky[centre[0], centre[1]] = spiky[centre[0], :, centre[2]] = spiky[:, centre[1], centre[2]] = 35.0
    thorns = appearance_features(replace(ball, ct_hu=spiky))
    assert thorns["beyond"] > 0 and thorns["compactness"] > appearance_features(ball)["compactness"]


def test_a_lesion_of_one_voxel_has_finite_figures_and_its_volume(make_lesion):
    lesion = make_lesion(4)
    mask = np.zeros_like(lesion.lesion_mask)
    mask[12, 13, 14] = True
    single = replace(lesion, lesion_mask=mask, spacing_mm=(2.0, 0.5, 0.5))
    matrix, names = appearance_matrix([single, lesion])
    assert matrix.shape == (2, len(names)) and len(set(names)) == len(names) and np.isfinite(matrix).all()
    assert volume_mm3(single) == 0.5 and volume_mm3(lesion) == lesion.lesion_mask.sum()
