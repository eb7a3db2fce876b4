import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage, special

from imaging.geometry import (
    check_same_grid,
    index_in_scan,
    index_of_point,
    mask_centroid,
    paste_difference,
    point_of_index,
    sample_grid,
    sample_mask,
    soft_edge,
)

SPACING = (2.5, 0.8, 0.7)  # z, y, x in mm


def oblique(angles=(0.3, -0.2, 0.4)):
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*angles)
    return transform.GetMatrix()


def make_image(array, spacing_mm=SPACING, direction=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm[::-1])
    image.SetOrigin((-120.0, 35.0, 410.0))
    image.SetDirection(direction or oblique())
    return image


def make_noise(shape=(12, 30, 28), dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(-1000, 300, shape).astype(dtype)


def make_ball(shape, centre, radius_mm, spacing_mm=SPACING):
    offset_mm = (np.stack(np.indices(shape), -1) - np.array(centre)) * spacing_mm
    return (np.linalg.norm(offset_mm, axis=-1) <= radius_mm).astype(np.uint8)


def test_points_and_indices_are_inverse_and_follow_origin_direction_and_spacing():
    image = make_image(make_noise())
    index = (3.25, 17.5, 9.0)
    point = point_of_index(image, index)
    expected = image.GetOrigin() + np.reshape(image.GetDirection(), (3, 3)) @ (np.array(index) * SPACING)[::-1]
    np.testing.assert_allclose(point, expected)
    np.testing.assert_allclose(index_of_point(image, point), index)


def test_a_physical_centre_leads_back_to_its_voxel_on_an_oblique_grid_in_both_frames():
    image = sitk.Image(40, 50, 30, sitk.sitkInt16)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-120.0, 85.0, -310.0))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.2, -0.1, 0.4)
    image.SetDirection(turn.GetMatrix())
    for index in ((0, 0, 0), (12.3, 40.5, 7.25), (29, 49, 39)):
        x, y, z = point_of_index(image, index)
        assert index_in_scan(image, (x, y, z)) == pytest.approx(index, abs=1e-9)
        assert index_in_scan(image, (-x, -y, z), "RAS") == pytest.approx(index, abs=1e-9)
    outside = (
        r"center \(.*\) mm \(LPS\) is voxel .*, outside the scan of \(30, 50, 40\) voxels; .* whether it is in RAS"
    )
    with pytest.raises(ValueError, match=outside):
        index_in_scan(image, (120.0, -85.0, -310.0))


def test_finer_grid_equals_linear_interpolation_by_scipy():
    ct_hu = make_noise()
    image = make_image(ct_hu)
    size, spacing, centre = (7, 8, 9), (1.1, 0.5, 0.6), (5.3, 14.8, 13.1)
    sampled, valid_mask, grid = sample_grid(image, point_of_index(image, centre), size, spacing)
    offsets = np.stack(np.indices(size), -1) - (np.array(size) - 1) / 2
    indices = np.array(centre) + offsets * spacing / np.array(SPACING)
    expected = ndimage.map_coordinates(ct_hu.astype(np.float64), np.moveaxis(indices, -1, 0), order=1)
    np.testing.assert_allclose(sampled, expected, atol=1e-2)
    assert sampled.dtype == np.float32 and valid_mask.dtype == np.uint8 and valid_mask.all()
    np.testing.assert_allclose(point_of_index(grid, (3, 3.5, 4)), point_of_index(image, centre), atol=1e-9)
    np.testing.assert_allclose(grid.GetDirection(), image.GetDirection())
    np.testing.assert_allclose(grid.GetSpacing()[::-1], spacing)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(grid), sampled)


def test_own_spacing_copies_voxels_around_the_point():
    ct_hu = make_noise()
    image = make_image(ct_hu)
    point = point_of_index(image, (6.2, 14.4, 13.3))
    for spacing in (None, SPACING):
        sampled, _, grid = sample_grid(image, point, (5, 7, 9), spacing)
        np.testing.assert_array_equal(sampled, ct_hu[4:9, 11:18, 9:18])
        np.testing.assert_allclose(index_of_point(image, grid.GetOrigin()), (4, 11, 9), atol=1e-9)


