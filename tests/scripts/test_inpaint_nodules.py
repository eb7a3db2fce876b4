"""Synthetic sets: lost lesions cost themselves alone, killed runs continue, and values are in the data's range."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffusion import LesionInpaintPipeline
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.lesions.mask import grown_mask
from scripts import inpaint_nodules
from scripts.inpaint_nodules import InpaintNodulesConfig, main


@pytest.fixture
def config(chain, tmp_path) -> InpaintNodulesConfig:
    return InpaintNodulesConfig(
        data=chain.nodules,
        pipeline=str(chain.classifier / "pipeline"),
        out=tmp_path / "synthetic",
        split="train",
        steps=2,
        batch_size=4,
        device="cpu",
    )


def volumes(folder: Path) -> dict[str, np.ndarray]:
    nodules = load_nodules(folder, "train")
    return {row["nodule_id"]: row["ct_hu"] for row in (read_nodule(nodules, index) for index in range(len(nodules)))}


def contents(folder: Path) -> dict[str, bytes]:
    """The data of a set; its state files hold fingerprints of the moment."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.arrow")}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_guided_lesions_stay_in_the_range_of_prepared_data_and_outside_is_the_scans(config):
    main(replace(config, attributes={"malignancy": "malignant"}, guidance_scale=500.0))
    made, given = volumes(config.out), load_nodules(config.data, "train")
    assert len(made) == len(given)
    for index in range(len(given)):
        row = read_nodule(given, index)
        inside, painted = row["lesion_mask"] > 0, grown_mask(row["lesion_mask"], 3.0, row["spacing_mm"]) > 0
        assert np.array_equal(made[row["nodule_id"]][~painted], row["ct_hu"][~painted])
        assert (made[row["nodule_id"]][inside] != row["ct_hu"][inside]).mean() > 0.5
    assert min(volume.min() for volume in made.values()) >= -1024


def test_a_killed_run_is_continued_without_making_a_lesion_twice(config, monkeypatch):
    class Killed(BaseException):
        pass

    undisturbed = replace(config, out=config.out.with_name("undisturbed"), samples=2)
    main(undisturbed)
    painted, made = inpaint_nodules.painted, []

    def dies_in_the_second_batch(pipeline, nodules, batch, settings):
        if made:
            raise Killed
        made.extend(batch)
        return painted(pipeline, nodules, batch, settings)

    monkeypatch.setattr(inpaint_nodules, "painted", dies_in_the_second_batch)
    with pytest.raises(Killed):
        main(replace(config, samples=2))
    assert len(made) == 4 and not config.out.exists()
    again = []

    def counts(pipeline, nodules, batch, settings):
        again.extend(batch)
        return painted(pipeline, nodules, batch, settings)

    monkeypatch.setattr(inpaint_nodules, "painted", counts)
    main(replace(config, samples=2))
    assert not set(again) & set(made) and len(again) + len(made) == 2 * len(load_nodules(config.data, "train"))
    assert same(volumes(config.out), volumes(undisturbed.out))
    assert contents(config.out) == contents(undisturbed.out)
    assert [path.name for path in config.out.parent.iterdir() if path.name.startswith(".")] == []


def test_a_lesion_that_fails_costs_itself_and_is_listed_with_its_reason(config, monkeypatch, capsys):
    call, bad = LesionInpaintPipeline.__call__, read_nodule(load_nodules(config.data, "train"), 2)

    def fails_for_one(self, ct, mask, **options):
        if any(np.array_equal(volume[0], bad["ct_hu"]) for volume in ct):
            raise ValueError("no such luck")
        return call(self, ct, mask, **options)

    whole = replace(config, out=config.out.with_name("whole"))
    main(whole)
    monkeypatch.setattr(LesionInpaintPipeline, "__call__", fails_for_one)
    main(config)
    expected = volumes(whole.out)
    del expected[bad["nodule_id"]]
    assert same(volumes(config.out), expected)
    with config.out.with_name("synthetic_left_out.csv").open() as file:
        assert list(csv.reader(file)) == [["nodule_id", "sample", "reason"], [bad["nodule_id"], "0", "no such luck"]]
    assert "1 left out" in capsys.readouterr().out


def test_a_set_of_which_no_lesion_can_be_made_says_why_and_leaves_nothing(config):
    unguided = replace(config, pipeline=config.pipeline.replace("classifier", "ldm"), attributes={"colour": "red"})
    with pytest.raises(ValueError, match=r"none of \d+ lesions could be made; .* is unknown to this pipeline"):
        main(unguided)
    assert list(config.out.parent.iterdir()) == []


def test_an_unfinished_run_of_other_settings_is_refused(config, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inpaint_nodules, "painted", stop)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    with pytest.raises(ValueError, match=r"settings\.json: made with other settings \(seed: 0 -> 1\); go back"):
        main(replace(config, seed=1))
    with pytest.raises(ValueError, match=r"\(batch_size: 4 -> 3; vae: None -> .*; vae_sha256: None -> \w{64}\)"):
        main(replace(config, batch_size=3, vae=str(Path(config.pipeline) / "vae")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guidance_scale": float("nan")}, "guidance_scale nan, expected a finite number"),
        ({"blend_mm": float("inf")}, "blend_mm inf, expected a finite number of at least 0"),
        ({"steps": 0}, "num_inference_steps 0, expected a whole number of at least 1"),
        ({"device": "tpu"}, "device 'tpu', expected cpu, or cuda where"),
        ({"samples": 0}, "samples 0, batch_size 4, lesions None: expected at least 1 of each"),
    ],
)
def test_options_out_of_range_are_named_before_anything_is_made(config, change, message):
    with pytest.raises(ValueError, match=message):
        main(replace(config, **change))
    assert list(config.out.parent.iterdir()) == []
