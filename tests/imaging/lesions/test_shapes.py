"""Nodule-like solids: size, connectivity, spacing, outline."""

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from imaging.lesions.shapes import lesion_mask_image, nodule_mask, nodule_occupancy

SHAPE = (40, 44, 48)
CENTER = (19.0, 22.0, 24.0)


def diameter_of(volume_mm3: float) -> float:
    return (6 * volume_mm3 / np.pi) ** (1 / 3)


def surface_mm2(solid: np.ndarray) -> float:
    vertices, faces, _, _ = marching_cubes(solid, 0.5)
    return mesh_surface_area(vertices, faces)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.8)])
@pytest.mark.parametrize("lobulation, spiculation", [(1, 1), (4, 1), (1, 5), (5, 5)])
@pytest.mark.parametrize("diameter_mm", [5.0, 14.0])
def test_mask_has_the_asked_diameter_is_connected_and_holds_its_centre(
    spacing_mm, lobulation, spiculation, diameter_mm
):
    mask = nodule_mask(SHAPE, spacing_mm, CENTER, diameter_mm, lobulation, spiculation, seed=3)
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    voxel_mm3 = np.prod(spacing_mm)
    assert abs(diameter_of(mask.sum() * voxel_mm3) - diameter_mm) < 0.25 * voxel_mm3 ** (1 / 3)
    assert ndimage.label(mask)[1] == 1
    assert mask[19, 22, 24] == 1


def test_mask_respects_the_spacing_of_each_axis():
    fine = nodule_mask((61, 61, 61), (0.8, 0.8, 0.8), (30, 30, 30), 20, 2, 1, seed=5)
    coarse = nodule_mask((21, 61, 61), (2.4, 0.8, 0.8), (10, 30, 30), 20, 2, 1, seed=5)
    common = fine[::3].astype(bool)  # slices of `fine` at the slice positions of `coarse`
    overlap = (common & coarse.astype(bool)).sum() * 2 / (common.sum() + coarse.sum())
    assert overlap > 0.97


def test_same_seed_gives_the_same_nodule_and_another_seed_another():
    first, again, other = (nodule_mask(SHAPE, (1, 1, 1), CENTER, 15, 3, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert (first != other).sum() > 0.05 * first.sum()


def test_lobulation_and_spiculation_enlarge_the_surface_of_equal_volumes():
    def mean_surface(lobulation, spiculation):
        return np.mean(
            [surface_mm2(nodule_occupancy(SHAPE, (1, 1, 1), CENTER, 16, lobulation, spiculation, s)) for s in range(3)]
        )

    smooth = mean_surface(1, 1)
    assert np.isclose(smooth, np.pi * 16**2, rtol=0.06)  # nearly a sphere
    assert smooth * 1.03 < mean_surface(3, 1) < mean_surface(5, 1)
    assert smooth * 1.1 < mean_surface(1, 3) < mean_surface(1, 5)


def test_spiculation_reaches_further_than_the_body():
    def reach(spiculation):
        voxels = np.argwhere(nodule_mask(SHAPE, (1, 1, 1), CENTER, 14, 1, spiculation, seed=0))
        return np.linalg.norm(voxels - CENTER, axis=1).max()

    assert reach(5) > reach(1) + 2


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.8)])
@pytest.mark.parametrize("softness_mm", [0.0, 1.2])
def test_occupancy_sums_to_the_volume_of_the_sphere(spacing_mm, softness_mm):
    occupancy = nodule_occupancy(SHAPE, spacing_mm, (19.3, 21.6, 24.2), 11, 3, 4, 2, softness_mm)
    assert occupancy.min() >= 0 and occupancy.max() <= 1
    assert np.isclose(occupancy.sum(dtype=float) * np.prod(spacing_mm), np.pi / 6 * 11**3, rtol=0.02)


def test_occupancy_agrees_with_the_mask_and_softness_widens_the_margin():
    mask = nodule_mask(SHAPE, (1, 1, 1), CENTER, 16, 3, 1, seed=4)
    sharp = nodule_occupancy(SHAPE, (1, 1, 1), CENTER, 16, 3, 1, seed=4)
    soft = nodule_occupancy(SHAPE, (1, 1, 1), CENTER, 16, 3, 1, seed=4, softness_mm=1.5)
    assert ((sharp > 0.5) != mask).sum() < 0.02 * mask.sum()
    partial = [((o > 0.1) & (o < 0.9)).sum() for o in (sharp, soft)]
    assert partial[1] > 2 * partial[0]


def test_occupancy_shows_the_part_of_a_nodule_whose_centre_is_outside():
    whole = nodule_occupancy((30, 30, 30), (1, 1, 1), (15, 15, 15), 12, 2, 2, seed=7)
    part = nodule_occupancy((30, 30, 18), (1, 1, 1), (15, 15, 3), 12, 2, 2, seed=7)
    assert np.allclose(part, whole[:, :, 12:])
    assert nodule_occupancy((8, 8, 8), (1, 1, 1), (60, 4, 4), 12).sum() == 0


def test_mask_image_keeps_the_geometry_of_the_ct():
    image = SimpleITK.Image([48, 44, 20], SimpleITK.sitkInt16)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-100.0, 20.0, 7.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    mask = lesion_mask_image(image, (9, 20, 24), 12, seed=1)
    assert mask.GetSize() == image.GetSize() and mask.GetSpacing() == image.GetSpacing()
    assert mask.GetOrigin() == image.GetOrigin() and mask.GetDirection() == image.GetDirection()
    voxels = SimpleITK.GetArrayFromImage(mask)
    assert np.array_equal(voxels, nodule_mask((20, 44, 48), (2.5, 0.8, 0.7), (9, 20, 24), 12, seed=1))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"center_zyx": (19, 22, 48)}, r"center_zyx is \(19.0, 22.0, 48.0\), outside.*\(39, 43, 47\)"),
        ({"diameter_mm": 1.9}, r"diameter_mm is 1.9, expected 2.00"),
        ({"diameter_mm": 61}, "60.0 mm"),
        ({"lobulation": 0}, "lobulation is 0, expected a LIDC rating"),
        ({"spiculation": 5.5}, "spiculation is 5.5"),
        ({"spacing_mm": (1, 0, 1)}, "three positive lengths"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"shape": SHAPE, "spacing_mm": (1, 1, 1), "center_zyx": CENTER, "diameter_mm": 10} | change
    with pytest.raises(ValueError, match=message):
        nodule_mask(**arguments)
