"""Encoding: batches equal singles, a killed run continues, variants from a finer grid, float16, plain conditions."""

from dataclasses import replace

import numpy as np
import pytest
from running_service import tiny_autoencoder

from autoencoder.latent_dataset import LATENTS, load_latents, read_latent
from imaging.dataset.augmentation import AUGMENTATION
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from scripts import encode_latents
from scripts.encode_latents import EncodeConfig, main

SIZE = 24


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """Three training nodules and one for validation, 24 voxels of 0.7 mm; and an autoencoder."""
    root = tmp_path_factory.mktemp("fine")
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    far = np.sqrt((np.stack(np.meshgrid(axis, axis, axis, indexing="ij")) ** 2).sum(0)) * 0.7
    random = np.random.default_rng(0)
    rows = []
    for name, split, radius_mm in (("a", "train", 3), ("b", "train", 4), ("c", "train", 5), ("d", "validation", 4)):
        rows.append(
            {
                "nodule_id": name,
                "patient_id": name,
                "source": "made",
                "split": split,
                "ct_hu": np.where(far <= radius_mm, 30, -850) + random.normal(0, 20, far.shape),
                "lesion_mask": (far <= radius_mm).astype(np.uint8),
                "valid_mask": np.ones(far.shape, np.uint8),
                "spacing_mm": np.full(3, 0.7, np.float32),
                "diameter_mm": 2.0 * radius_mm,
                "volume_mm3": 4 / 3 * np.pi * radius_mm**3,
                "texture": 5.0,
            }
        )
    save_nodule_dataset(rows, root / "nodules", SIZE)
    tiny_autoencoder().save_pretrained(root / "vae")
    return root


def config_of(root, out, **options) -> EncodeConfig:
    grid = {"spacing_mm": 1.0, "crop_size": 16}
    return EncodeConfig(
        root / "nodules", str(root / "vae"), out, variants=4, variants_in_context=4, device="cpu", **(grid | options)
    )


def rows_of(out, split="train"):
    dataset = load_latents(out, split)
    return [read_latent(dataset, index) for index in range(len(dataset))]


@pytest.fixture(scope="module")
def encoded(fine):
    main(config_of(fine, fine / "latents"))
    return rows_of(fine / "latents")


def same(ours, theirs, tolerance=0.0):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if name in LATENTS:
                np.testing.assert_allclose(value, other[name], atol=tolerance, rtol=tolerance)
            else:
                np.testing.assert_array_equal(value, other[name])


def test_variants_come_from_the_fine_grid_at_the_models_spacing(fine, encoded):
    assert len(encoded) == 12 and len(rows_of(fine / "latents", "validation")) == 1
    for row in encoded:
        assert row["ct_hu"].shape == (16, 16, 16) and (row["spacing_mm"] == 1).all()
        measured_mm = np.cbrt(6 * row["lesion_mask"].sum() / np.pi)
        assert measured_mm == pytest.approx(row["diameter_mm"], rel=0.2 if row["elastic"] else 0.1)
        assert set(np.unique(row["semantic_map"][row["lesion_mask"] > 0])) in ({6}, {7})
    kinds = {int(row["semantic_map"].max()) for row in encoded}
    assert kinds == {6, 7}  # composition is told to some only


def test_the_first_variant_is_plain_and_the_others_carry_how_they_were_changed(encoded):
    for row in encoded:
        changed = [row[name] for name in AUGMENTATION]
        assert (row["variant"] == 0) <= (changed == [0, 0, 0, 0])
    assert any(row["zoom"] for row in encoded) and any(row["elastic"] for row in encoded)


def test_a_batch_gives_what_its_samples_give_one_by_one(fine, encoded, tmp_path):
    main(config_of(fine, tmp_path / "single", batch_size=1))
    same(encoded, rows_of(tmp_path / "single"), 2e-5)


def test_workers_give_the_same_rows(fine, encoded, tmp_path):
    main(config_of(fine, tmp_path / "workers", workers=2))
    same(encoded, rows_of(tmp_path / "workers"))


def test_a_killed_run_continues_to_the_same_bytes(fine, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_latents, "SHARD", 1)
    main(config_of(fine, tmp_path / "whole"))
    write, written = encode_latents.write_shard, []

    def killed(rows, path, features):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(rows, path, features)

    monkeypatch.setattr(encode_latents, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        main(config_of(fine, tmp_path / "cut"))
    assert not (tmp_path / "cut").exists() and len(list((tmp_path / "cut.partial").glob("*.arrow"))) == 2
    with pytest.raises(ValueError, match=r"cut\.partial: was begun with other seed; delete it or choose another --out"):
        main(config_of(fine, tmp_path / "cut", seed=1))
    monkeypatch.setattr(encode_latents, "write_shard", lambda *a: (written.append(a[1]), write(*a)))
    main(config_of(fine, tmp_path / "cut"))
    assert len(written) == len(set(written)) == 4 and not (tmp_path / "cut.partial").exists()
    for path in (tmp_path / "whole").rglob("*.arrow"):
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_float16_latents_are_read_as_float32_and_are_close(fine, encoded, tmp_path):
    main(config_of(fine, tmp_path / "half", float16=True))
    half = rows_of(tmp_path / "half")
    assert half[0]["latent_mean"].dtype == np.float32
    same(encoded, half, 2e-3)


def test_on_the_datasets_own_grid_the_plain_variant_is_the_row_to_the_bit(fine, tmp_path):
    main(config_of(fine, tmp_path / "own", spacing_mm=None, crop_size=None))
    nodules = load_nodules(fine / "nodules", "train")
    for row in rows_of(tmp_path / "own"):
        assert [row[name] for name in AUGMENTATION] == [0, 0, 0, 0]
        if row["variant"] == 0:
            nodule = read_nodule(nodules, nodules["nodule_id"][:].index(row["nodule_id"]))
            np.testing.assert_array_equal(row["ct_hu"], nodule["ct_hu"])
            np.testing.assert_array_equal(row["lesion_mask"], nodule["lesion_mask"])


def test_the_number_of_variants_is_also_that_in_context_unless_it_is_given(fine, tmp_path):
    once = EncodeConfig(fine / "nodules", str(fine / "vae"), tmp_path, crop_size=16, variants=1, device="cpu")
    main(replace(once, out=tmp_path / "out", spacing_mm=1.0))
    assert [row["nodule_id"] for row in rows_of(tmp_path / "out")] == ["a", "b", "c"]  # all lie inside their scans
    assert replace(once, variants_in_context=3).in_context == 3


def test_a_coarser_dataset_and_wrong_numbers_are_refused_before_encoding(fine, tmp_path):
    with pytest.raises(ValueError, match=r"expected one isotropic spacing of at most 0.5 mm to resample from"):
        main(config_of(fine, tmp_path / "out", spacing_mm=0.5))
    for name, value in (("batch_size", 0), ("workers", -1), ("unspecified_share", 1.5), ("spacing_mm", 0.0)):
        with pytest.raises(ValueError, match=name):
            replace(config_of(fine, tmp_path / "out"), **{name: value})
