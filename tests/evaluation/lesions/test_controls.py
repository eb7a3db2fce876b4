"""Controls: the fault is where it should be, and the detector finds those that can be seen."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from autoencoder.identity import IdentityAutoencoder
from evaluation.lesions.controls import BLEND_MM, RECONSTRUCTED, changed_lesion, control_sets, without_noise
from evaluation.lesions.detector import detect, real_against_real


def test_a_change_fills_the_mask_and_fades_out_beside_it(make_lesion):
    lesion = make_lesion(0)
    made = changed_lesion(lesion, np.full(lesion.ct_hu.shape, 500.0))
    outside_mm = distance_transform_edt(~lesion.lesion_mask, sampling=lesion.spacing_mm)
    assert (made.ct_hu[lesion.lesion_mask] == 500).all()
    np.testing.assert_array_equal(made.ct_hu[outside_mm >= BLEND_MM], lesion.ct_hu[outside_mm >= BLEND_MM])
    share = (made.ct_hu - lesion.ct_hu) / (500 - lesion.ct_hu)
    near = (outside_mm > 0) & (outside_mm < BLEND_MM) & lesion.valid_mask
    np.testing.assert_allclose(share[near], 1 - outside_mm[near] / BLEND_MM, atol=1e-4)


def test_noise_is_removed_and_what_is_smooth_stays(make_lesion):
    lesion = make_lesion(1)
    smooth = gaussian_filter(np.where(lesion.lesion_mask, 0.0, -850.0), 1.5)
    noise = np.random.default_rng(0).normal(0, 30, smooth.shape)
    left = without_noise(type(lesion)(**{**vars(lesion), "ct_hu": smooth + noise})) - smooth
    assert left.std() < 0.5 * noise.std()


def test_the_reconstruction_is_the_autoencoders_whatever_the_crops_size(make_lesion):
    real = [make_lesion(n) for n in range(2)]
    vae = IdentityAutoencoder()
    made = dict(control_sets(real, vae))[RECONSTRUCTED]
    for lesion, copy in zip(real, made, strict=True):
        assert copy.ct_hu.shape == lesion.ct_hu.shape
        window_hu = np.clip(lesion.ct_hu, -1150, 350)
        np.testing.assert_allclose(copy.ct_hu[lesion.lesion_mask], window_hu[lesion.lesion_mask], atol=0.1)


def test_more_blur_is_more_easily_found_and_real_lesions_are_not(make_lesion, monkeypatch):
    monkeypatch.setattr("evaluation.lesions.detector.REPEATS", 1)
    real = [make_lesion(n, patient=f"p{n // 2}") for n in range(24)]
    found = {label: detect(label, real[:12], made).auroc for label, made in control_sets(real[:12])}
    assert found["real, blurred 1 mm"] > 0.9
    assert found["real, blurred 1 mm"] > found["real, blurred 0.3 mm"]
    mean, low, high = real_against_real(real, halves=6)
    assert low <= 0.5 <= high and mean == pytest.approx(0.5, abs=0.15)