def test_a_grid_beyond_the_border_is_filled_and_marked_invalid():
    ct_hu = make_noise()
    image = make_image(ct_hu)
    sampled, valid_mask, _ = sample_grid(image, point_of_index(image, (1, 28, 2)), (7, 9, 11), None)
    expected = np.pad(ct_hu, ((2, 0), (0, 3), (3, 0)), mode="edge")[0:7, 24:33, 0:11]
    inside = np.pad(np.ones_like(ct_hu), ((2, 0), (0, 3), (3, 0)))[0:7, 24:33, 0:11]
    np.testing.assert_array_equal(sampled, expected)
    np.testing.assert_array_equal(valid_mask, inside)


@pytest.mark.parametrize("spacing", [0.4, 1.0, 2.0, (3.0, 1.5, 0.3)])
def test_a_constant_image_stays_constant_wherever_the_grid_is_valid(spacing):
    image = make_image(np.full((6, 20, 22), -700, np.int16))
    sampled, valid_mask, _ = sample_grid(image, point_of_index(image, (0, 19, 3)), (12, 14, 16), spacing)
    np.testing.assert_allclose(sampled[valid_mask == 1], -700, rtol=1e-5)
    _, nearest = ndimage.distance_transform_edt(valid_mask == 0, return_indices=True)
    beyond = valid_mask == 0
    np.testing.assert_allclose(
        sampled[beyond], sampled[tuple(nearest)][beyond], rtol=0, atol=60
    )  # to a part of a voxel
    assert 0 < valid_mask.mean() < 1
    filled, _, _ = sample_grid(image, point_of_index(image, (0, 19, 3)), (12, 14, 16), spacing, fill_hu=-700)
    assert (filled[beyond] == -700).all() and np.array_equal(filled[~beyond], sampled[~beyond])


def test_scanner_padding_does_not_bleed_into_the_body():
    ct_hu = np.full((6, 20, 22), -1024, np.int16)
    ct_hu[:, :, 11:] = -3024
    image = make_image(ct_hu)
    sampled, _, _ = sample_grid(image, point_of_index(image, (2, 10, 11)), (4, 8, 8), 0.9)
    np.testing.assert_allclose(sampled, -1024, rtol=1e-6)


@pytest.mark.parametrize("coarse", [1.4, 2.1, 3.5])
def test_coarser_sampling_widens_the_point_spread_by_the_gaussian_of_the_formula(coarse):
    own = 0.7
    wave = np.random.default_rng(0).normal(-500, 100, 200)
    image = make_image(np.broadcast_to(wave, (5, 6, 200)).astype(np.float32), (1.0, 1.0, own))
    size = 31
    sampled, _, _ = sample_grid(image, point_of_index(image, (2, 3, 100)), (1, 1, size), (1.0, 1.0, coarse))
    variance = (coarse**2 - own**2) / (8 * np.log(2)) / own**2  # voxels²
    kernel = special.ive(np.abs(np.arange(-60, 61)), variance)  # the discrete Gaussian (Lindeberg 1990)
    positions = 100 + (np.arange(size) - (size - 1) / 2) * coarse / own
    expected = np.interp(positions, np.arange(200), ndimage.convolve1d(wave, kernel))
    np.testing.assert_allclose(sampled[0, 0], expected, atol=0.5)  # of a noise of 100 HU
    assert sampled.std() < 0.8 * wave.std()


def test_nearest_sampling_invents_no_labels():
    labels = make_noise() % 4 * 5
    image = make_image(labels)
    sampled, _, _ = sample_grid(image, point_of_index(image, (6, 14, 13)), (5, 6, 7), 1.7, fill_hu=0, order="nearest")
    assert set(np.unique(sampled)) <= {0, 5, 10, 15}


