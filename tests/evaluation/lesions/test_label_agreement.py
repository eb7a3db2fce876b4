"""The label is the lesion: own outlines of balls whose size and place are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation.lesions.label_agreement import LabelAgreement, label_agreement, label_fault

MM = (1.0, 1.0, 1.0)


def ball(radius_mm=6.0, at=0.0, hu=20.0, noise_hu=15.0, size=40):
    """A ball in lung, blurred as a scanner blurs, and its true mask."""
    axis = np.arange(size) - (size - 1) / 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = z**2 + y**2 + (x - at) ** 2 <= radius_mm**2
    ct_hu = gaussian_filter(np.where(inside, hu, -850.0), 0.6)
    return ct_hu + np.random.default_rng(0).normal(0, noise_hu, ct_hu.shape), inside


def test_a_lesion_that_fills_its_label_agrees_with_it():
    found = label_agreement(*ball(), MM)
    assert found.dice > 0.97 and found.empty_share < 0.02
    assert found.contrast_hu == pytest.approx(870, abs=15)


def test_a_smaller_lesion_leaves_its_label_empty_and_loses_dice_by_its_volume():
    _, label = ball(radius_mm=6.0)
    ct_hu, lesion = ball(radius_mm=4.5)
    found = label_agreement(ct_hu, label, MM)
    assert found.dice == pytest.approx(2 * lesion.sum() / (lesion.sum() + label.sum()), abs=0.03)
    assert found.empty_share == pytest.approx(1 - lesion.sum() / label.sum(), abs=0.03)


def test_where_there_is_no_lesion_nothing_agrees():
    ct_hu, label = ball(hu=-850.0)
    found = label_agreement(ct_hu, label, MM)
    assert (found.dice, found.empty_share) == (0, 1) and found.contrast_hu < 100


def test_a_lesion_without_lung_around_is_not_judged():
    ct_hu, label = ball()
    found = label_agreement(np.where(label, ct_hu, 40.0), label, MM)
    assert np.isnan(found[:3]).all() and label_fault(found) is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ((0.9, 0.02, 800.0, 20.0), None),
        ((0.0, 1.0, 30.0, -840.0), "not visible"),
        ((0.85, 0.15, 800.0, 20.0), "label partly empty"),
        ((0.7, 0.05, 800.0, 20.0), "not where its label is"),
        ((0.7, 0.25, 250.0, -600.0), None),  # of ground glass the border is no sharp one
        ((0.7, 0.35, 250.0, -600.0), "label partly empty"),
    ],
)
def test_each_fault_has_its_reason(found, reason):
    fault = label_fault(LabelAgreement(*found))
    assert (fault and fault[0]) == reason
    assert label_fault(LabelAgreement(*found), least_dice=0) is None
