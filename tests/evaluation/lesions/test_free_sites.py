"""Places in lesion-free lung of other patients."""

import numpy as np
import pytest

from evaluation.lesions.free_sites import CLEAR_MM, fitting_places, free_site, placed_in
from imaging.lesions.mask import grown_mask

SHAPE = (40, 42, 44)


def host(patient: str, seed: int) -> dict:
    """Noisy lung with a wall of tissue at high x and a lesion at low x."""
    rng = np.random.default_rng(seed)
    ct_hu = -850 + 30 * rng.standard_normal(SHAPE)
    ct_hu[:, :, 36:] = 40
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[18:23, 18:23, 6:11] = 1
    ct_hu[lesion > 0] = 20
    return {
        "nodule_id": f"{patient}_1",
        "patient_id": patient,
        "ct_hu": np.rint(ct_hu).astype(np.int16),
        "lesion_mask": lesion,
        "valid_mask": np.ones(SHAPE, np.uint8),
        "spacing_mm": np.ones(3, np.float32),
    }


def test_places_are_those_where_all_of_the_mask_is_free():
    free = np.zeros((8, 9, 10), bool)
    free[2:7, 3:7, 1:8] = True
    mask = np.ones((3, 2, 5), bool)
    expected = [
        (z + 1, y + 1, x + 2)
        for z in range(6)
        for y in range(8)
        for x in range(6)
        if free[z : z + 3, y : y + 2, x : x + 5].all()
    ]
    assert [tuple(place) for place in fitting_places(free, mask)] == expected
    assert len(fitting_places(free, np.ones((9, 1, 1), bool))) == 0


def test_the_crop_is_the_hosts_moved_and_unknown_beyond_it():
    given = host("a", 0)
    mask = np.ones((4, 5, 3), bool)
    placed = placed_in(given, mask, (10, 30, 25))
    z, y, x = 20, 21, 22
    assert placed["ct_hu"][z, y, x] == given["ct_hu"][10, 30, 25]
    assert placed["lesion_mask"].sum() == mask.sum() and placed["lesion_mask"][z, y, x]
    assert not placed["valid_mask"][:10].any() and placed["valid_mask"][10:, :33, :41].all()
    assert np.array_equal(placed["ct_hu"][0], placed["ct_hu"][10])  # the nearest voxel is repeated


def test_the_site_is_lung_of_another_patient_away_from_its_lesion():
    hosts = [host(patient, n) for n, patient in enumerate("abc")]
    placed, name = free_site(hosts[0], hosts, np.random.default_rng(0))
    assert name in ("b_1", "c_1")
    inside = placed["lesion_mask"] > 0
    assert inside.sum() == hosts[0]["lesion_mask"].sum()
    near = grown_mask(placed["lesion_mask"], CLEAR_MM - 1, (1, 1, 1)) > 0
    assert placed["ct_hu"][inside].max() < -500  # neither wall nor lesion
    assert (placed["ct_hu"][near & (placed["valid_mask"] > 0)] > -400).mean() < 0.25  # a wall may be near, no lesion is
    again, _ = free_site(hosts[0], hosts, np.random.default_rng(0))
    assert all(np.array_equal(placed[key], again[key]) for key in placed)
    assert free_site(hosts[0], hosts[:1], np.random.default_rng(0)) is None


@pytest.mark.parametrize("edge", [39, 60])
def test_a_mask_that_fits_nowhere_has_no_site(edge: int):
    large = host("a", 0)
    large["lesion_mask"][1:edge, 1:edge, 1:edge] = 1
    assert free_site(large, [large, host("b", 1)], np.random.default_rng(0)) is None