def test_a_point_outside_the_image_is_refused():
    image = make_image(make_noise())
    with pytest.raises(ValueError, match=r"is voxel \(-2\.0, 3\.0, 4\.0\) .* outside the image of \(12, 30, 28\)"):
        sample_grid(image, point_of_index(image, (-2, 3, 4)), 8, 1.0)
    with pytest.raises(ValueError, match="expected positive numbers"):
        sample_grid(image, point_of_index(image, (2, 3, 4)), 8, 0.0)
    with pytest.raises(ValueError, match="2 dimensions"):
        sample_grid(image[:, :, 0], (0, 0, 0), 8, 1.0)


def test_mask_centroid_is_the_mean_point_and_an_empty_mask_is_refused():
    mask = make_ball((12, 30, 28), (5, 12, 16), 6)
    image = make_image(mask)
    points = [point_of_index(image, index.tolist()) for index in np.argwhere(mask)]
    np.testing.assert_allclose(mask_centroid(image), np.mean(points, axis=0))
    with pytest.raises(ValueError, match="mask is empty"):
        mask_centroid(image * 0)


@pytest.mark.parametrize("spacing", [0.5, 1.0])
def test_a_sampled_mask_keeps_the_volume_of_a_ball(spacing):
    image = make_image(make_ball((17, 40, 45), (8, 20, 22), 9))
    _, _, grid = sample_grid(image, mask_centroid(image), 48, spacing)
    lesion_mask = sample_mask(image, grid)
    assert lesion_mask.dtype == np.uint8 and set(np.unique(lesion_mask)) == {0, 1}
    assert lesion_mask.sum() * spacing**3 == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)


@pytest.mark.parametrize("blend_mm", [0.0, 1.0, 3.0])
def test_soft_edge_is_the_edge_weight_in_the_geometry_of_the_mask(blend_mm):
    mask = make_ball((12, 30, 28), (5, 14, 13), 7)
    image = soft_edge(make_image(mask), blend_mm)
    expected = np.minimum(ndimage.distance_transform_edt(mask, sampling=SPACING) / max(blend_mm, 1e-6), 1)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), expected, atol=1e-5)
    check_same_grid(image, make_image(mask), "weights")


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize("order", ["linear", "bspline"])
def test_pasting_changes_the_mask_only_and_keeps_type_and_geometry(dtype, order):
    ct_hu = make_noise(dtype=dtype)
    if dtype == np.float32:
        ct_hu += 0.3
    image = make_image(ct_hu)
    image.SetMetaData("note", "kept")
    mask = make_ball(ct_hu.shape, (5, 14, 13), 5)
    _, _, grid = sample_grid(image, mask_centroid(make_image(mask)), 16, 1.0)
    difference_hu = np.random.default_rng(1).normal(300, 50, (16, 16, 16)).astype(np.float32)
    result = paste_difference(image, grid, difference_hu, make_image(mask), order)
    after = sitk.GetArrayFromImage(result)
    np.testing.assert_array_equal(after[mask == 0], ct_hu[mask == 0])
    assert (after[mask == 1] > ct_hu[mask == 1]).all()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ct_hu)
    assert result.GetPixelID() == image.GetPixelID() and result.GetMetaData("note") == "kept"
    for ours, theirs in (
        (result.GetSpacing(), image.GetSpacing()),
        (result.GetOrigin(), image.GetOrigin()),
        (result.GetDirection(), image.GetDirection()),
    ):
        assert ours == theirs


@pytest.mark.parametrize("order", ["linear", "bspline"])
def test_a_round_trip_on_the_scans_own_grid_brings_back_the_difference(order):
    ct_hu = make_noise()
    image = make_image(ct_hu)
    mask = make_ball(ct_hu.shape, (5, 14, 13), 5)
    sampled, _, grid = sample_grid(image, mask_centroid(make_image(mask)), (9, 20, 20), None)
    wanted = np.random.default_rng(1).integers(-900, 200, sampled.shape)
    result = sitk.GetArrayFromImage(paste_difference(image, grid, wanted - sampled, make_image(mask), order))
    start = np.rint(index_of_point(image, grid.GetOrigin())).astype(int)
    window = tuple(slice(a, a + n) for a, n in zip(start, sampled.shape, strict=True))
    inside = mask[window] == 1
    np.testing.assert_array_equal(result[window][inside], wanted[inside])


