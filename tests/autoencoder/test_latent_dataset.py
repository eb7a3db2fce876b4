"""The encoded dataset on disk."""

import numpy as np
import pytest

from autoencoder.latent_dataset import latent_features, load_latents, read_latent, save_latent_dataset
from imaging.dataset.nodules import RATINGS, save_nodule_dataset

LATENT, EDGE = (2, 3, 3, 3), 6


def row(name: str, split: str, **values) -> dict:
    rng = np.random.default_rng(len(name))
    return {
        "nodule_id": name,
        "patient_id": name,
        "source": "test",
        "split": split,
        "variant": 0,
        **{key: rng.standard_normal(LATENT, np.float32) for key in ("latent_mean", "latent_std", "blanked_latent")},
        "ct_hu": rng.integers(-1024, 400, (EDGE,) * 3).astype(np.int16),
        "lesion_mask": rng.integers(0, 2, (EDGE,) * 3).astype(np.uint8),
        "paint_mask": np.ones((EDGE,) * 3, np.uint8),
        "valid_mask": np.ones((EDGE,) * 3, np.uint8),
        "semantic_map": rng.integers(0, 8, (EDGE,) * 3).astype(np.uint8),
        "paint_margin_mm": 2.0,
        "spacing_mm": np.array([2.5, 0.7, 0.8], np.float32),
        "diameter_mm": 7.5,
        "malignancy": 4.25,
        "texture": None,
        **values,
    }


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row("a", "test"), row("bb", "train", variant=3), row("ccc", "train", malignancy=np.nan)]
    save_latent_dataset(rows, tmp_path / "out", latent_features(LATENT, EDGE))
    train = load_latents(tmp_path / "out", "train")
    assert len(train) == 2 and len(load_latents(tmp_path / "out", "test")) == 1
    read = read_latent(train, 0)
    for name in ("latent_mean", "latent_std", "blanked_latent", "ct_hu", "lesion_mask", "valid_mask", "spacing_mm"):
        assert read[name].dtype == rows[1][name].dtype
        np.testing.assert_array_equal(read[name], rows[1][name])
    assert read["variant"] == 3 and read["malignancy"] == 4.25 and read["diameter_mm"] == 7.5
    assert all(np.isnan(read[name]) for name in RATINGS if name != "malignancy")
    assert np.isnan(read_latent(train, 1)["malignancy"])


def test_nothing_is_left_when_a_row_fails_and_a_killed_writers_rest_is_replaced(tmp_path):
    (tmp_path / ".tmp.out").mkdir()
    (tmp_path / ".tmp.out" / "train.arrow").write_text("half")

    def rows():
        yield row("a", "train")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save_latent_dataset(rows(), tmp_path / "out", latent_features(LATENT, EDGE))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no rows to save"):
        save_latent_dataset([], tmp_path / "out", latent_features(LATENT, EDGE))
    assert not list(tmp_path.iterdir())


def test_wrong_folders_are_named_with_their_remedy(tmp_path):
    save_latent_dataset([row("a", "train")], tmp_path / "out", latent_features(LATENT, EDGE))
    with pytest.raises(ValueError, match="out: exists already; choose another folder or delete it"):
        save_latent_dataset([row("a", "train")], tmp_path / "out", latent_features(LATENT, EDGE))
    with pytest.raises(ValueError, match="no split 'test'; it has 'train'"):
        load_latents(tmp_path / "out", "test")
    with pytest.raises(ValueError, match=r"missing: no such folder; make one with scripts/encode_latents\.py"):
        load_latents(tmp_path / "missing", "train")
    fields = ("nodule_id", "patient_id", "source", "split", "ct_hu", "valid_mask", "spacing_mm", "diameter_mm")
    nodule = {name: row("a", "train")[name] for name in fields}
    nodule |= {"lesion_mask": nodule["valid_mask"], "volume_mm3": 220.0}
    save_nodule_dataset([nodule], tmp_path / "nodules", EDGE)
    with pytest.raises(ValueError, match=r"not an encoded dataset, lacks the columns latent_mean, .*; make one with"):
        load_latents(tmp_path / "nodules", "train")
