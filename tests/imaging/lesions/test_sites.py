import numpy as np
import pytest
import SimpleITK as sitk
from skimage.draw import disk

from imaging.geometry import index_of_point, point_of_index
from imaging.lesions.lobes import LUNGMASK, TOTALSEGMENTATOR, read_lobes
from imaging.lesions.sites import find_lesion_sites, free_lung, free_lung_sites
from imaging.lesions.wall_gaps import GAPS_MM, SMALL

SPACING = (2.5, 2.0, 1.5)


def to_image(array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-90.0, 20.0, -300.0))
    return image


@pytest.fixture(scope="module")
def chest():
    """A body with two lungs, a thick vessel in one of them and a nodule in the other."""
    depth = 30
    ct_hu = np.full((depth, 100, 140), -1000, np.float32)
    ct_hu[:, 10:90, 10:130] = 40
    lungs = np.zeros(ct_hu.shape, bool)
    for col in (40, 100):
        lungs[(slice(3, 27), *disk((50, col), 24))] = True
    ct_hu[lungs] = -850
    ct_hu[(slice(3, 27), *disk((50, 40), 4))] = 50
    nodule = np.zeros(ct_hu.shape, np.uint8)
    nodule[(slice(12, 17), *disk((50, 100), 6))] = 1
    return ct_hu + np.random.default_rng(0).normal(0, 10, ct_hu.shape).astype(np.float32), lungs, nodule


def distances_mm(index, where):
    return np.linalg.norm((np.argwhere(where) - np.array(index)) * SPACING, axis=1)


def test_sites_keep_clear_of_wall_vessel_nodule_and_each_other(chest):
    ct_hu, lungs, nodule = chest
    diameter = 12.0
    sites = find_lesion_sites(to_image(ct_hu), diameter, 8, to_image(nodule), margin_mm=2.0, vessel_share=0.0)
    assert len(sites) == 8
    slack = np.linalg.norm(SPACING)  # of the search grid
    for site in sites:
        index = index_of_point(to_image(ct_hu), site)
        assert distances_mm(index, ~lungs).min() > diameter / 2 + 2.0 - slack
        assert distances_mm(index, nodule).min() > diameter / 2 + 2.0 - slack
        assert distances_mm(index, lungs & (ct_hu > -300)).min() > diameter / 2 - slack
    apart = [np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(sites) for b in sites[:i]]
    assert min(apart) >= diameter


def test_the_seed_chooses_the_sites(chest):
    image = to_image(chest[0])
    assert find_lesion_sites(image, 8, 3, seed=1) == find_lesion_sites(image, 8, 3, seed=1)
    assert find_lesion_sites(image, 8, 3, seed=1) != find_lesion_sites(image, 8, 3, seed=2)


def test_it_says_how_many_places_there_are_when_asked_for_too_many(chest):
    image = to_image(chest[0])
    with pytest.raises(ValueError, match=r"found \d places for a lesion of 30 mm, expected 50"):
        find_lesion_sites(image, 30, 50)
    with pytest.raises(ValueError, match="found 0 places"):
        find_lesion_sites(image, 90, 1)


def test_an_image_without_lung_and_numbers_out_of_range_are_refused(chest):
    with pytest.raises(ValueError, match="no lung found"):
        find_lesion_sites(to_image(np.random.default_rng(0).normal(40, 5, (8, 30, 30))), 5, 1)
    with pytest.raises(ValueError, match="diameter_mm -1"):
        find_lesion_sites(to_image(chest[0]), -1, 1)


def test_a_lung_that_is_segmented_once_gives_the_sites_of_one_that_is_segmented_again(chest):
    image = to_image(chest[0])
    lung = free_lung(image, to_image(chest[2]))
    for seed, diameter in ((0, 8), (1, 12)):
        sites = free_lung_sites(lung, diameter, 2, np.random.default_rng(seed))
        assert sites == find_lesion_sites(image, diameter, 2, to_image(chest[2]), seed=seed)


def test_where_a_lesion_has_been_put_there_is_no_place_for_the_next(chest):
    lung = free_lung(to_image(chest[0]))
    (first,) = free_lung_sites(lung, 10, 1, np.random.default_rng(0))
    left = lung.without(first, radius_mm=20.0)
    found = free_lung_sites(left, 6, 20, np.random.default_rng(1), margin_mm=1.0)
    assert min(np.linalg.norm(np.subtract(first, site)) for site in found) > 20.0 + 3.0 + 1.0
    near = free_lung_sites(lung, 6, 20, np.random.default_rng(1), margin_mm=1.0)
    assert min(np.linalg.norm(np.subtract(first, site)) for site in near) < 20.0


def test_the_share_of_a_mask_in_the_lung_is_that_of_its_voxels_also_on_a_part_of_the_grid(chest):
    ct_hu, lungs, _ = chest
    image = to_image(ct_hu)
    mask = np.zeros(ct_hu.shape, np.uint8)
    mask[8:20, 45:55, 118:132] = 1  # lung, chest wall, air
    part = to_image(mask)[110:, 40:70, 5:25]
    expected = lungs[mask > 0].mean()
    assert 0.2 < expected < 0.8
    assert free_lung(image).share_of(part) == pytest.approx(expected, abs=0.06)  # the lung is known to 2 mm
    assert point_of_index(part, (0, 0, 0)) == pytest.approx(point_of_index(image, (5, 40, 110)))


