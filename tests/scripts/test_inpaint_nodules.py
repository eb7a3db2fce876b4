"""The script from end to end on a trained chain; `tests/evaluation/lesions/test_synthetic_sets.py` has the sets."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.lesions.mask import grown_mask
from scripts.inpaint_nodules import main


@pytest.fixture
def config(chain, tmp_path) -> SyntheticSetConfig:
    return SyntheticSetConfig(
        data=chain.nodules,
        pipeline=str(chain.classifier / "pipeline"),
        out=tmp_path / "synthetic",
        split="train",
        steps=2,
        batch_size=4,
        device="cpu",
    )


def test_guided_lesions_stay_in_the_range_of_prepared_data_and_outside_is_the_scans(config, capsys):
    main(replace(config, attributes={"malignancy": "malignant"}, guidance_scale=500.0))
    given, nodules = load_nodules(config.data, "train"), load_nodules(config.out, "train")
    made = {row["nodule_id"]: row["ct_hu"] for row in (read_nodule(nodules, index) for index in range(len(nodules)))}
    assert len(made) == len(given)
    for index in range(len(given)):
        row = read_nodule(given, index)
        inside, painted = row["lesion_mask"] > 0, grown_mask(row["lesion_mask"], 3.0, row["spacing_mm"]) > 0
        assert np.array_equal(made[row["nodule_id"]][~painted], row["ct_hu"][~painted])
        assert (made[row["nodule_id"]][inside] != row["ct_hu"][inside]).mean() > 0.5
    assert min(volume.min() for volume in made.values()) >= -1024
    assert f"synthetic lesions: {len(given)} in {config.out}\n" in capsys.readouterr().out


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
