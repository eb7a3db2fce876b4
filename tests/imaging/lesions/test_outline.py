"""The border at half maximum: a blurred ball's true radius, whatever the contrast, the slices and the readers' mask."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from imaging.dataset.outlined import half_maximum_image
from imaging.lesions.outline import half_maximum_outline

LUNG_HU = -850.0


def scan(radius_mm, lesion_hu, spacing_mm, noise_hu=0.0, blur_mm=0.7, half_mm=14.0):
    """A ball in lung, seen by a scanner: blurred, averaged over its slices. (ct_hu, distance to the centre in mm)."""
    fine = 0.35
    shape = [int(2 * half_mm / mm) for mm in spacing_mm]
    factors = [max(1, round(mm / fine)) for mm in spacing_mm]
    axes = [(np.arange(n * f) - (n * f - 1) / 2) * mm / f for n, f, mm in zip(shape, factors, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    inside = (z**2 + y**2 + x**2 <= radius_mm**2).astype(np.float32)
    inside = gaussian_filter(inside, [blur_mm * f / mm for f, mm in zip(factors, spacing_mm, strict=True)])
    (d, a), (h, b), (w, c) = zip(shape, factors, strict=True)
    coarse = inside.reshape(d, a, h, b, w, c).mean((1, 3, 5))
    ct_hu = LUNG_HU + (lesion_hu - LUNG_HU) * coarse
    ct_hu += np.random.default_rng(0).normal(0, noise_hu, ct_hu.shape) if noise_hu else 0
    centres = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*centres, indexing="ij", sparse=True)
    return ct_hu.astype(np.float32), np.sqrt(z**2 + y**2 + x**2)


def as_image(array, spacing_mm):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm[::-1])
    image.SetOrigin((-31.0, 17.0, 5.0))
    return image


def radius_of(mask, voxel_mm3):
    return np.cbrt(3 * mask.sum() * voxel_mm3 / (4 * np.pi))


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 0.7), (1.25, 0.7, 0.7), (2.5, 0.7, 0.7)])
@pytest.mark.parametrize("lesion_hu", [40.0, -300.0, -600.0])
@pytest.mark.parametrize("reader_mm", [1.0, -0.5])
def test_a_blurred_balls_radius_is_found_within_0_3_mm(spacing_mm, lesion_hu, reader_mm):
    radius_mm = 5.0
    ct_hu, distance_mm = scan(radius_mm, lesion_hu, spacing_mm, noise_hu=30)
    consensus = (distance_mm <= radius_mm + reader_mm).astype(np.uint8)
    mask, outline = half_maximum_image(as_image(ct_hu, spacing_mm), as_image(consensus, spacing_mm))
    assert outline.fallback is None
    assert outline.lung_hu == pytest.approx(LUNG_HU, abs=15)
    found_mm = radius_of(sitk.GetArrayViewFromImage(mask), np.prod(mask.GetSpacing()))
    assert abs(found_mm - radius_mm) < 0.3
    indices = np.argwhere(sitk.GetArrayViewFromImage(mask)).mean(0)
    centre = mask.TransformContinuousIndexToPhysicalPoint(indices[::-1].tolist())
    image = as_image(ct_hu, spacing_mm)
    middle = [(n - 1) / 2 for n in image.GetSize()]
    np.testing.assert_allclose(centre, image.TransformContinuousIndexToPhysicalPoint(middle), atol=0.25)


def test_a_wall_behind_the_lesion_stays_out():
    spacing_mm = (0.7, 0.7, 0.7)
    ct_hu, distance_mm = scan(4.0, 30.0, spacing_mm)
    edge = int(np.ceil((ct_hu.shape[2] - 1) / 2 + 3.0 / 0.7))  # the lesion sits on it
    ct_hu[:, :, edge:] = 40.0
    consensus = (distance_mm <= 4.5) & (np.arange(ct_hu.shape[2]) < edge)
    outline = half_maximum_outline(ct_hu, consensus, spacing_mm)
    assert outline.fallback is None
    assert outline.mask[:, :, edge + 1 :].sum() == 0
    assert outline.mask[:, :, edge - 1].any()


def test_a_cavity_and_a_hole_belong_to_the_lesion():
    spacing_mm = (0.7, 0.7, 0.7)
    ct_hu, distance_mm = scan(8.0, 30.0, spacing_mm)
    ct_hu[distance_mm < 3] = -950.0
    outline = half_maximum_outline(ct_hu, distance_mm <= 9, spacing_mm)
    assert outline.fallback is None and outline.lesion_hu > -100
    assert outline.mask[distance_mm < 3].all()


def test_ground_glass_around_a_solid_core_is_kept_where_readers_saw_it():
    spacing_mm = (0.7, 0.7, 0.7)
    ct_hu, distance_mm = scan(8.0, -600.0, spacing_mm)
    core_hu, _ = scan(4.5, 30.0, spacing_mm)
    ct_hu = np.maximum(ct_hu, core_hu)
    consensus = distance_mm <= 8.5
    subsolid = half_maximum_outline(ct_hu, consensus, spacing_mm, texture=3)
    assert radius_of(subsolid.mask, 0.7**3) == pytest.approx(8.0, abs=0.3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ct_hu, _: np.full_like(ct_hu, 30.0), "no lung around"),
        (lambda ct_hu, _: np.full_like(ct_hu, LUNG_HU), "low contrast"),
        (lambda ct_hu, far: np.where(far < 2, 30.0, LUNG_HU), "volume changed too much"),
    ],
)
def test_where_no_border_is_found_the_readers_mask_is_kept_and_it_is_said_why(change, reason):
    spacing_mm = (0.7, 0.7, 0.7)
    ct_hu, distance_mm = scan(5.0, 30.0, spacing_mm)
    consensus = distance_mm <= 5.5
    outline = half_maximum_outline(change(ct_hu, distance_mm), consensus, spacing_mm)
    assert outline.fallback == reason
    np.testing.assert_array_equal(outline.mask, consensus)


def test_what_is_not_measured_is_no_lesion():
    spacing_mm = (0.7, 0.7, 0.7)
    ct_hu, distance_mm = scan(5.0, 30.0, spacing_mm)
    valid_mask = np.ones(ct_hu.shape, np.uint8)
    valid_mask[: ct_hu.shape[0] // 2 - 4] = 0
    consensus = (distance_mm <= 5.5) & (valid_mask > 0)
    outline = half_maximum_outline(ct_hu, consensus, spacing_mm, valid_mask=valid_mask)
    assert outline.fallback is None and not outline.mask[valid_mask == 0].any()


def test_an_empty_mask_and_another_shape_are_refused():
    ct_hu = np.zeros((4, 5, 6), np.float32)
    with pytest.raises(ValueError, match="consensus is empty"):
        half_maximum_outline(ct_hu, np.zeros((4, 5, 6)), (1, 1, 1))
    with pytest.raises(ValueError, match=r"consensus has shape \(4, 5, 7\)"):
        half_maximum_outline(ct_hu, np.ones((4, 5, 7)), (1, 1, 1))
