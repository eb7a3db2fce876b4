import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import disk, polygon
from skimage.measure import find_contours

from imaging.semantic_map import (
    FIRST_NODULE,
    LABELS,
    LUNG,
    _close_and_fill,
    inpainting_map,
    lung_mask,
    semantic_map,
    tissue_threshold_hu,
)

SPACING = (2.5, 2.0, 2.0)


def make_thorax(depth=6):
    """Air, an elliptic body of 40 HU, two lungs with a vessel, a rib of 500 HU, and a gas bubble; and the two lungs."""
    ct_hu = np.full((depth, 120, 140), -1000.0)
    rows, cols = np.mgrid[:120, :140]
    ct_hu[:, ((rows - 60) / 50) ** 2 + ((cols - 70) / 62) ** 2 < 1] = 40
    lungs = np.zeros(ct_hu.shape, bool)
    for col in (42, 98):
        lungs[(slice(None), *disk((60, col), 22))] = True
    ct_hu[lungs] = -850
    ct_hu[(slice(None), *disk((60, 42), 2.5))] = 30
    ct_hu[:, 14:17, 60:80] = 500
    ct_hu[(slice(2, 4), *disk((96, 70), 4))] = -1000
    ct_hu[:, 100:104, 55:85] = -100
    return ct_hu + np.random.default_rng(0).normal(0, 15, ct_hu.shape), lungs


def test_labels_follow_tissue_lung_and_composition():
    ct_hu, lungs = make_thorax()
    lung = lung_mask(ct_hu, SPACING)
    dice = 2 * (lung & lungs).sum() / (lung.sum() + lungs.sum())
    assert dice > 0.98 and lung[:, 60, 42].all(), "the vessel belongs to the lung"
    lesion = np.zeros(ct_hu.shape, np.uint8)
    lesion[2:4, 55:60, 95:101] = 1
    solid = np.zeros_like(lesion)
    solid[2:4, 55:58, 95:101] = 1
    labels = semantic_map(ct_hu, lung, lesion, solid)
    assert labels.dtype == np.uint8
    for index, name in [
        ((2, 2, 2), "background"),
        ((2, 101, 70), "body"),
        ((2, 60, 70), "soft_tissue"),
        ((2, 15, 70), "high_dense"),
        ((2, 60, 60), "lung"),
        ((3, 96, 70), "background"),
        ((2, 57, 97), "solid_part"),
        ((2, 59, 97), "nonsolid_part"),
    ]:
        assert LABELS[labels[index]] == name, (index, name)
    np.testing.assert_array_equal(labels == LABELS.index("solid_part"), solid)
    np.testing.assert_array_equal(labels >= FIRST_NODULE, lesion)
    unspecified = semantic_map(ct_hu, lung, lesion)
    np.testing.assert_array_equal(unspecified == LABELS.index("lesion"), lesion)
    assert LABELS[6] == "lesion" and (unspecified < FIRST_NODULE)[lesion == 0].all()


def test_an_inpainting_map_has_the_lesions_parts_and_hides_what_is_painted_over():
    ct_hu, _ = make_thorax()
    lesion = np.zeros(ct_hu.shape, np.uint8)
    lesion[2:4, 55:60, 95:101] = 1
    paint = np.zeros_like(lesion)
    paint[1:5, 52:63, 92:104] = 1
    solid = lesion.copy()
    solid[2] = 0
    made = inpainting_map(ct_hu, lesion, paint, SPACING, solid_mask=solid)
    plain = inpainting_map(ct_hu, lesion, paint, SPACING)
    assert (made[2][lesion[2] > 0] == 5).all() and (made[3][lesion[3] > 0] == 7).all()
    assert (plain[lesion > 0] == 6).all()
    np.testing.assert_array_equal(made[lesion == 0], plain[lesion == 0])
    assert (made[(paint > 0) & (lesion == 0)] == LUNG).all()