def test_lung_that_reaches_the_edge_of_the_image_counts_and_air_around_the_patient_does_not(chest):
    image = to_image(chest[0])[40:]  # the field of view begins in the first lung: no slice shows it closed
    lung = free_lung(image)
    assert not lung.lung[:, :, :10].any() and lung.lung.any()
    cut, outside = np.zeros((2, *chest[0].shape), np.uint8)
    cut[12:16, 60:64, 42:46] = 1
    outside[12:16, 60:64, 134:138] = 1
    assert lung.share_of(to_image(cut)[40:]) > 0.9
    assert lung.share_of(to_image(outside)[40:]) == 0


def gaps_mm(image, where, site, diameter_mm, n=12, **how):
    """Gap between each ball and the nearest voxel of a structure."""
    lung = free_lung(image, **how)
    sites = [free_lung_sites(lung, diameter_mm, 1, np.random.default_rng(seed), site=site)[0] for seed in range(n)]
    return [distances_mm(index_of_point(image, at), where).min() - diameter_mm / 2 for at in sites]


def test_a_pleural_site_touches_the_wall_and_one_at_a_vessel_touches_the_vessel(chest):
    ct_hu, lungs, _ = chest
    slack = np.linalg.norm(SPACING)  # of the search grid
    image = to_image(ct_hu)
    assert max(gaps_mm(image, ~lungs, "pleural", 10.0)) < 1.0 + slack
    assert min(gaps_mm(image, ~lungs, "pleural", 10.0)) > -0.4 * 5 - slack
    on_vessel = gaps_mm(image, lungs & (ct_hu > -300), "vessel", 8.0)
    assert max(on_vessel) < 1.5 + slack and min(on_vessel) > -2.0 - slack
    assert min(gaps_mm(image, ~lungs, "vessel", 8.0)) > 2.0 - slack


def test_auto_sites_touch_the_wall_as_often_as_real_nodules(chest):
    gaps = np.array(gaps_mm(to_image(chest[0]), ~chest[1], "auto", 8.0, n=150))
    lung = free_lung(to_image(chest[0]))
    own = lung.wall_mm - 4
    classes = np.bincount(np.digitize(own[(own > -1.6) & ~lung.occupied], GAPS_MM[1:-1]), minlength=5) > 0
    expected = SMALL[0] / np.array(SMALL)[classes].sum()
    assert np.mean(gaps < 1.0 + 1.25) == pytest.approx(expected, abs=0.2)


def test_a_lobe_and_a_fissure_are_found_in_a_segmentation_of_either_program(chest, tmp_path):
    ct_hu, lungs, _ = chest
    image = to_image(ct_hu)
    upper, right = np.zeros(ct_hu.shape, bool), np.zeros(ct_hu.shape, bool)
    upper[15:], right[:, :, :70] = True, True
    names = {"RUL": right & upper, "RLL": right & ~upper, "LUL": ~right & upper, "LLL": ~right & ~upper}
    for program, numbers in (("total", TOTALSEGMENTATOR), ("lungmask", LUNGMASK)):
        values = np.zeros(ct_hu.shape, np.uint8)
        for value, name in numbers.items():
            values[lungs & names.get(name, False)] = value
        sitk.WriteImage(to_image(values), tmp_path / f"{program}.nii.gz")
        lung = free_lung(image, lobes=read_lobes(tmp_path / f"{program}.nii.gz", image))
        for seed in range(6):
            (at,) = free_lung_sites(lung, 6.0, 1, np.random.default_rng(seed), site="lobe=RUL")
            z, _, x = index_of_point(image, at)
            assert z > 13.5 and x < 71
            (at,) = free_lung_sites(lung, 8.0, 1, np.random.default_rng(seed), site="fissure")
            assert abs(index_of_point(image, at)[0] - 14.5) * SPACING[0] < 4.0 + 2 * SPACING[0]


def test_without_lobes_and_with_other_labels_a_sentence_says_what_is_missing(chest, tmp_path):
    image = to_image(chest[0])
    for site in ("fissure", "lobe=LLL"):
        with pytest.raises(ValueError, match=rf"site {site} needs the lobes; pass a segmentation of TotalSegmentator"):
            free_lung_sites(free_lung(image), 6.0, 1, np.random.default_rng(0), site=site)
    with pytest.raises(ValueError, match=r"site 'lobe=XYZ', expected auto, .* or lobe= and one of LUL"):
        free_lung_sites(free_lung(image), 6.0, 1, np.random.default_rng(0), site="lobe=XYZ")
    sitk.WriteImage(to_image(chest[2]), tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match=r"mask.nii.gz: labels 1, expected the lobes of TotalSegmentator \(10 to 14\)"):
        read_lobes(tmp_path / "mask.nii.gz", image)
