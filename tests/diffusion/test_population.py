"""Lesions that nothing is asked of have the appearance of real ones of their size."""

import math
from typing import Any

import pytest
import torch
from tiny_models import Oracle, pixel_pipeline, tiny_unet
from torch import Tensor
from torch.testing import assert_close

from diffusion.attributes import nothing_asked
from diffusion.objective import training_scheduler
from diffusion.pipeline import LesionInpaintPipeline
from diffusion.population import NEAREST, LesionPopulation, equivalent_diameter_mm
from imaging.lesions.attributes import measured_attributes

NAMES = ("texture", "mean_hu")
UNET = {"latent_channels": 1, "condition_channels": 4, "map_factor": 1, "attributes": ("malignancy", *NAMES)}


def population(lesions: int = 200) -> LesionPopulation:
    """Lesions of 1, 1.1, 1.2 ... mm whose mean HU says which one it is; every other is not rated."""
    number = torch.arange(lesions, dtype=torch.float32)
    texture = torch.where(number % 2 == 0, 5.0, math.nan)
    return LesionPopulation.of(NAMES, 1 + number / 10, torch.stack([texture, number - 500], dim=1))


def pipeline(**components: Any) -> LesionInpaintPipeline:
    return pixel_pipeline(tiny_unet(**UNET), population=population(), **components)


def crops(batch: int = 2) -> tuple[Tensor, Tensor]:
    ct_hu = torch.full((batch, 1, 8, 8, 8), -700.0)
    lesion_mask = torch.zeros(ct_hu.shape, dtype=torch.uint8)
    lesion_mask[:, :, 2:6, 2:6, 2:6] = 1
    return ct_hu, lesion_mask


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_diameter_is_that_of_the_sphere_of_equal_volume():
    lesion_mask = torch.zeros(1, 1, 40, 40, 40)
    far = torch.linalg.vector_norm(torch.stack(torch.meshgrid(*3 * (torch.arange(40.0) - 19.5,), indexing="ij")), dim=0)
    lesion_mask[0, 0, far <= 15] = 1
    assert float(equivalent_diameter_mm(lesion_mask, 0.5)) == pytest.approx(15, rel=0.01)


def test_drawn_are_the_nearest_in_log_diameter_each_as_often_and_whole():
    real = population()
    uniform = torch.linspace(0, 1 - 1e-6, 4000)
    drawn = real.draw(torch.full((4000,), 9.0), uniform)
    numbers, counts = (drawn[:, 1] + 500).unique(return_counts=True)
    apart = (real.diameter_mm.log() - math.log(9.0)).abs()
    assert set(numbers.int().tolist()) == set(apart.argsort()[:NEAREST].tolist())
    assert counts.max() - counts.min() <= 1
    even = (drawn[:, 1] + 500) % 2 == 0
    assert (drawn[even, 0] == 5).all() and drawn[~even, 0].isnan().all()
    assert (population(3).draw(torch.ones(50), torch.linspace(0, 0.99, 50))[:, 1] + 500).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("attributes", "free"),
    [
        ({}, [True, True]),
        ({"malignancy": "benign"}, [False, False]),
        ({"malignancy": ["benign", None]}, [False, True]),
        ({"malignancy": ["benign", None], "texture": [None, 3]}, [False, False]),
        ({"malignancy": [None, None]}, [True, True]),
    ],
)
def test_which_volumes_nothing_is_asked_of(attributes, free):
    assert nothing_asked(attributes, 2).tolist() == free


def told(pipe: LesionInpaintPipeline, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Tensor:
    """The attributes that the U-Net was told at the last step, NaN where none."""
    seen = []
    forward = pipe.unet.forward

    def watched(*arguments, attributes=None, **keywords):
        seen.append(attributes)
        return forward(*arguments, attributes=attributes, **keywords)

    monkeypatch.setattr(pipe.unet, "forward", watched)
    pipe(*crops(), num_inference_steps=2, generator=seeded(0, 1), **options)
    return seen[-1]


def test_only_volumes_of_which_nothing_is_asked_are_told_a_real_lesions_appearance(monkeypatch):
    mine = told(pipeline(), monkeypatch, attributes={"malignancy": [None, "benign"]})
    assert mine[0, 0].isnan() and mine[0, 2].isfinite()
    assert mine[1, 0] == 1 and mine[1, 1:].isnan().all()
    diameter = float(equivalent_diameter_mm(crops(1)[1], 1.0))
    real = population()
    near = (real.diameter_mm.log() - math.log(diameter)).abs().argsort()[:NEAREST]
    assert float(mine[0, 2]) in real.appearance[near, 1].tolist()


def test_switched_off_it_is_the_pipeline_without_a_population_to_the_bit(monkeypatch):
    plain = pixel_pipeline(tiny_unet(**UNET))
    options: dict[str, Any] = {"num_inference_steps": 2}
    expected = plain(*crops(), generator=seeded(0, 1), **options).ct
    assert torch.equal(pipeline()(*crops(), generator=seeded(0, 1), draw_appearance=False, **options).ct, expected)
    assert not torch.equal(pipeline()(*crops(), generator=seeded(0, 1), **options).ct, expected)
    assert told(pipeline(), monkeypatch, draw_appearance=False).isnan().all()


def test_the_drawn_hu_are_met_and_differ_between_versions_of_a_lesion():
    scheduler, (ct_hu, lesion_mask) = training_scheduler("v"), crops(1)
    oracle = Oracle(0.3 * torch.randn((3, *ct_hu.shape[1:]), generator=seeded(0)[0]), scheduler)
    oracle.config = {"num_labels": 2, "attributes": UNET["attributes"]}
    pipe = pixel_pipeline(oracle, scheduler, population=population())
    versions: dict[str, Any] = {"num_lesions_per_mask": 3, "generator": seeded(0, 1, 2), "match_noise": False}
    made = pipe(ct_hu, lesion_mask, num_inference_steps=4, **versions).ct
    mask = lesion_mask[0, 0].numpy()
    means = [measured_attributes(volume, mask)["mean_hu"] for volume in made[:, 0].numpy()]
    real = population()
    near = real.appearance[(real.diameter_mm.log() - equivalent_diameter_mm(lesion_mask, 1.0).log()).abs().argsort(), 1]
    assert all((near[:NEAREST] - mean).abs().min() < 2 for mean in means)
    assert len({round(mean) for mean in means}) == 3


def test_a_batch_gives_what_its_volumes_give_alone():
    pipe, (ct_hu, lesion_mask) = pipeline(), crops(2)
    together = pipe(ct_hu, lesion_mask, generator=seeded(5, 6), num_inference_steps=2).ct
    alone = pipe(ct_hu[1:], lesion_mask[1:], generator=seeded(6), num_inference_steps=2).ct
    assert_close(together[1:], alone, rtol=0, atol=1e-2)


def test_saved_and_loaded_in_half_precision(tmp_path):
    pipe = pipeline()
    pipe.to(torch.float16)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = LesionInpaintPipeline.from_pretrained(tmp_path / "pipe")
    real = population()
    assert loaded.population.config["attributes"] == list(NAMES)
    assert_close(loaded.population.diameter_mm, real.diameter_mm, rtol=1e-3, atol=0)
    assert_close(loaded.population.appearance, real.appearance, rtol=1e-3, atol=0, equal_nan=True)
    without = LesionInpaintPipeline.from_pretrained(tmp_path / "pipe", population=None)
    assert without.population is None
