"""What passes: measured as the real lesions were, and each limit with its reason."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.lesions.acceptance import Acceptance
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.real_lesions import load_real_lesions
from imaging.lesions.measured_attributes import measured_attributes

SIZE = 32


@pytest.fixture(scope="module")
def acceptance() -> Acceptance:
    return Acceptance(load_real_lesions(), SIZE, 1.0, hu_tolerance=100.0, least_plausibility=0.05)


def test_a_crop_on_the_models_grid_is_measured_as_it_is(acceptance, make_lesion):
    lesion = make_lesion(1, shape=(SIZE, SIZE, SIZE))
    ct_hu, mask = np.rint(lesion.ct_hu).astype(np.int16), lesion.lesion_mask.astype(np.uint8)
    found = acceptance.measure(sitk.GetImageFromArray(ct_hu), sitk.GetImageFromArray(mask))
    expected = measured_attributes(ct_hu, mask)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    same = Lesion("a", "b", ct_hu.astype(np.float32), mask > 0, np.ones_like(mask, bool), (1.0, 1.0, 1.0))
    assert found["distance"] == pytest.approx(acceptance.real.distances([same])[0])
    assert found["plausibility"] == acceptance.real.plausibility(np.array([found["distance"]]))[0]


def test_each_limit_has_its_reason(acceptance):
    measured = {"mean_hu": -300.0, "plausibility": 0.5, "grid_share": 1.0, "around_hu": -850.0}
    assert acceptance.fault(measured, {}) is acceptance.fault(measured, {"mean_hu": -390.0}) is None
    assert acceptance.fault(measured, {"mean_hu": -401.0}) == ("HU not as requested", "mean -300 HU for -401 HU")
    unlikely = {**measured, "plausibility": 0.01}
    assert acceptance.fault(unlikely, {}) == ("implausible", "0.010, least 0.05")
    free = replace(acceptance, hu_tolerance=None, least_plausibility=0.0)
    assert free.fault(unlikely, {"mean_hu": 300.0}) is None


def test_what_does_not_follow_its_label_is_rejected_if_that_is_looked_at(acceptance):
    measured = {"mean_hu": 0.0, "plausibility": 0.5, "p50_hu": 10.0}
    measured |= {"label_dice": 0.7, "empty_share": 0.05, "contrast_hu": 800.0}
    assert acceptance.fault(measured, {}) is None
    strict = replace(acceptance, least_dice=0.8)
    assert strict.fault(measured, {}) == ("not where its label is", "Dice of its own outline 0.70, least 0.8")
    assert strict.fault(measured | {"label_dice": 0.81}, {}) is None


@pytest.mark.parametrize(("spacing_zyx", "least", "most"), [((1.0, 1.0, 1.0), 1.0, 1.0), ((3.0, 1.0, 1.0), 0.5, 0.8)])
def test_a_small_lesion_of_a_coarse_scan_may_be_as_faint_as_its_grid_makes_it(spacing_zyx, least, most):
    acceptance = Acceptance(load_real_lesions(), SIZE, 1.0, hu_tolerance=20.0, least_plausibility=0.0)
    size = [round(SIZE / spacing) + 1 for spacing in spacing_zyx]
    at_mm = [spacing * (np.arange(n) - n // 2) for spacing, n in zip(spacing_zyx, size, strict=True)]
    z, y, x = np.meshgrid(*at_mm, indexing="ij")
    mask = sitk.GetImageFromArray((z**2 + y**2 + x**2 <= 2.5**2).astype(np.uint8))
    mask.SetSpacing(spacing_zyx[::-1])
    lung = sitk.GetImageFromArray(np.full(size, -850, np.int16))
    lung.CopyInformation(mask)

    measured = acceptance.measure(lung, mask)
    share = measured["grid_share"]
    assert least <= share <= most + 1e-6
    assert measured["around_hu"] == -850
    faint = {**measured, "mean_hu": -850 + share * 650}  # what is left of a requested -200 HU
    assert acceptance.fault(faint, {"mean_hu": -200.0}) is None
    assert acceptance.fault({**faint, "mean_hu": faint["mean_hu"] - 21}, {"mean_hu": -200.0}) is not None


def test_a_lesion_whose_margin_ends_beyond_the_grid_is_measured_all_the_same():
    """In a run of 300 lesions one reached within 3 mm of the grid's border, and ended the run."""
    acceptance = Acceptance(load_real_lesions(), SIZE, 1.0, hu_tolerance=20.0, least_plausibility=0.0)
    ct_hu = np.full((SIZE + 16,) * 3, -850, np.int16)
    inside = np.zeros(ct_hu.shape, np.uint8)
    inside[20:30, 10:-10, 20:30] = 1  # the grid ends two voxels from both ends
    ct, mask = sitk.GetImageFromArray(np.where(inside, 0, ct_hu).astype(np.int16)), sitk.GetImageFromArray(inside)
    measured = acceptance.measure(ct, mask)
    assert measured["grid_share"] == pytest.approx(1.0) and measured["mean_hu"] == 0
