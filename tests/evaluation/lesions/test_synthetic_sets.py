"""Synthetic sets: lost lesions cost themselves alone, killed runs continue, and other settings are refused."""

import csv
import functools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_models import RecordingGuide, pixel_pipeline, randomised, tiny_unet

from diffusion import LesionInpaintPipeline, SPADEUNet3D
from evaluation.lesions import synthetic_sets
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import make_set, synthetic_row
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.phantom.chest import phantom_nodules

SIZE, SPACING_MM = 16, 2.0
WEIGHTS = {"pipeline_sha256": "0" * 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "nodules"
    save_nodule_dataset(({**row, "split": "train"} for row in phantom_nodules(6, SIZE, SPACING_MM)), folder, SIZE)
    return folder


@pytest.fixture
def config(data, tmp_path) -> SyntheticSetConfig:
    return SyntheticSetConfig(data=data, out=tmp_path / "synthetic", split="train", steps=2, batch_size=4)


@pytest.fixture(scope="module")
def pipeline() -> LesionInpaintPipeline:
    return pixel_pipeline(crop_size=SIZE, spacing_mm=SPACING_MM)


def made(pipeline: LesionInpaintPipeline, config: SyntheticSetConfig, **weights: str) -> tuple[int, int]:
    return make_set(pipeline, load_nodules(config.data, config.split), config, WEIGHTS | weights)


def rows_of(folder: Path) -> Iterator[dict]:
    nodules = load_nodules(folder, "train")
    return (read_nodule(nodules, index) for index in range(len(nodules)))


def contents(folder: Path) -> dict[str, bytes]:
    """The data of a set; its state files hold fingerprints of the moment."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.arrow")}


def test_each_mask_gets_its_own_lesions_and_outside_is_the_scans(config, pipeline):
    assert made(pipeline, replace(config, samples=2, lesions=3)) == (6, 0)
    given = {row["nodule_id"]: row for row in rows_of(config.data)}
    names = [list(given)[index] for index in (0, 2, 5)]  # evenly spaced
    rows = list(rows_of(config.out))
    assert [row["nodule_id"] for row in rows] == [f"{name}_seed{k}" for name in names for k in range(2)]
    for row in rows:
        real = given[row["nodule_id"].rpartition("_seed")[0]]
        inside = real["lesion_mask"] > 0
        assert np.array_equal(row["lesion_mask"], real["lesion_mask"]) and row["patient_id"] == real["patient_id"]
        assert np.array_equal(row["ct_hu"][~inside], real["ct_hu"][~inside])  # no margin
        assert (row["ct_hu"][inside] != real["ct_hu"][inside]).mean() > 0.5
        assert row["source"] == f"{real['source']}, inpainted"
    assert not np.array_equal(rows[0]["ct_hu"], rows[1]["ct_hu"])


def test_crops_of_another_spacing_are_painted_as_scans_and_keep_what_lies_beyond_their_scan(config, tmp_path):
    coarse = tmp_path / "coarse"
    rows = [{**row, "split": "train"} for row in phantom_nodules(2, SIZE, 2 * SPACING_MM)]
    for row in rows:
        row["valid_mask"] = np.array(row["valid_mask"])
        row["valid_mask"][:2] = 0
    save_nodule_dataset(iter(rows), coarse, SIZE)
    finer = pixel_pipeline(crop_size=2 * SIZE, spacing_mm=SPACING_MM)
    assert made(finer, replace(config, data=coarse, blend_mm=0.0)) == (2, 0)
    for given, row in zip(rows, rows_of(config.out), strict=True):
        differs = row["ct_hu"] != given["ct_hu"]
        assert differs[row["lesion_mask"] > 0].mean() > 0.9
        assert not differs[:2].any()


def test_a_whole_crop_is_made_from_the_map_of_the_real_one_and_its_own_ratings_are_requested(config, monkeypatch):
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, num_labels=8)
    grid = {"crop_size": SIZE, "spacing_mm": SPACING_MM, "paint_margin_mm": 2.0, "detailed_map": True}
    pipeline = pixel_pipeline(unet, guide=RecordingGuide(), **grid)
    called = []
    synthesize = pipeline.synthesize

    @functools.wraps(synthesize)
    def recorded(semantic_map, **options):
        called.append((semantic_map, options))
        return synthesize(semantic_map, **options)

    monkeypatch.setattr(pipeline, "synthesize", recorded)
    asked = {"site": "whole", "own_ratings": ("malignancy",), "guidance_scale": 2.0}
    assert made(pipeline, replace(config, lesions=2, **asked)) == (2, 0)
    given = [row for index, row in enumerate(rows_of(config.data)) if index in (0, 5)]
    (maps, options), rows = called[0], list(rows_of(config.out))
    wanted = [None if np.isnan(row["malignancy"]) else row["malignancy"] for row in given]
    assert options["attributes"] == {"malignancy": wanted}
    assert (options["guidance_scale"], options["num_inference_steps"]) == (2.0, 2)
    for real, row, semantic_map in zip(given, rows, maps[:, 0], strict=True):
        assert np.array_equal(semantic_map >= 5, real["lesion_mask"] > 0)
        far = ndimage.distance_transform_edt(real["lesion_mask"] == 0, sampling=SPACING_MM) > 2
        dense = far & (real["ct_hu"] >= -400)
        assert np.array_equal(semantic_map[dense], 1 + np.digitize(real["ct_hu"][dense], (0, 200)))
        assert row["nodule_id"] == real["nodule_id"] and (row["ct_hu"] != real["ct_hu"]).mean() > 0.9
    with pytest.raises(ValueError, match=r"crops of \[2. 2. 2.\] mm, the model makes crops of 1 mm"):
        made(pixel_pipeline(unet), replace(config, site="whole", out=config.out.with_name("other")))
    with pytest.raises(ValueError, match="own_ratings margin: expected some of malignancy, lobulation"):
        replace(config, own_ratings=("margin",))


def test_a_lesion_is_the_same_in_any_batch_and_beside_any_number_of_samples(config, pipeline):
    made(pipeline, replace(config, samples=2))
    made(pipeline, replace(config, samples=2, lesions=2, batch_size=1, out=config.out.with_name("alone")))
    wanted = {row["nodule_id"]: row["ct_hu"] for row in rows_of(config.out)}
    for row in rows_of(config.out.with_name("alone")):
        assert np.abs(row["ct_hu"] - wanted[row["nodule_id"]]).max() <= 1  # rounding


def test_a_killed_run_is_continued_without_making_a_lesion_twice(config, pipeline, monkeypatch):
    class Killed(BaseException):
        pass

    config, undisturbed = replace(config, samples=2), replace(config, samples=2, out=config.out.with_name("all"))
    made(pipeline, undisturbed)
    paint_batch, done = synthetic_sets.paint_batch, []

    def dies_in_the_second_batch(pipeline, nodules, batch, config):
        if done:
            raise Killed
        done.extend(batch)
        return paint_batch(pipeline, nodules, batch, config)

    monkeypatch.setattr(synthetic_sets, "paint_batch", dies_in_the_second_batch)
    with pytest.raises(Killed):
        made(pipeline, config)
    assert len(done) == 4 and not config.out.exists()
    again = []

    def counts(pipeline, nodules, batch, config):
        again.extend(batch)
        return paint_batch(pipeline, nodules, batch, config)

    monkeypatch.setattr(synthetic_sets, "paint_batch", counts)
    assert made(pipeline, config) == (12, 0)
    assert not set(again) & set(done) and len(again) + len(done) == 12
    assert contents(config.out) == contents(undisturbed.out)
    assert [path.name for path in config.out.parent.iterdir() if path.name.startswith(".")] == []


def test_a_lesion_that_fails_costs_itself_and_is_listed_with_its_reason(config, pipeline, monkeypatch):
    made(pipeline, replace(config, out=config.out.with_name("whole")))
    expected = {row["nodule_id"]: row["ct_hu"] for row in rows_of(config.out.with_name("whole"))}
    call, bad = LesionInpaintPipeline.__call__, list(rows_of(config.data))[2]

    def fails_for_one(self, ct, mask, **options):
        if any(np.array_equal(volume[0], bad["ct_hu"]) for volume in ct):
            raise ValueError("no such luck")
        return call(self, ct, mask, **options)

    monkeypatch.setattr(LesionInpaintPipeline, "__call__", fails_for_one)
    assert made(pipeline, config) == (5, 1)
    del expected[bad["nodule_id"]]
    found = {row["nodule_id"]: row["ct_hu"] for row in rows_of(config.out)}
    assert list(found) == list(expected)
    assert all(np.abs(found[name] - expected[name]).max() <= 1 for name in expected)
    with synthetic_sets.left_out_file(config.out).open() as file:
        assert list(csv.reader(file)) == [["nodule_id", "sample", "reason"], [bad["nodule_id"], "0", "no such luck"]]
    monkeypatch.setattr(LesionInpaintPipeline, "__call__", call)
    shutil.rmtree(config.out)
    assert made(pipeline, config) == (6, 0)
    assert not synthetic_sets.left_out_file(config.out).exists()


def test_a_set_of_which_no_lesion_can_be_made_says_why_and_leaves_nothing(config, pipeline):
    with pytest.raises(ValueError, match=r"none of 6 lesions could be made; the first: .* is unknown to this pipeline"):
        made(pipeline, replace(config, attributes={"colour": "red"}))
    assert list(config.out.parent.iterdir()) == []


def test_an_unfinished_run_of_other_settings_is_refused(config, pipeline, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_sets, "paint_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        made(pipeline, config)
    with pytest.raises(ValueError, match=r"settings\.json: made with other settings \(seed: 0 -> 1\); go back"):
        made(pipeline, replace(config, seed=1))
    with pytest.raises(ValueError, match=r"\(batch_size: 4 -> 3; vae: None -> folder\)"):
        made(pipeline, replace(config, batch_size=3), vae="folder")


def test_the_network_sees_what_it_sees_in_a_users_call_whatever_the_nodules_rating_is(data, config, monkeypatch):
    unet = SPADEUNet3D(latent_channels=1, condition_channels=4, map_factor=1, channels=(4, 8), num_labels=8)
    pipeline = pixel_pipeline(randomised(unet), crop_size=SIZE, spacing_mm=SPACING_MM)
    modulate, maps = pipeline.unet.modulate, []
    monkeypatch.setattr(pipeline.unet, "modulate", lambda labels: maps.append(labels) or modulate(labels))
    row = next(rows_of(data))
    for malignancy in (1.0, 5.0):
        monkeypatch.setattr(synthetic_sets, "read_nodule", lambda *_, m=malignancy: {**row, "malignancy": m})
        synthetic_sets.paint_batch(pipeline, load_nodules(data, "train"), [(0, 0)], config)
    arrays = (torch.from_numpy(row[name])[None, None] for name in ("ct_hu", "lesion_mask"))
    pipeline(*arrays, valid_mask=torch.from_numpy(row["valid_mask"])[None, None], num_inference_steps=1)
    assert len(maps) == 3 and torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])


def test_lesions_go_to_lesion_free_lung_of_other_patients_or_are_left_out(data, config, pipeline, monkeypatch):
    tried = []

    def free_site(nodule, hosts, random):
        hosts = list(hosts)
        tried.append((nodule["nodule_id"], [host["nodule_id"] for host in hosts]))
        if len(tried) == 1 or nodule["nodule_id"] == tried[0][0]:
            return None
        return {name: hosts[0][name] for name in ("ct_hu", "lesion_mask", "valid_mask")}, hosts[0]["nodule_id"]

    monkeypatch.setattr(synthetic_sets, "free_site", free_site)
    assert made(pipeline, replace(config, site="free", lesions=3, batch_size=1)) == (2, 1)
    orders = dict(tried)
    assert all(sorted(order) == sorted(orders[tried[0][0]]) for order in orders.values())
    given = {row["nodule_id"]: row for row in rows_of(data)}
    for row in rows_of(config.out):
        host = given[orders[row["nodule_id"]][0]]
        assert np.array_equal(row["lesion_mask"], host["lesion_mask"])
        far = host["lesion_mask"] == 0
        assert np.array_equal(row["ct_hu"][far], host["ct_hu"][far])
    assert "has lesion-free lung" in (config.out.parent / "synthetic_left_out.csv").read_text()


def test_a_row_keeps_what_is_known_of_the_nodule_and_says_which_sample_it_is(data):
    row = next(rows_of(data))
    ct_hu = row["ct_hu"] + 1
    alone, third = (synthetic_row(row, ct_hu, k, samples) for k, samples in ((0, 1), (2, 3)))
    assert alone["nodule_id"] == row["nodule_id"] and third["nodule_id"] == f"{row['nodule_id']}_seed2"
    assert np.array_equal(alone["ct_hu"], ct_hu) and alone["diameter_mm"] == row["diameter_mm"]
