"""Resampled variants: geometry against known balls, one interpolation keeps noise, conditions are 0 where plain."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from imaging.dataset.augmentation import (
    AUGMENTATION,
    TILT_DEGREES,
    Deformation,
    draw_deformation,
    resampled,
    sharpened,
    shifted_density,
)
from imaging.geometry import sample_grid

OWN, OWN_MM, SIZE, MM = 40, 0.7, 24, 1.0  # the fine grid and the model's


def places_mm(size, mm):
    axis = (np.arange(size) - (size - 1) / 2) * mm
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def nodule(centre_mm=(0, 0, 0), radius_mm=5.0):
    far = np.linalg.norm(places_mm(OWN, OWN_MM) - centre_mm, axis=-1)
    lesion = (far <= radius_mm).astype(np.uint8)
    return {
        "ct_hu": np.rint(-850 + 880 / (1 + np.exp((far - radius_mm) / 0.5))).astype(np.int16),
        "lesion_mask": lesion,
        "solid_mask": (lesion & (far <= radius_mm / 2)).astype(np.uint8),
        "valid_mask": np.ones_like(lesion),
        "spacing_mm": np.full(3, OWN_MM, np.float32),
    }


def ball(mask):
    """Centre and radius, mm."""
    where = mask > 0
    return places_mm(SIZE, MM)[where].mean(0), np.cbrt(3 * where.sum() * MM**3 / (4 * np.pi))


@pytest.mark.parametrize("zoom", [0.7, 1.0, 1.4])
def test_a_zoomed_ball_has_the_zoomed_radius_and_stays_where_it_is(zoom):
    made = resampled(nodule(), Deformation(zoom=zoom), SIZE, MM)
    centre, radius_mm = ball(made["lesion_mask"])
    np.testing.assert_allclose(centre, 0, atol=0.05)
    assert radius_mm == pytest.approx(5 * zoom, abs=0.25)
    assert ball(made["solid_mask"])[1] == pytest.approx(2.5 * zoom, abs=0.25)
    assert made["ct_hu"][SIZE // 2, SIZE // 2, SIZE // 2] == pytest.approx(30, abs=15)
    border = made["ct_hu"][np.abs(np.linalg.norm(places_mm(SIZE, MM), axis=-1) - 5 * zoom) < 0.2]
    assert border.mean() == pytest.approx(-410, abs=60)


@pytest.mark.parametrize(
    ("euler", "mirror"), [((90, 0, 0), ""), ((33, 0, 0), "x"), ((0, 10, 0), "zy"), ((200, -7, 5), "z")]
)
def test_a_turned_ball_is_where_the_rotation_brings_it(euler, mirror):
    centre_mm = np.array([3.0, -2.0, 4.0])
    turned = Rotation.from_euler("ZYX", euler, degrees=True).as_matrix()[::-1, ::-1]
    rotation = np.diag([-1.0 if axis in mirror else 1.0 for axis in "zyx"]) @ turned
    made = resampled(nodule(centre_mm, 3.0), Deformation(rotation=rotation), SIZE, MM)
    centre, radius_mm = ball(made["lesion_mask"])
    np.testing.assert_allclose(centre, np.linalg.inv(rotation) @ centre_mm, atol=0.1)
    assert radius_mm == pytest.approx(3, rel=0.04)


def test_bending_moves_voxels_by_what_its_knots_say_and_not_the_centre():
    knots_mm = np.zeros((3, 5, 5, 5))
    knots_mm[2] = np.linspace(-2, 2, 5)  # stretches x about the centre: what is seen at x lies at x + bend
    made = resampled(nodule((0, 0, 4), 3.0), Deformation(knots_mm=knots_mm, elastic=1.0), SIZE, MM)
    (z, y, x), _ = ball(made["lesion_mask"])
    slope = 4 / ((SIZE - 1) * MM)
    np.testing.assert_allclose([z, y], 0, atol=0.1)
    assert x == pytest.approx(4 / (1 + slope), abs=0.15)


def test_beyond_the_nodules_own_crop_nothing_is_valid_and_its_edge_is_repeated():
    row = nodule()
    row["ct_hu"][:, :, -8:] = 111
    made = resampled(row, Deformation(zoom=0.7), SIZE, MM)
    inside_mm = np.abs(places_mm(SIZE, MM)).max(-1) <= 0.7 * (OWN - 1) / 2 * OWN_MM
    np.testing.assert_array_equal(made["valid_mask"] > 0, inside_mm)
    assert (made["ct_hu"][:, :, -1] == 111).all()
    row["valid_mask"][:12] = 0
    half = resampled(row, Deformation(), SIZE, MM)
    lost = places_mm(SIZE, MM)[..., 0] < (11.5 - (OWN - 1) / 2) * OWN_MM
    np.testing.assert_array_equal(half["valid_mask"] == 0, lost)
    assert not half["lesion_mask"][lost].any()


def test_the_plain_variant_keeps_the_detail_of_sampling_the_scan_itself():
    """A scan of 0.62 mm, prepared at 0.7 mm and resampled from there, against the same scan sampled at 1 mm at once."""
    noise = gaussian_filter(np.random.default_rng(0).normal(0, 200, (60,) * 3), 0.7).astype(np.float32) - 800
    image = sitk.GetImageFromArray(noise)
    image.SetSpacing([0.62] * 3)
    middle = image.TransformContinuousIndexToPhysicalPoint([29.4] * 3)
    direct, _, _ = sample_grid(image, middle, SIZE, MM)
    fine, _, _ = sample_grid(image, middle, OWN, OWN_MM)
    made = resampled(nodule() | {"ct_hu": np.rint(fine)}, Deformation(), SIZE, MM)["ct_hu"]
    assert np.corrcoef(made.ravel(), direct.ravel())[0, 1] > 0.98

    def finest(values):
        """Power above 0.4 cycles a voxel along x."""
        spectrum = np.abs(np.fft.rfft(values - values.mean(), axis=2)) ** 2
        return spectrum[..., np.fft.rfftfreq(SIZE) >= 0.4].mean()

    assert 0.8 < finest(made) / finest(direct) < 1.4


@pytest.mark.parametrize("axis", [0, 2])
def test_thick_slices_are_not_smoothed_once_more(axis):
    """What a fine grid holds of thick slices is smooth along z already; in the plane it still has to be smoothed."""
    wave_hu = -800 + 100 * np.sin(2 * np.pi * places_mm(OWN, OWN_MM)[..., axis] / 3.5)
    rows = [nodule() | {"ct_hu": np.rint(wave_hu), "slice_mm": slice_mm} for slice_mm in (np.nan, OWN_MM, 1.25)]
    unknown, thin, thick = (resampled(row, Deformation(), SIZE, MM)["ct_hu"].std() / 70.7 for row in rows)
    variance = ((MM / OWN_MM) ** 2 - 1) / (8 * np.log(2))  # of the Gaussian, in voxels; it has three taps
    beside = np.exp(-1 / (2 * variance))
    smoothed = (1 + 2 * beside * np.cos(2 * np.pi * OWN_MM / 3.5)) / (1 + 2 * beside)
    assert unknown == thin == pytest.approx(smoothed, rel=0.02)
    assert thick == pytest.approx(1.0 if axis == 0 else smoothed, rel=0.02)


def test_a_lesion_of_one_voxel_does_not_vanish():
    row = nodule()
    row["lesion_mask"][:] = 0
    row["lesion_mask"][20, 20, 20] = 1
    assert resampled(row, Deformation(zoom=0.7), SIZE, MM)["lesion_mask"].any()


def test_density_shifts_lung_and_tissue_and_leaves_bone():
    ct_hu = np.array([-1020.0, -850.0, 0.0, 100.0, 200.0, 900.0])
    np.testing.assert_allclose(shifted_density(ct_hu, -30), [-1024, -880, -30, 85, 200, 900])
    assert shifted_density(ct_hu, 0) is ct_hu


def test_sharpness_blurs_below_zero_and_sharpens_above():
    noise = np.random.default_rng(0).normal(0, 50, (20,) * 3)
    stds = [sharpened(noise, s).std() for s in (-1, -0.5, 0, 0.5, 1)]
    assert stds == sorted(stds) and stds[0] < 0.7 * stds[2] and stds[4] > 1.3 * stds[2]
    assert sharpened(noise, 0) is noise
    np.testing.assert_allclose(sharpened(noise, 1).mean(), noise.mean(), atol=0.1)


def test_conditions_are_zero_for_plain_variants_and_in_their_units_for_others():
    assert Deformation(rotation=-np.eye(3)).conditions() == dict.fromkeys(AUGMENTATION, 0.0)
    made = Deformation(zoom=2**0.25, density_shift_hu=-25, sharpness=0.4, elastic=0.7).conditions()
    assert made == pytest.approx({"zoom": 0.25, "density_shift": -0.5, "sharpness": 0.4, "elastic": 0.7})


def test_draws_keep_their_ranges_and_leave_many_variants_plain_in_each_way():
    draws = [draw_deformation(np.random.default_rng(k), "", 10, 8, 48) for k in range(400)]
    zooms = np.array([draw.zoom for draw in draws])
    assert zooms.min() > 0.7 - 1e-9 and zooms.max() < 1.4 + 1e-9 and np.ptp(zooms) > 0.6
    assert 0.2 < (zooms == 1).mean() < 0.4
    for name in ("density_shift_hu", "sharpness", "elastic"):
        values = np.array([getattr(draw, name) for draw in draws])
        assert 0.4 < (values == 0).mean() < 0.6
    tilts = [np.degrees(np.arccos(abs(draw.rotation[0, 0]))) for draw in draws]
    assert max(tilts) <= np.sqrt(2) * TILT_DEGREES and np.median(tilts) > 2
    assert np.linalg.det(draws[0].rotation) == pytest.approx(1)
    assert np.linalg.det(draw_deformation(np.random.default_rng(0), "zyx", 10, 8, 48).rotation) == pytest.approx(-1)


def test_a_lesion_is_neither_zoomed_beyond_the_crop_nor_below_three_millimetres():
    assert max(draw_deformation(np.random.default_rng(k), "", 45, 30, 48).zoom for k in range(50)) <= 1
    assert min(draw_deformation(np.random.default_rng(k), "", 4, 3.6, 48).zoom for k in range(50)) >= 3 / 3.6 - 1e-9
