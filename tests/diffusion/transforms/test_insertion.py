"""A pooled lesion in an array: what it changes, and what stays the scan's."""

import numpy as np
import pytest
from small_pool import LUNG_HU, WALL_HU, ball, chest

from diffusion.transforms.insertion import SOFT_TISSUE_HU, insert_lesions, pooled_lesion

SPACING_MM = (1.0, 1.0, 1.5)


def inserted(ct_hu, radius_mm=5.0, matrix=None, seed=0, **how):
    made, labels = ct_hu.copy(), np.zeros(ct_hu.shape, np.uint8)
    opacity = how.pop("opacity", 1.0)
    matrix = np.diag(SPACING_MM) if matrix is None else matrix
    assert insert_lesions(made, labels, matrix, [ball(radius_mm, opacity)], np.random.default_rng(seed), **how) == 1
    return made, labels > 0


def test_the_lesion_has_its_size_its_hu_and_the_noise_of_the_scan():
    ct_hu, lung = chest()
    made, label = inserted(ct_hu, seed=3)
    assert label.sum() * np.prod(SPACING_MM) == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.12)
    off_mm = (np.argwhere(label) - np.argwhere(label).mean(0)) * SPACING_MM
    core = tuple(np.argwhere(label)[np.linalg.norm(off_mm, axis=1) < 3].T)
    assert np.median(made[core]) == pytest.approx(SOFT_TISSUE_HU, abs=15)
    assert 12 < 1.4826 * np.median(np.abs(made[core] - np.median(made[core]))) < 40  # 25 HU in the scan
    assert (label & ~lung).sum() == 0


def test_nothing_far_from_the_lesion_changes():
    ct_hu, _ = chest()
    made, label = inserted(ct_hu)
    changed = np.argwhere(made != ct_hu)
    middle = np.argwhere(label).mean(0)
    assert np.linalg.norm((changed - middle) * SPACING_MM, axis=1).max() < 5 + 5


def test_ground_glass_adds_its_share_of_tissue_to_the_lung_and_nothing_to_a_vessel():
    ct_hu, _ = chest(noise_hu=0.0)
    for seed in range(6):
        made, label = inserted(ct_hu, 9.0, seed=seed, opacity=0.4)
        lung = label & (ct_hu == LUNG_HU)
        expected = LUNG_HU + 0.4 * (SOFT_TISSUE_HU - LUNG_HU)
        assert np.median(made[lung]) == pytest.approx(expected, abs=20)
        assert made[ct_hu == WALL_HU].max() < SOFT_TISSUE_HU + 15


def test_a_thick_slice_blurs_the_lesion_and_keeps_its_volume():
    thick = (1.0, 1.0, 5.0)
    ct_hu, _ = chest((72, 64, 16), thick, noise_hu=0.0)
    made, label = inserted(ct_hu, matrix=np.diag(thick), seed=1)
    air = ct_hu == LUNG_HU
    filled = (made - ct_hu)[air].sum() / (SOFT_TISSUE_HU - LUNG_HU) * np.prod(thick)
    assert filled == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.15)
    assert label.sum() * np.prod(thick) == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.4)


def test_mirrored_axes_in_another_order_get_the_same_lesion():
    ct_hu, _ = chest(noise_hu=0.0)
    turned = np.ascontiguousarray(ct_hu.transpose(2, 1, 0)[::-1])
    matrix = np.diag(SPACING_MM)[:, [2, 1, 0]] * [-1, 1, 1]
    _, label = inserted(turned, matrix=matrix, seed=2)
    assert label.sum() * np.prod(SPACING_MM) == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.12)


def test_instances_are_numbered_on_and_lie_apart_from_what_is_labelled():
    ct_hu, _ = chest()
    labels = np.zeros(ct_hu.shape, np.int16)
    labels[40:56, 20:44, 16:32] = 7
    made = insert_lesions(
        ct_hu, labels, np.diag(SPACING_MM), [ball(4), ball(4)], np.random.default_rng(0), label_value=None
    )
    assert made == 2 and set(np.unique(labels)) == {0, 7, 8, 9}
    assert (labels == 7).sum() == 16 * 24 * 16


def test_where_there_is_no_lung_nothing_changes_and_scaled_values_are_refused():
    for value in (40.0, -1000.0):
        nowhere = np.full((40, 40, 40), value, np.float32)
        nowhere += np.random.default_rng(0).normal(0, 5, nowhere.shape).astype(np.float32)
        before = nowhere.copy()
        assert insert_lesions(nowhere, None, np.eye(3), [ball(4)], np.random.default_rng(0)) == 0
        assert np.array_equal(before, nowhere)
    with pytest.raises(ValueError, match=r"span 0 to 1, expected a CT in HU; put the transform before"):
        scaled = np.linspace(0, 1, 8000, dtype=np.float32).reshape(20, 20, 20)
        insert_lesions(scaled, None, np.eye(3), [ball(4)], np.random.default_rng(0))


def test_a_painted_lesion_is_taken_from_its_surroundings_and_comes_back_in_other_lung():
    given, _ = chest((40, 40, 40), (1.0, 1.0, 1.0), noise_hu=10.0)
    given[:] = LUNG_HU + np.random.default_rng(1).normal(0, 10, given.shape)
    axis = np.arange(40) - 20
    far = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    painted = np.where(far <= 6, -200.0, np.where(far <= 8, -700.0, given)).astype(np.float32)
    lesion = pooled_lesion(painted, given, far <= 6)
    assert lesion is not None and lesion.radius_mm == pytest.approx(6, abs=0.1)
    ct_hu = np.full((64, 64, 64), -900, np.float32)
    labels = np.zeros(ct_hu.shape, np.uint8)
    assert insert_lesions(ct_hu, labels, np.eye(3), [lesion], np.random.default_rng(0)) == 1
    share = (-200 - LUNG_HU) / (SOFT_TISSUE_HU - LUNG_HU)
    assert np.median(ct_hu[labels > 0]) == pytest.approx(-900 + share * (SOFT_TISSUE_HU + 900), abs=20)
    assert pooled_lesion(given, given, far <= 6) is None  # nothing shows
