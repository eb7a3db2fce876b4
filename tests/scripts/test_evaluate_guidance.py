"""A judge and a sweep on the tiny chain: what is made, once; what is reported; what is refused before work."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from diffusion import LesionInpaintPipeline
from evaluation.lesions import synthetic_sets
from evaluation.networks.lesion_judge import load_judge
from imaging.dataset.nodules import load_nodules, save_nodule_dataset
from imaging.phantom.chest import phantom_nodules
from scripts import evaluate_guidance, train_judge, train_ldm
from scripts.evaluate_guidance import EvaluateGuidanceConfig, main

pytestmark = pytest.mark.slow

SHORT = {"batch_size": 2, "steps": 2, "warmup_steps": 1, "evaluate_every": 2, "checkpoint_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def judge(chain, tmp_path_factory):
    out = tmp_path_factory.mktemp("judge") / "judge"
    train_judge.main(train_judge.TrainJudgeConfig(data=chain.nodules, out=out, members=2, epochs=5, repeats=10))
    return out


@pytest.fixture(scope="module")
def pipeline(chain, tmp_path_factory):
    """A U-Net that was trained to take malignancy and mean HU."""
    out = tmp_path_factory.mktemp("requested")
    unet = train_ldm.UNetConfig(
        channels=(8, 16), blocks_per_level=1, map_channels=4, attributes=("malignancy", "mean_hu")
    )
    options = {"data": chain.latents, "vae": chain.vae / "model", "out": out, "model": unet}
    train_ldm.main(train_ldm.LdmConfig(evaluate_crops=2, evaluate_steps=1, **options, **SHORT))
    return out / "pipeline"


@pytest.fixture
def config(chain, judge, pipeline, tmp_path) -> EvaluateGuidanceConfig:
    return EvaluateGuidanceConfig(
        data=chain.nodules,
        judge=judge,
        pipeline=str(pipeline),
        out=tmp_path / "report",
        scales=(0.0, 2.0),
        requests=("malignancy", "spiculation", "mean_hu"),
        steps=2,
        repeats=10,
        permutations=10,
        device="cpu",
    )


def test_a_sweep_is_reported_and_continued_without_making_a_set_twice(config, chain, tmp_path, monkeypatch):
    data = tmp_path / "nodules"
    shutil.copytree(chain.nodules, data, ignore=shutil.ignore_patterns("test_openings.csv"))
    config = replace(config, data=data)
    main(config)
    content = json.loads((config.out / "report.json").read_text())
    sets = config.out.with_name("report_sets")
    hu = json.loads((config.judge / "judge.json").read_text())["hu_quantiles"]["mean_hu"]
    made = {
        "unconditional",
        "malignancy_benign_at_2",
        "malignancy_malignant_at_2",
        *(f"mean_hu_{v:g}_at_2" for v in hu),
    }
    assert {path.name for path in sets.iterdir()} == made | {"settings.json"}
    masks = load_nodules(chain.nodules, "test")["nodule_id"][:]
    assert (content["masks"], content["sets"]) == (len(masks), len(made))
    assert content["changed_outside"] == 0 and content["outside"] > 1000 * len(masks)
    assert [(row["scale"], row["lesions"]) for row in content["classes"]] == [(0, len(masks)), (2, len(masks))]
    assert content["classes"][0]["equal_size"] == pytest.approx(0.5)
    assert {(row["attribute"], row["scale"]) for row in content["ranks"]} == {("mean_hu", 0), ("mean_hu", 2)}
    assert {(row["attribute"], row["value"]) for row in content["leaks"]} == {
        ("malignancy", "benign"),
        ("malignancy", "malignant"),
        ("mean_hu", f"{hu[0]:g}"),
        ("mean_hu", f"{hu[-1]:g}"),
    }
    costs = {(row["attribute"], row["scale"]): row["distances"] for row in content["costs"]}
    assert set(costs) == {("malignancy", 0), ("malignancy", 2), ("mean_hu", 0), ("mean_hu", 2)}
    metrics = {row["metric"]: row for row in costs["malignancy", 2]}
    assert {"Gabor WD, standardised", "Fréchet 3D", "Coverage WD"} <= set(metrics)
    assert metrics["Fréchet 3D"]["synthetic_lesions"] == 2 * len(masks) and metrics["Fréchet 3D"]["shared"]
    assert "spiculation: not requested, this pipeline does not know it" in "\n".join(content["left_out"])
    assert {row["lesions_of"] for row in content["judge"]} == {"test"}
    markdown = (config.out / "report.md").read_text()
    pictures = [line.split("(")[-1].rstrip(")") for line in markdown.splitlines() if line.startswith("![")]
    drawn = {"trade_off", "hu", "leakage", "benign_malignant", "three_planes", "mean_hu"}
    assert sorted(pictures) == sorted(f"pictures/{name}.png" for name in drawn)
    assert {str(file.relative_to(config.out)) for file in (config.out / "pictures").iterdir()} == set(pictures)
    assert "The test split of this dataset has been opened" in markdown
    assert len((data / "test_openings.csv").read_text().splitlines()) == 2

    again = []
    paint_batch = synthetic_sets.paint_batch
    monkeypatch.setattr(synthetic_sets, "paint_batch", lambda *a: again.append(a[3].out) or paint_batch(*a))
    main(replace(config, scales=(0.0, 2.0, 4.0), requests=("malignancy",), distances_of=()))
    assert {path.name for path in again} == {"malignancy_benign_at_4", "malignancy_malignant_at_4"}
    more = json.loads((config.out / "report.json").read_text())
    assert more["classes"][:2] == content["classes"] and more["classes"][2]["scale"] == 4
    with pytest.raises(ValueError, match=r"report_sets/settings\.json: made with other settings \(seed: 0 -> 1\)"):
        main(replace(config, seed=1))


@pytest.fixture
def undrawn(monkeypatch):
    """Without pictures, which take most of the time."""
    for part in ("draw_curves", "draw_lesions"):
        monkeypatch.setattr(evaluate_guidance, part, lambda *_: None)


def test_all_scales_and_wishes_of_a_lesion_start_from_the_same_noise(config, undrawn, monkeypatch):
    seeds = {}
    call = LesionInpaintPipeline.__call__

    def notes(self, ct, mask, **options):
        what = (str(options["attributes"]), options["cfg_scale"], options["guidance_scale"])
        seeds.setdefault(what, []).extend(generator.initial_seed() for generator in options["generator"])
        return call(self, ct, mask, **options)

    monkeypatch.setattr(LesionInpaintPipeline, "__call__", notes)
    main(replace(config, requests=("malignancy",), samples=2, lesions=3, distances_of=()))
    assert set(seeds) == {
        ("{}", 0.0, 0.0),
        ("{'malignancy': 'benign'}", 2.0, 0.0),
        ("{'malignancy': 'malignant'}", 2.0, 0.0),
    }
    first, *others = seeds.values()
    assert len(set(first)) == 6 and all(other == first for other in others)


def test_a_guide_is_swept_alone_unless_the_denoiser_is_requested_too(chain, config, undrawn):
    guided = replace(config, pipeline=str(chain.classifier / "pipeline"), kind="classifier", requests=("malignancy",))
    main(replace(guided, distances_of=()))
    content = json.loads((config.out / "report.json").read_text())
    assert content["kind"] == "classifier" and [row["scale"] for row in content["classes"]] == [0, 2]
    assert content["changed_outside"] == 0 and content["costs"] == []


def test_the_judge_learns_its_part_beyond_size_and_keeps_what_it_was_trained_on(chain, judge, capsys, tmp_path):
    loaded, record = load_judge(judge)
    assert set(record["patients"]) == set(load_nodules(chain.nodules, "train")["patient_id"][:])
    assert not set(record["patients"]) & set(load_nodules(chain.nodules, "test")["patient_id"][:])
    assert list(record["hu_quantiles"]["mean_hu"]) == sorted(record["hu_quantiles"]["mean_hu"])
    assert loaded.attributes[0] == "malignancy" and {row["lesions_of"] for row in record["held_out"]} == {"validation"}
    train_judge.main(
        train_judge.TrainJudgeConfig(data=chain.nodules, out=tmp_path / "b", members=2, epochs=5, repeats=10)
    )
    again, _ = load_judge(tmp_path / "b")
    assert all(np.array_equal(a, b) for a, b in zip(loaded.parameters(), again.parameters(), strict=True))
    assert "of volume alone" in capsys.readouterr().out


def test_a_judge_tells_what_goes_with_the_image_in_nodules_it_has_not_seen(tmp_path):
    """Texture of phantom nodules is their HU: solid ones are bright, ground-glass ones are not."""
    rows = list(phantom_nodules(60, 24, 1.5, seed=3))
    save_nodule_dataset(rows, tmp_path / "data", 24)
    train_judge.main(
        train_judge.TrainJudgeConfig(data=tmp_path / "data", out=tmp_path / "judge", members=2, repeats=20)
    )
    held_out = {row["attribute"]: row for row in load_judge(tmp_path / "judge")[1]["held_out"]}
    assert held_out["texture"]["value"] > 0.7 > 0.4 > abs(held_out["texture"]["size_only"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"requests": ("spiculation",)},
            "knows none of them by guidance of kind 'cfg'; its U-Net knows malignancy, mean",
        ),
        ({"split": "train"}, r"the judge was trained on \d+ patients of this split"),
        ({"repeats": 2}, "repeats 2, expected at least 10"),
        ({"judge": "data"}, "holds no judge"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_made(config, change, message):
    if change.get("judge") == "data":
        change = {"judge": config.data}
    with pytest.raises(ValueError, match=message):
        main(replace(config, **change))
    assert list(config.out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": ("malignancy", "colour")}, "requests colour: expected some of malignancy, spiculation"),
        ({"requests": ()}, "requests none: expected some of"),
        ({"scales": (1.0, 1.0)}, r"scales \(1.0, 1.0\): expected at least one, and each once"),
        ({"attributes": {"texture": 5}}, "this script asks for the requests, one by one; leave it out"),
    ],
)
def test_options_that_do_not_fit_are_named(config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **change)
