"""The pool: made once, continued, refused where it is damaged."""

import pickle

import numpy as np
import pytest
from small_pool import ball, small_pool
from tiny_models import pixel_pipeline

from diffusion.transforms import insertion, making, pool
from diffusion.transforms.pool import LesionPool, PoolSettings, lesion_pool, shard_path


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A saved pipeline whose lesions pass, however they look."""
    monkeypatch.setattr(insertion, "LEAST_CONTRAST_HU", -1e9)
    monkeypatch.setattr(insertion, "MOST_EMPTY", 1.0)
    pixel_pipeline(crop_size=24).save_pretrained(tmp_path / "pipeline")
    return str(tmp_path / "pipeline")


def test_a_pool_is_made_once_and_what_is_missing_is_made_again(pipeline, tmp_path, monkeypatch):
    for module in (pool, making):
        monkeypatch.setattr(module, "SHARD", 2)  # in a file
    settings = PoolSettings(pipeline=pipeline, diameter_mm=(5, 7), lesions=3, steps=1)
    first = lesion_pool(settings, tmp_path / "pools")
    assert len(first) == 3 and all(4.5 < 2 * lesion.radius_mm < 7.5 for lesion in first.lesions())
    second = shard_path(first.folder, 1)
    content = second.read_bytes()
    second.unlink()
    again = lesion_pool(settings, tmp_path / "pools")
    assert again.folder == first.folder and second.read_bytes() == content
    monkeypatch.setattr(making, "fill_pool", None)  # nothing is made any more
    assert len(lesion_pool(settings, tmp_path / "pools")) == 3


def test_other_settings_are_another_pool(pipeline):
    one, other = (PoolSettings(pipeline=pipeline, seed=seed).record() for seed in (0, 1))
    assert one != other and one["pipeline_sha256"] == other["pipeline_sha256"]


def test_settings_out_of_range_are_refused_before_anything_is_made():
    for wrong, message in (
        ({"diameter_mm": (0, 5)}, "diameter_mm"),
        ({"lesions": 0}, "pool 0"),
        ({"seed": -1}, "seed -1"),
        ({"attributes": {"texture": (4.8, 5.0), "mean_hu": (-900, -800)}}, "solid"),
    ):
        with pytest.raises(ValueError, match=message):
            PoolSettings(**wrong)


def test_a_pool_is_read_by_a_process_that_gets_it_pickled_and_a_damaged_file_is_named(tmp_path):
    small = small_pool(tmp_path / "pool")
    assert len(small) == 3
    sent = pickle.dumps(small)
    assert len(sent) < 2000  # the folder, not the lesions
    lesion = pickle.loads(sent).draw(np.random.default_rng(0))
    assert any(np.array_equal(lesion.mask, ball(radius).mask) for radius in (4, 5, 6))
    shard_path(small.folder, 0).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"0000.safetensors: no lesions of a pool .* delete the file"):
        LesionPool(small.folder).lesions()
