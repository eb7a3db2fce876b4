"""The chest phantom: tissues in HU, nodules as asked, ratings as documented, rows as contracted."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import spearmanr

from imaging.dataset.nodules import RATINGS, load_nodules, read_nodule, save_nodule_dataset
from imaging.phantom.anatomy import draw_anatomy, grid_mm, grow_tree, lung_surface, tube_occupancy
from imaging.phantom.chest import PhantomNodule, chest_phantom, phantom_image, phantom_nodules, place_nodules, render
from imaging.phantom.tissue import ct_noise

SHAPE, SPACING = (44, 84, 92), (6.0, 4.2, 4.0)


@pytest.fixture(scope="module")
def chest():
    return chest_phantom(SHAPE, SPACING, n_nodules=3, seed=2)


@pytest.fixture(scope="module")
def anatomy():
    return draw_anatomy(0)


def test_same_seed_gives_the_same_voxels_and_another_seed_another_patient(chest):
    again = chest_phantom(SHAPE, SPACING, n_nodules=3, seed=2)
    assert np.array_equal(chest.ct_hu, again.ct_hu) and chest.nodules == again.nodules
    assert np.array_equal(chest.nodule_labels, again.nodule_labels)
    assert draw_anatomy(3).cavity_mm != draw_anatomy(2).cavity_mm


def test_tissues_have_the_attenuation_of_a_chest_ct(chest):
    ct, lung = chest.ct_hu, chest.lung_mask.astype(bool)
    assert ct.dtype == np.int16 and ct.min() >= -1024
    inner = ndimage.binary_erosion(lung & (chest.nodule_labels == 0))
    assert -900 < np.median(ct[inner]) < -840
    assert np.median(ct[:, :6]) < -980  # air in front of the patient
    smooth = ndimage.gaussian_filter(ct.astype(float), 1)
    body = np.stack([ndimage.binary_fill_holes(axial > -300) for axial in smooth])
    tissue = smooth[ndimage.binary_erosion(body) & ~ndimage.binary_dilation(lung, iterations=2)]
    shares = [((tissue > low) & (tissue < high)).mean() for low, high in ((-150, -50), (0, 100), (200, 2000))]
    assert 0.2 < shares[0] < 0.6 and 0.2 < shares[1] < 0.6 and 0.01 < shares[2] < 0.1  # fat, muscle and organs, bone


def test_lung_is_denser_at_the_back_and_fills_a_realistic_volume(chest):
    inner = ndimage.binary_erosion(chest.lung_mask)
    rows = np.nonzero(inner)[1]
    front, back = np.percentile(rows, [20, 80]).astype(int)
    medians = [np.median(chest.ct_hu[:, s][inner[:, s]]) for s in (slice(0, front), slice(back, None))]
    assert 15 < medians[1] - medians[0] < 80
    assert 3.0 < chest.lung_mask.sum() * np.prod(SPACING) / 1e6 < 8.0  # litres


def test_vessels_take_the_share_of_the_lung_seen_in_real_scans(anatomy):
    grid = grid_mm((48, 60, 50), (1.0, 1.0, 1.0), (-20, 10, -80))
    inside = lung_surface(anatomy, grid) < -3
    blood = tube_occupancy(anatomy.vessels, grid)[inside]
    assert 0.02 < blood.mean() < 0.12


def test_tube_has_the_volume_of_a_tapering_cylinder_at_any_spacing():
    tube = np.array([[-15.0, 3.0, -4.0, 3.0, 15.0, -2.0, 6.0, 2.0]], dtype=np.float32)
    length = np.linalg.norm(tube[0, 4:7] - tube[0, 0:3])
    volume = np.pi * length * (3**2 + 3 * 2 + 2**2) / 3 + np.pi * 2 / 3 * (3**3 + 2**3)  # with round ends
    for spacing in ((1.0, 1.0, 1.0), (1.3, 0.8, 0.9)):
        grid = grid_mm((44, 48, 52), spacing)
        assert np.isclose(tube_occupancy(tube, grid).sum() * np.prod(spacing), volume, rtol=0.05)
    thin = tube * np.array([1, 1, 1, 0.1, 1, 1, 1, 0.1], dtype=np.float32)
    assert np.isclose(
        tube_occupancy(thin, grid_mm((44, 48, 52), (1, 1, 1))).sum(),
        np.pi * length * 0.01 * (9 + 6 + 4) / 3,
        rtol=0.1,
    )


def test_tree_reaches_every_point_and_follows_the_law_of_murray():
    rng = np.random.default_rng(0)
    points = rng.uniform(-30, 30, (64, 3)).astype(np.float32)
    tubes = grow_tree(points, np.zeros(3), 0.5, rng)
    ends = tubes[:, 4:7]
    assert max(np.linalg.norm(ends - p, axis=1).min() for p in points) < 4
    assert np.isclose(tubes[0, 7], 0.5 * 64 ** (1 / 3), rtol=1e-5)
    assert len(tubes) == 2 * (2 * 64 - 1)


def test_nodules_lie_in_the_lung_apart_and_with_the_asked_diameter(chest):
    voxel_mm = float(np.prod(SPACING) ** (1 / 3))
    for i, nodule in enumerate(chest.nodules):
        voxels = chest.nodule_labels == i + 1
        diameter = (6 / np.pi * voxels.sum() * np.prod(SPACING)) ** (1 / 3)
        assert abs(diameter - nodule.diameter_mm) < voxel_mm
        center = tuple(np.rint(nodule.center_zyx).astype(int))
        assert chest.nodule_labels[center] == i + 1 and chest.lung_mask[center] == 1
        for other in chest.nodules[:i]:
            gap = np.linalg.norm(np.subtract(nodule.center_mm, other.center_mm))
            assert gap > (nodule.diameter_mm + other.diameter_mm) / 2


def test_position_in_mm_and_in_voxels_agree_with_the_spacing(chest):
    for nodule in chest.nodules:
        expected = (np.array(SHAPE) - 1) / 2 + np.array(nodule.center_mm) / SPACING
        assert np.allclose(nodule.center_zyx, expected, atol=1e-3)


def test_field_of_view_shows_the_same_patient_at_any_spacing(anatomy):
    fine = lung_surface(anatomy, grid_mm((31, 31, 31), (1, 1, 1), (0, 0, 80)))
    coarse = lung_surface(anatomy, grid_mm((11, 7, 7), (3, 5, 5), (0, 0, 80)))
    assert np.allclose(coarse, fine[::3, ::5, ::5], atol=1e-3)


def test_attenuation_rises_with_the_rating_of_texture(anatomy):
    place = place_nodules(anatomy, 1, np.array([-60, -60, 40]), np.array([60, 60, 120]), 14.0)[0]
    grid = grid_mm((24, 26, 28), (1.0, 1.0, 1.0), place.center_mm)
    means = []
    for texture in (1.0, 2.0, 3.0, 4.0, 5.0):
        ratings = dict.fromkeys(RATINGS, 1.0) | {"texture": texture, "margin": 4.0, "calcification": 6.0}
        nodule = PhantomNodule(place.center_mm, (11.5, 12.5, 13.5), 14.0, ratings, seed=1)
        ct, _ = render(anatomy, [nodule], grid, (1, 1, 1), np.random.default_rng(0))
        near = np.linalg.norm(np.indices(ct.shape).T - (11.5, 12.5, 13.5), axis=-1).T < 5
        means.append(ct[near].mean())
    assert np.all(np.diff(means) > 20)
    assert -660 < means[0] < -500 and -20 < means[-1] < 60


def test_ratings_keep_their_scales_and_malignancy_follows_size_and_outline():
    box = np.array([130.0, 105.0, 140.0])
    drawn = [n for seed in range(2) for n in place_nodules(draw_anatomy(seed), 60, -box, box)]
    table = {name: np.array([n.ratings[name] for n in drawn]) for name in RATINGS}
    for name, values in table.items():
        assert values.min() >= 1 and values.max() <= (6 if name == "calcification" else 5)
    diameter = np.array([n.diameter_mm for n in drawn])
    assert diameter.min() >= 4 and diameter.max() <= 25
    plain = table["calcification"] == 6
    assert plain.mean() > 0.6
    documented = 2.8 + 0.14 * (diameter - 10) + 0.3 * (table["lobulation"] - 2) + 0.4 * (table["spiculation"] - 2)
    residual = (table["malignancy"] - np.clip(documented, 1, 5))[plain]
    assert abs(residual.mean()) < 0.15 and 0.25 < residual.std() < 0.5
    for cause in (diameter, table["lobulation"], table["spiculation"]):
        assert spearmanr(cause[plain], table["malignancy"][plain]).statistic > 0.2
    assert table["malignancy"][~plain].mean() < table["malignancy"][plain].mean()


def test_noise_is_band_passed_in_the_plane_and_low_passed_along_z():
    noise = ct_noise((24, 96, 88), (1.5, 0.7, 0.7), 0.42, np.random.default_rng(0))
    assert np.isclose(noise.std(), 1, atol=1e-3) and abs(noise.mean()) < 0.02
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(96, 0.7)[:, None], np.fft.fftfreq(88, 0.7)[None])
    closed_form = (frequency / 0.42 + 0.03) * np.exp(-((frequency / 0.42) ** 2))
    rings = [(frequency >= f) & (frequency < f + 0.06) for f in np.arange(0, 0.66, 0.06)]
    measured, expected = (np.array([spectrum[ring].mean() for ring in rings]) for spectrum in (power, closed_form))
    assert np.allclose(measured / measured.sum(), expected / expected.sum(), rtol=0.1)
    assert np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1] > 0.1


def test_rows_make_a_prepared_dataset_split_by_patient(tmp_path):
    rows = list(phantom_nodules(7, 20, spacing_mm=2.0, seed=1))
    assert len(rows) == 7 and {row["split"] for row in rows} == {"train", "test"}
    save_nodule_dataset(rows, tmp_path / "phantom", crop_size=20)
    nodule = read_nodule(load_nodules(tmp_path / "phantom", "test"), 0)
    assert nodule["source"] == "phantom" and nodule["spacing_mm"].tolist() == [2, 2, 2]
    assert np.array_equal(nodule["ct_hu"], rows[6]["ct_hu"])
    for row in rows:
        centroid = np.argwhere(row["lesion_mask"]).mean(axis=0)
        assert np.linalg.norm(centroid - 9.5) < 2.5
        diameter = (6 / np.pi * row["lesion_mask"].sum() * 8) ** (1 / 3)
        assert abs(diameter - row["diameter_mm"]) < 2.0
    assert np.array_equal(next(phantom_nodules(1, 20, 2.0, 1))["ct_hu"], rows[0]["ct_hu"])


def test_image_carries_the_spacing_in_the_order_of_simpleitk(chest):
    image = phantom_image(chest)
    assert image.GetSpacing() == SPACING[::-1] and image.GetSize() == SHAPE[::-1]


def test_a_view_without_lung_is_refused_with_the_box_it_searched():
    with pytest.raises(ValueError, match=r"no place for nodule 1 of 2.*larger field of view"):
        chest_phantom((16, 16, 16), (1, 1, 1), n_nodules=2, center_mm=(-120, 0, -60))
    with pytest.raises(ValueError, match="at least 8 voxels"):
        chest_phantom((4, 16, 16), (1, 1, 1))
