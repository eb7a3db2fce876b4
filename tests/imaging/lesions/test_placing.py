"""A lesion at a site: where its part of the scan lies, and the three reasons why it cannot be there."""

import numpy as np
import pytest
import SimpleITK as sitk

from imaging.geometry import point_of_index
from imaging.lesions.placing import NoPlace, place_lesion
from imaging.lesions.shapes import lesion_mask_image
from imaging.lesions.sites import find_lesion_sites, free_lung
from imaging.phantom.chest import chest_phantom, phantom_image

SHAPE, SPACING_MM = (40, 80, 96), (4.0, 3.0, 3.0)
HOW = {"reach_mm": 30.0, "margin_mm": 3.0, "least_lung": 0.98}


@pytest.fixture(scope="module")
def scan():
    return phantom_image(chest_phantom(SHAPE, SPACING_MM, n_nodules=0, seed=1))


@pytest.fixture(scope="module")
def lung(scan):
    return free_lung(scan)


@pytest.fixture(scope="module")
def site(scan):
    return find_lesion_sites(scan, 12.0, 1, seed=3)[0]


def drawing(diameter_mm: float):
    """What draws a mask of this diameter."""
    return lambda part, center: lesion_mask_image(part, center, diameter_mm, seed=7)


def nowhere() -> np.ndarray:
    return np.zeros(SHAPE, bool)


def test_a_place_is_a_part_of_the_scan_with_the_mask_at_the_site(scan, lung, site):
    place = place_lesion(scan, lung, nowhere(), site, drawing(12.0), **HOW)
    assert np.array_equal(sitk.GetArrayFromImage(place.ct), sitk.GetArrayFromImage(scan)[place.box])
    labels = nowhere()
    labels[place.box] = sitk.GetArrayFromImage(place.mask) > 0
    indices = np.argwhere(labels)
    assert place.mask_box_zyx == [*indices.min(0), *indices.max(0) + 1]
    assert place.volume_mm3 == pytest.approx(len(indices) * np.prod(SPACING_MM))
    assert place.volume_mm3 == pytest.approx(np.pi / 6 * 12**3, rel=0.1)
    centroid = point_of_index(scan, indices.mean(0))
    assert np.linalg.norm(np.subtract(centroid, site)) < 4
    assert place.claimed[sitk.GetArrayFromImage(place.mask) > 0].all() and place.claimed.sum() > len(indices)


def test_what_another_lesion_paints_is_not_touched(scan, lung, site):
    place = place_lesion(scan, lung, nowhere(), site, drawing(12.0), **HOW)
    claimed = nowhere()
    claimed[place.box] = place.claimed
    rim = claimed.copy()
    rim[place.box] &= sitk.GetArrayFromImage(place.mask) == 0
    for taken in (claimed, rim):  # the margin alone is enough
        with pytest.raises(NoPlace, match=f"^in {taken.sum()} voxels$") as fault:
            place_lesion(scan, lung, taken, site, drawing(12.0), **HOW)
        assert fault.value.reason == "touches another lesion"
    assert place_lesion(scan, lung, ~claimed, site, drawing(12.0), **HOW).site_mm == site


def test_a_mask_that_reaches_out_of_the_lung_is_refused(scan, lung):
    index = np.argwhere(lung.lung & (lung.clearance_mm == lung.clearance_mm[lung.lung].min()))[0]
    pleura = point_of_index(lung.grid, index)
    with pytest.raises(NoPlace, match=r"^[\d.]+ % of the mask$") as fault:
        place_lesion(scan, lung, nowhere(), pleura, drawing(12.0), **HOW)
    assert fault.value.reason == "outside lung" and 2 < float(str(fault.value).split()[0]) < 100
    assert place_lesion(scan, lung, nowhere(), pleura, drawing(12.0), **{**HOW, "least_lung": 0.0}).claimed.any()


def test_a_mask_that_cannot_be_drawn_is_refused(scan, lung, site):
    with pytest.raises(NoPlace, match=r"diameter_mm is 3\.0, expected") as fault:
        place_lesion(scan, lung, nowhere(), site, drawing(3.0), **HOW)
    assert fault.value.reason == "no mask"