def test_a_map_with_its_margin_shows_the_vessel_that_enters_it_and_not_what_the_lesion_held():
    spacing, lesion = (1.0, 1.0, 1.0), np.zeros((9, 40, 40), np.uint8)
    lesion[3:6, 17:23, 17:23] = 1
    apart_mm = ndimage.distance_transform_edt(lesion == 0)
    paint = (apart_mm <= 4).astype(np.uint8)
    ct_hu = np.full(lesion.shape, -850.0)
    ct_hu[:, :, :3] = 40  # the chest wall
    ct_hu[4, 20, 3:] = 30  # a vessel through the lesion
    labels = inpainting_map(ct_hu, lesion, paint, spacing, detailed_map=True)
    vessel = labels[4, 20]
    assert (vessel[3:15] == LABELS.index("soft_tissue")).all() and (vessel[25:] == LABELS.index("soft_tissue")).all()
    np.testing.assert_array_equal(labels >= FIRST_NODULE, lesion)
    assert labels[4, 25, 30] == LUNG

    other = np.where(apart_mm <= 1.5, 200.0, ct_hu)  # a denser lesion, its vessel and blurred border
    np.testing.assert_array_equal(inpainting_map(other, lesion, paint, spacing, detailed_map=True), labels)
    without = inpainting_map(ct_hu, lesion, paint, spacing)
    assert (without[4, 20, 10:36] != LABELS.index("soft_tissue")).all()  # vessels are lung there


def test_the_threshold_lies_between_lung_and_tissue():
    ct_hu, _ = make_thorax()
    assert -500 < tissue_threshold_hu(ct_hu) < -300
    with pytest.raises(ValueError, match=r"sampled values are all \[7"):
        tissue_threshold_hu(np.full((3, 8, 9), 7))


def test_closing_and_filling_equals_filling_the_marching_squares_contours():
    image = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(60, 75)), 3) > 0.02
    expected = np.zeros((62, 77), bool)
    for contour in find_contours(np.pad(image, 1).astype(float), 0.5):
        expected[polygon(contour[:, 0], contour[:, 1], expected.shape)] = True
    filled = image.copy()
    _close_and_fill(filled, 1e-6, (1.0, 1.0))
    np.testing.assert_array_equal(filled, expected[1:-1, 1:-1])


def test_a_crop_whose_lung_reaches_the_border_is_lung_and_outside_air_is_not():
    ct_hu, lungs = make_thorax()
    inner = (slice(None), slice(45, 75), slice(82, 112))
    assert lungs[inner].mean() > 0.9 and lung_mask(ct_hu[inner], SPACING, whole_scan=False)[lungs[inner]].all()
    outer = (slice(None), slice(30, 90), slice(95, 140))
    lung = lung_mask(ct_hu[outer], SPACING, whole_scan=False)
    assert (lung & lungs[outer]).sum() > 0.98 * lungs[outer].sum()
    assert not lung[:, :, -5:].any()


def test_padding_is_neither_lung_nor_in_the_way_of_finding_it():
    ct_hu, lungs = make_thorax()
    inner = (slice(None), slice(45, 75), slice(82, 112))
    around = ((3, 4), (9, 8), (7, 12))
    padded = np.pad(ct_hu[inner], around, constant_values=-1024)
    valid_mask = np.pad(np.ones(ct_hu[inner].shape, np.uint8), around)
    lung = lung_mask(padded, SPACING, whole_scan=False, valid_mask=valid_mask)
    np.testing.assert_array_equal(lung, np.pad(lungs[inner], around))
    np.testing.assert_array_equal(semantic_map(padded, lung) == LUNG, lung)


def test_a_crop_of_pure_tissue_or_of_one_value_has_no_lung():
    tissue = np.random.default_rng(0).normal(40, 20, (5, 16, 18))
    assert not lung_mask(tissue, SPACING, whole_scan=False).any()
    assert not lung_mask(np.zeros((3, 8, 9)), SPACING).any()


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="lesion_mask has shape"):
        semantic_map(np.zeros((2, 3, 4)), np.zeros((2, 3, 4), bool), np.zeros((2, 3, 5)))
    assert LABELS[LUNG] == "lung"
