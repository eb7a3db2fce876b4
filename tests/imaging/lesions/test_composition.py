"""Solid part of a lesion: what readers decide alone, a solid core in ground glass, noise and a blurred border."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imaging.lesions.composition import composed, solid_part

SPACING = (0.7, 0.7, 0.7)


def lesion(core_mm=4.0, radius_mm=9.0, size=40, core_hu=20.0, glass_hu=-600.0, noise_hu=0.0, core_at=0.0):
    axis = (np.arange(size) - (size - 1) / 2) * 0.7
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    far, far_of_core = np.sqrt(z**2 + y**2 + x**2), np.sqrt(z**2 + y**2 + (x - core_at) ** 2)
    ct_hu = np.where(far <= radius_mm, np.where(far_of_core <= core_mm, core_hu, glass_hu), -850.0)
    ct_hu = gaussian_filter(ct_hu, 0.6 / 0.7) + np.random.default_rng(0).normal(0, noise_hu, ct_hu.shape)
    return ct_hu, far <= radius_mm, far_of_core


@pytest.mark.parametrize(("texture", "all_solid"), [(5, True), (4.5, True), (1.5, False), (1, False)])
def test_lesions_of_one_kind_are_what_the_readers_say(texture, all_solid):
    ct_hu, inside, _ = lesion(core_mm=0, noise_hu=60)
    made = solid_part(ct_hu, inside, texture, SPACING)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, inside if all_solid else np.zeros_like(inside))


def test_ground_glass_with_a_clearly_dense_part_has_a_solid_part():
    ct_hu, inside, far = lesion(core_mm=3)
    made = solid_part(ct_hu, inside, 1.2, SPACING)
    assert made[far < 2].all() and not made[far > 4].any()


@pytest.mark.parametrize("texture", [3.0, None, np.nan])
def test_a_solid_core_is_found_within_half_a_millimetre(texture):
    ct_hu, inside, _ = lesion(core_mm=4, noise_hu=40)
    made = solid_part(ct_hu, inside, texture, SPACING)
    assert np.cbrt(3 * made.sum() * 0.7**3 / (4 * np.pi)) == pytest.approx(4, abs=0.5)


def test_the_blurred_border_of_a_solid_part_to_the_lung_is_solid_too():
    ct_hu, inside, far = lesion(core_mm=5, core_at=4.0)  # the core touches the lesion's border at x = 9 mm
    made = solid_part(ct_hu, inside, 3, SPACING)
    rim = inside & (far < 5) & (ct_hu < -300)
    assert rim.sum() > 20 and made[rim].mean() > 0.7


def test_single_bright_voxels_are_noise():
    ct_hu, inside, _ = lesion(core_mm=0)
    ct_hu[20, 20, 20] = 300
    assert not solid_part(ct_hu, inside, 3, SPACING).any()
    assert not solid_part(ct_hu, np.zeros_like(inside), 3, SPACING).any()


def background(vessel_mm=1.5, wall=False):
    """Lung with a vessel along x through the middle, beside a ball that a lesion will fill."""
    _, inside, _ = lesion()
    axis = (np.arange(40) - 19.5) * 0.7
    z, y, _ = np.meshgrid(axis, axis, axis, indexing="ij")
    ct_hu = np.where(z**2 + y**2 <= vessel_mm**2, 20.0, -850.0)
    return np.where(y > 4, 40.0, ct_hu) if wall else ct_hu, inside


def made_of(ct_hu, inside, texture, share=np.nan, seed=0):
    return composed(ct_hu, inside, SPACING, texture, share, np.random.default_rng(seed).standard_normal(inside.shape))


def test_a_solid_lesion_is_all_solid_and_ground_glass_leaves_the_vessel_behind_it_but_no_wall():
    ct_hu, inside = background()
    np.testing.assert_array_equal(made_of(ct_hu, inside, 5.0), inside)
    np.testing.assert_array_equal(made_of(ct_hu, inside, 1.0), inside & (ct_hu > -200))
    walled, _ = background(wall=True)
    np.testing.assert_array_equal(made_of(walled, inside, 1.0), inside & (ct_hu > -200))
    assert not made_of(background(vessel_mm=4.0)[0], inside, 1.0).any()  # a nodule that is there already


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_a_core_takes_its_share_from_the_middle_and_differs_by_seed(share):
    ct_hu, inside = background()
    made, other = made_of(ct_hu, inside, 3.0, share), made_of(ct_hu, inside, 3.0, share, seed=1)
    assert made.sum() == pytest.approx(share * inside.sum(), abs=1) and not made[~inside].any()
    if 0 < share < 1:
        _, _, far = lesion()
        assert far[made > 0].mean() < far[inside & (made == 0)].mean() - 1 and (made != other).any()


def test_without_a_texture_or_a_share_the_composition_is_open():
    ct_hu, inside = background()
    assert made_of(ct_hu, inside, np.nan, 0.5) is None and made_of(ct_hu, inside, 3.0) is None