@pytest.mark.parametrize(("order", "tolerance_hu"), [("linear", 6.0), ("bspline", 2.0)])
def test_a_smooth_difference_survives_the_way_through_the_grid(order, tolerance_hu):
    shape = (12, 40, 44)
    image = make_image(make_noise(shape), (0.9, 0.8, 0.7))
    mask = make_ball(shape, (5.5, 20, 22), 4, (0.9, 0.8, 0.7))
    _, _, grid = sample_grid(image, mask_centroid(make_image(mask, (0.9, 0.8, 0.7))), 20, 0.7)
    wave_of = lambda z, y, x: 200 * np.sin(y / 3) * np.cos(x / 4) + 10 * z  # noqa: E731
    points = np.indices((20, 20, 20)).reshape(3, -1).T.tolist()
    on_image = np.array([index_of_point(image, point_of_index(grid, index)) for index in points])
    difference_hu = wave_of(*(on_image * (0.9, 0.8, 0.7)).T).reshape(20, 20, 20)
    result = paste_difference(image, grid, difference_hu, make_image(mask, (0.9, 0.8, 0.7)), order)
    change_hu = sitk.GetArrayFromImage(result).astype(float) - sitk.GetArrayFromImage(image)
    expected = wave_of(*(np.indices(shape) * np.reshape((0.9, 0.8, 0.7), (3, 1, 1, 1))))
    assert np.abs(change_hu - expected)[mask == 1].max() < tolerance_hu


def test_weights_scale_the_difference():
    image = make_image(np.full((12, 30, 28), -500, np.int16))
    weights = soft_edge(make_image(make_ball((12, 30, 28), (5, 14, 13), 7)), 3.0)
    _, _, grid = sample_grid(image, point_of_index(image, (5, 14, 13)), 24, 1.0)
    result = paste_difference(image, grid, np.full((24, 24, 24), 100.0), weights)
    expected = np.rint(-500 + 100 * sitk.GetArrayFromImage(weights))
    np.testing.assert_allclose(sitk.GetArrayFromImage(result), expected, atol=1)


def test_values_beyond_the_pixel_type_are_clamped():
    image = make_image(np.full((12, 30, 28), 32000, np.int16))
    mask = make_image(make_ball((12, 30, 28), (5, 14, 13), 3))
    _, _, grid = sample_grid(image, mask_centroid(mask), 12, 1.0)
    assert sitk.GetArrayFromImage(paste_difference(image, grid, np.full((12,) * 3, 5000.0), mask)).max() == 32767
    assert sitk.GetArrayFromImage(paste_difference(image, grid, np.full((12,) * 3, -9e4), mask)).min() == -1024


def test_what_cannot_be_pasted_is_refused():
    image = make_image(make_noise())
    mask = make_image(make_ball((12, 30, 28), (5, 14, 13), 7))
    _, _, grid = sample_grid(image, mask_centroid(mask), 12, 1.0)
    change = np.zeros((12, 12, 12))
    with pytest.raises(ValueError, match="voxels of weight_image lie outside the grid of"):
        paste_difference(image, grid, change, mask)
    with pytest.raises(ValueError, match=r"difference_hu has shape \(12, 12, 11\)"):
        paste_difference(image, grid, change[..., :-1], mask)
    with pytest.raises(ValueError, match="difference_hu has NaN"):
        paste_difference(image, grid, change + np.nan, mask)
    with pytest.raises(ValueError, match="mask is empty"):
        paste_difference(image, grid, change, mask * 0)
    with pytest.raises(ValueError, match="expected weights in"):
        paste_difference(image, grid, change, mask * 2)
    with pytest.raises(ValueError, match=r"weight_image: \(11, 30, 28\) voxels"):
        paste_difference(image, grid, change, mask[:, :, 1:])
    mask.SetOrigin((0, 0, 0))
    with pytest.raises(ValueError, match=r"weight_image: its corners lie up to \d+\.\d\d mm"):
        check_same_grid(mask, image, "weight_image")
