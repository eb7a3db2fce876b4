"""Training samples from the prepared dataset."""

from itertools import product

import numpy as np
import pytest
import torch

from autoencoder.latent_dataset import MASKS, latent_features, save_latent_dataset
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.dataset.scan_volumes import save_scans
from imaging.phantom.chest import phantom_nodules
from imaging.window import to_norm
from training.data import LatentNodules, NodulePatches

WINDOW = (1500.0, -400.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "nodules"
    rows = [dict(row) for row in phantom_nodules(2, 16, 2.0)]
    rows[0]["valid_mask"] = np.ones((16, 16, 16), np.uint8)
    rows[0]["valid_mask"][:2] = 0
    rows[0]["lesion_mask"][:2] = 0
    save_nodule_dataset(rows, out, 16)
    return out


def window_of(volume, start, size, flipped):
    window = volume[tuple(slice(s, s + size) for s in start)]
    return np.flip(window, [axis for axis in range(3) if flipped[axis]])


def test_a_patch_is_a_flipped_window_of_its_crop_with_its_valid_mask(path):
    patches = NodulePatches(path, "train", 12, WINDOW, seed=3)
    nodule = read_nodule(load_nodules(path, "train"), 0)
    ct_norm, seen = to_norm(nodule["ct_hu"].astype(np.float32), *WINDOW), set()
    for draw in range(60):
        patch = patches[(0, draw)]
        assert patch["ct_norm"].shape == patch["valid_mask"].shape == (1, 12, 12, 12) and patch["draw"] == draw
        found = [
            (start, flipped)
            for start in product(range(5), repeat=3)
            for flipped in product((False, True), repeat=3)
            if np.array_equal(patch["ct_norm"][0], window_of(ct_norm, start, 12, flipped))
        ]
        assert len(found) == 1
        np.testing.assert_array_equal(
            patch["valid_mask"][0], window_of(nodule["valid_mask"], found[0][0], 12, found[0][1])
        )
        seen.add(found[0])
    assert len({start for start, _ in seen}) > 20 and len({flipped for _, flipped in seen}) == 8


def test_a_patch_depends_on_seed_and_draw_alone(path):
    patch = NodulePatches(path, "train", 12, WINDOW, seed=3)[(1, 40)]["ct_norm"]
    assert np.array_equal(patch, NodulePatches(path, "train", 12, WINDOW, seed=3)[(1, 40)]["ct_norm"])
    assert not np.array_equal(patch, NodulePatches(path, "train", 12, WINDOW, seed=4)[(1, 40)]["ct_norm"])


def test_half_of_the_patches_are_centred_on_the_lesion(path):
    patches = NodulePatches(path, "train", 4, WINDOW, seed=0)
    nodule = read_nodule(load_nodules(path, "train"), 1)
    ct_norm = to_norm(nodule["ct_hu"].astype(np.float32), *WINDOW)
    start = np.rint(np.argwhere(nodule["lesion_mask"]).mean(axis=0) - 2).astype(int)
    central = [window_of(ct_norm, start, 4, flipped) for flipped in product((False, True), repeat=3)]
    hits = [any(np.array_equal(patches[(1, k)]["ct_norm"][0], c) for c in central) for k in range(100)]
    assert np.mean(hits) == pytest.approx(0.5, abs=0.15)


def test_a_patch_larger_than_the_crops_is_refused(path):
    with pytest.raises(ValueError, match=r"patch_size 20: the crops of .* have 16 voxels; choose at most that"):
        NodulePatches(path, "train", 20, WINDOW, seed=0)


def test_patches_of_scans_come_from_their_bodies_in_the_asked_share(tmp_path):
    save_nodule_dataset(phantom_nodules(4, 16, 2.0), tmp_path / "data", 16)
    ct_hu = np.full((20, 24, 28), -1000.0)
    ct_hu[4:16, 4:20, 6:22] = 200  # a body whose patches are 200 HU throughout
    save_scans([("one", ct_hu)], tmp_path / "scans", 2.0)
    patches = NodulePatches(tmp_path / "data", "train", 8, WINDOW, 0, tmp_path / "scans", 0.5)
    drawn = [patches[(draw % len(patches), draw)]["ct_norm"] for draw in range(200)]
    of_scans = [patch for patch in drawn if torch.all(patch == to_norm(np.float32(200.0), *WINDOW))]
    assert 70 < len(of_scans) < 130
    crops_alone = NodulePatches(tmp_path / "data", "train", 8, WINDOW, 0)
    assert not torch.all(crops_alone[(0, 0)]["ct_norm"] == to_norm(np.float32(200.0), *WINDOW))
    with pytest.raises(ValueError, match="scan_fraction 2"):
        NodulePatches(tmp_path / "data", "train", 8, WINDOW, 0, tmp_path / "scans", 2)
    with pytest.raises(ValueError, match="body of one has"):
        NodulePatches(tmp_path / "data", "train", 16, WINDOW, 0, tmp_path / "scans")


def test_kept_latents_are_read_under_their_new_numbers(tmp_path):
    rng = np.random.default_rng(0)
    latents = ("latent_mean", "latent_std", "blanked_latent")
    rows = [
        {
            **dict.fromkeys(("nodule_id", "patient_id", "source"), str(number)),
            "split": "train",
            "variant": 0,
            **{name: rng.standard_normal((2, 2, 2, 2), np.float32) for name in latents},
            **dict.fromkeys(("ct_hu", *MASKS), np.zeros((4, 4, 4), np.uint8)),
            "spacing_mm": (1.0, 1.0, 1.0),
            "malignancy": float(number),
        }
        for number in range(1, 6)
    ]
    save_latent_dataset(rows, tmp_path / "latents", latent_features((2, 2, 2, 2), 4))
    nodules = LatentNodules(tmp_path / "latents", "train", ("malignancy",))
    nodules.keep([1, 4])
    assert len(nodules) == 2 and nodules.latents["malignancy"][:] == [2.0, 5.0]
    assert [nodules[(position, 0)]["malignancy"].item() for position in range(2)] == [2.0, 5.0]
    assert np.array_equal(nodules[(1, 7)]["latent_mean"], rows[4]["latent_mean"])
