"""Variants of a nodule: each symmetry once, surroundings that are forgotten as a scan ends, regions to paint."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from imaging.dataset.variants import SYMMETRIES, nodule_variant, turned_array, usual_variant, without_surroundings
from imaging.lesions.mask import grown_mask

SIZE = 20


def nodule(valid: bool = True) -> dict:
    random = np.random.default_rng(0)
    lesion_mask, valid_mask = np.zeros((SIZE,) * 3, np.uint8), np.ones((SIZE,) * 3, np.uint8)
    lesion_mask[8:12, 7:12, 8:14] = 1
    if not valid:
        valid_mask[:3] = 0
    ct_hu = random.integers(-900, 100, (SIZE,) * 3).astype(np.int16)
    spacing_mm = np.ones(3, np.float32)
    return {"ct_hu": ct_hu, "lesion_mask": lesion_mask, "valid_mask": valid_mask, "spacing_mm": spacing_mm}


def test_symmetries_are_the_sixteen_that_keep_z_upright():
    array = np.random.default_rng(1).random((4, 4, 4))
    made = [turned_array(array, *symmetry) for symmetry in SYMMETRIES]
    group = [np.rot90(half, k, (1, 2)) for half in (array, array[:, ::-1]) for k in range(4)]
    group += [np.flip(member, 0) for member in group]
    assert len(made) == len(group) == 16
    for member in group:
        assert sum(np.array_equal(member, one) for one in made) == 1


def test_surroundings_that_are_forgotten_repeat_the_edge_of_what_is_known():
    row = nodule()
    margins = np.array([[0, 1], [2, 30], [3, 0]])
    ct_hu, valid_mask = without_surroundings(row["ct_hu"], row["valid_mask"], row["lesion_mask"], margins)
    known = np.zeros((SIZE,) * 3, np.uint8)
    known[8:13, 5:20, 5:14] = 1
    np.testing.assert_array_equal(valid_mask, known)
    np.testing.assert_array_equal(ct_hu[known > 0], row["ct_hu"][known > 0])
    clipped = np.ix_(*(np.clip(np.arange(SIZE), a, b) for a, b in ((8, 12), (5, 19), (5, 13))))
    np.testing.assert_array_equal(ct_hu, row["ct_hu"][clipped])


@pytest.mark.parametrize("margin_mm", [-2.0, -0.5, 0.0, 1.0, 2.5])
def test_a_mask_grows_and_shrinks_by_a_ball(margin_mm):
    mask = nodule()["lesion_mask"]
    spacing_mm = (1.0, 0.5, 0.8)
    offsets = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1) * spacing_mm
    ball = (offsets**2).sum(-1) <= margin_mm**2
    expected = binary_dilation(mask, ball) if margin_mm >= 0 else binary_erosion(mask, ball)
    np.testing.assert_array_equal(grown_mask(mask, margin_mm, spacing_mm), expected if expected.any() else mask)
    np.testing.assert_array_equal(grown_mask(mask, -50, spacing_mm), mask)


def test_variants_keep_the_lesion_and_vary_what_is_painted():
    row, foreign = nodule(), np.roll(nodule()["lesion_mask"], 4, 0)
    margins, unknown, joined = set(), 0, 0
    for number in range(200):
        made = nodule_variant(row, ("", False), np.random.default_rng(number), 2.0, foreign)
        np.testing.assert_array_equal(made["lesion_mask"], row["lesion_mask"])
        known = made["valid_mask"] > 0
        assert known[row["lesion_mask"] > 0].all() and not made["paint_mask"][~known].any()
        np.testing.assert_array_equal(made["ct_hu"][known], row["ct_hu"][known])
        unknown += not known.all()
        joined += bool(made["paint_mask"][17, 9, 10])  # only the other lesion reaches there
        margins.add(int(made["paint_mask"].sum()))
    assert 40 < unknown < 100 and 10 < joined < 50 and len(margins) > 20
    usual = usual_variant(row, 2.0)
    np.testing.assert_array_equal(usual["paint_mask"], grown_mask(row["lesion_mask"], 2.0, (1, 1, 1)))
    boxed = nodule(valid=False)
    made = nodule_variant(boxed, ("", False), np.random.default_rng(0), 2.0)
    np.testing.assert_array_equal(made["valid_mask"], boxed["valid_mask"])  # what is a box already is not cut again


def test_turned_variant_is_the_variant_turned():
    row = nodule(valid=False)  # a crop that the scan fills may lose its surroundings, drawn along the turned axes
    plain, turned = (nodule_variant(row, s, np.random.default_rng(3), 2.0) for s in (("", False), ("zx", True)))
    for name in ("lesion_mask", "paint_mask"):
        np.testing.assert_array_equal(turned_array(plain[name], "zx", True), turned[name])
