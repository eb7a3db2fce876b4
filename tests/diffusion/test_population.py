"""Lesions of which nothing is requested have the appearance of real ones of their size."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Oracle, RecordingGuide, pixel_pipeline, seeds, tiny_unet, uniform_crops
from torch import Tensor
from torch.testing import assert_close

from diffusion.population import NEAREST, LesionPopulation, equivalent_diameter_mm, surroundings_hu
from diffusion.process import training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline
from imaging.lesions.measured_attributes import measured_attributes

NAMES = ("texture", "mean_hu")
ATTRIBUTES = ("mean_hu", "malignancy", "texture")  # the U-Net's, in another order
UNET = {"latent_channels": 1, "condition_channels": 4, "map_factor": 1, "attributes": ATTRIBUTES}
NOTHING = math.nan
LUNG = -900.0  # every lesion of the population is denser


def population(lesions: int = 200) -> LesionPopulation:
    """Lesions of 1, 1.1, 1.2 ... mm whose mean HU says which one it is; every other has no texture rating."""
    number = torch.arange(lesions, dtype=torch.float32)
    texture = torch.where(number % 2 == 0, 5.0, NOTHING)
    return LesionPopulation.of(NAMES, 1 + number / 10, torch.stack([texture, number - 500], dim=1))


def nearest(diameter_mm: float) -> set[int]:
    """The definition: numbers of the lesions among which one is drawn."""
    apart = np.abs(np.log(population().diameter_mm.numpy() / diameter_mm))
    return set(np.argsort(apart, kind="stable")[:NEAREST].tolist())


def numbers_of(mean_hu: Tensor) -> list[int]:
    return (mean_hu + 500).round().int().tolist()


def pipeline(**components: Any) -> LesionInpaintPipeline:
    return pixel_pipeline(tiny_unet(**UNET), population=population(), **components)


def test_diameter_is_that_of_the_sphere_of_equal_volume():
    lesion_mask = torch.zeros(1, 1, 40, 40, 40)
    far = torch.linalg.vector_norm(torch.stack(torch.meshgrid(*3 * (torch.arange(40.0) - 19.5,), indexing="ij")), dim=0)
    lesion_mask[0, 0, far <= 15] = 1
    assert float(equivalent_diameter_mm(lesion_mask, 0.5)) == pytest.approx(15, rel=0.01)


def test_drawn_are_the_nearest_in_log_diameter_each_as_often_and_whole():
    drawn = population().draw(torch.full((4000,), 9.0), torch.full((4000,), LUNG), torch.linspace(0, 1 - 1e-6, 4000))
    numbers, counts = np.unique(numbers_of(drawn[:, 1]), return_counts=True)
    assert set(numbers.tolist()) == nearest(9.0)
    assert counts.max() - counts.min() <= 1
    rated = torch.tensor(numbers_of(drawn[:, 1])) % 2 == 0
    assert (drawn[rated, 0] == 5).all() and drawn[~rated, 0].isnan().all()


def test_fewer_lesions_than_neighbours_are_all_drawn():
    few = population(3).draw(torch.ones(50), torch.full((50,), LUNG), torch.linspace(0, 0.99, 50))
    assert set(numbers_of(few[:, 1])) == {0, 1, 2}


@pytest.mark.parametrize("surroundings", [-410.0, -100.0])
def test_drawn_are_denser_than_the_surroundings_or_the_densest(surroundings):
    near = nearest(9.0)
    denser = {number for number in near if number - 500 > surroundings} or {max(near)}
    lesions = torch.full((500,), 9.0), torch.full((500,), surroundings), torch.linspace(0, 1 - 1e-6, 500)
    assert set(numbers_of(population().draw(*lesions)[:, 1])) == denser < near


def test_without_hu_any_of_them_is_drawn():
    number = torch.arange(60.0)
    rated = LesionPopulation.of(["texture"], 1 + number / 10, number[:, None])
    drawn = rated.draw(torch.full((500,), 1.0), torch.full((500,), 3000.0), torch.linspace(0, 1 - 1e-6, 500))
    assert set(drawn[:, 0].int().tolist()) == set(range(NEAREST))


def test_surroundings_are_the_valid_voxels_around_what_is_painted():
    ct_hu = torch.randn((2, 1, 12, 13, 14), generator=seeds(0)[0]) * 300 - 500
    paint_mask, valid_mask = torch.zeros(ct_hu.shape, dtype=torch.uint8), torch.ones_like(ct_hu)
    paint_mask[0, :, 5:7, 5:8, 5:9] = 1
    paint_mask[1] = 1  # nothing around it
    valid_mask[0, :, :4] = 0
    found = surroundings_hu(ct_hu, paint_mask, valid_mask)
    ring = np.zeros(ct_hu.shape[2:], bool)
    ring[4:10, 2:11, 2:12] = True
    ring &= paint_mask[0, 0].numpy() == 0
    assert_close(found[0].item(), ct_hu[0, 0].numpy()[ring].mean().item(), rtol=1e-5, atol=0)
    assert found[1] == -torch.inf


def test_only_where_nothing_at_all_is_requested_something_is_drawn():
    requests = torch.tensor([[NOTHING] * 3, [NOTHING, 2.0, NOTHING], [-300.0, NOTHING, 1.0]])
    lesions = torch.full((3,), 9.0), torch.full((3,), LUNG), torch.full((3,), 0.5)
    told = population().completed(requests, ATTRIBUTES, *lesions)
    assert_close(told[1:], requests[1:], equal_nan=True)
    assert numbers_of(told[:1, 0])[0] in nearest(9.0) and told[0, 1].isnan()
    assert told[0, 2].isfinite() == (numbers_of(told[:1, 0])[0] % 2 == 0)


def test_a_requested_character_chooses_the_lesions_whose_appearance_is_drawn():
    """Two hundred lesions of one size; ratings go with the density, and a lesion's HU belong together."""
    number = torch.arange(200.0)
    columns = [
        1 + number / 50,
        5 - number / 50,
        number - 600,
        number - 500,
    ]  # malignancy, texture, mean, 90th percentile
    known = ("malignancy", "texture", "mean_hu", "p90_hu")
    rated = LesionPopulation.of(known, torch.full((200,), 9.0), torch.stack(columns, dim=1))
    names = ("diameter_mm", "p90_hu", "mean_hu", "malignancy", "texture")
    requests = torch.full((300, 5), NOTHING)
    requests[:100, 3], requests[100:200, 4], requests[200:, 2] = 3.0, 4.0, -300.0
    lesions = torch.full((300,), 9.0), torch.full((300,), LUNG), torch.linspace(0, 0.99, 100).repeat(3)
    made = rated.completed(requests, names, *lesions)
    assert_close(made[:, 1] - made[:, 2], torch.full((300,), 100.0))
    drawn = made[:, 2] + 600  # which lesion it was
    assert set(drawn[:100].int().tolist()) == set(range(93, 108)) and (made[:100, 3] == 3).all()
    assert set(drawn[100:200].int().tolist()) == set(range(43, 58)) and (made[100:200, 4] == 4).all()
    assert (made[200:, 2] == -300).all() and made[200:, 3].isnan().all() and made[:, 0].isnan().all()
    assert made[200:, 4].isfinite().all()


def told(pipe: LesionInpaintPipeline, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Tensor:
    """The attributes that the U-Net was told at the last step, NaN where none."""
    seen = []
    forward = pipe.unet.forward

    def watched(*arguments, attributes=None, **keywords):
        seen.append(attributes)
        return forward(*arguments, attributes=attributes, **keywords)

    monkeypatch.setattr(pipe.unet, "forward", watched)
    pipe(*uniform_crops(), num_inference_steps=2, generator=seeds(0, 1), **options)
    return seen[-1]


def test_the_unet_is_told_the_wishes_or_what_is_drawn_for_each_volume(monkeypatch):
    mine = told(pipeline(), monkeypatch, attributes={"malignancy": [None, "benign"]})
    diameter = float(equivalent_diameter_mm(uniform_crops(1)[1], 1.0))
    assert numbers_of(mine[:1, 0])[0] in nearest(diameter) and mine[0, 1].isnan()
    assert mine[1, 1] == 1 and mine[1, [0, 2]].isnan().all()


def test_a_wish_that_only_the_guide_hears_is_a_request(monkeypatch):
    plain = {**UNET, "attributes": ("mean_hu", "texture")}
    pipe = pixel_pipeline(tiny_unet(**plain), guide=RecordingGuide(), population=population())
    assert told(pipe, monkeypatch, attributes={"malignancy": "benign"}).isnan().all()


def test_switched_off_it_is_the_pipeline_without_a_population_to_the_bit(monkeypatch):
    def made(pipe: LesionInpaintPipeline, **options: Any) -> Tensor:
        return pipe(*uniform_crops(), num_inference_steps=2, generator=seeds(0, 1), **options).ct

    expected = made(pixel_pipeline(tiny_unet(**UNET)))
    assert torch.equal(made(pipeline(), draw_appearance=False), expected)
    assert not torch.equal(made(pipeline()), expected)
    assert told(pipeline(), monkeypatch, draw_appearance=False).isnan().all()


def test_the_drawn_hu_are_met_and_differ_between_versions_of_a_lesion():
    scheduler, (ct_hu, lesion_mask) = training_scheduler("v"), uniform_crops(1)
    oracle = Oracle(0.3 * torch.randn((3, *ct_hu.shape[1:]), generator=seeds(0)[0]), scheduler)
    oracle.config = {"num_labels": 2, "attributes": UNET["attributes"]}
    pipe = pixel_pipeline(oracle, scheduler, population=population())
    versions: dict[str, Any] = {"num_lesions_per_mask": 3, "generator": seeds(0, 1, 2), "match_noise": False}
    made = pipe(ct_hu, lesion_mask, num_inference_steps=4, **versions).ct
    mask = lesion_mask[0, 0].numpy()
    means = [measured_attributes(volume, mask)["mean_hu"] for volume in made[:, 0].numpy()]
    near = nearest(float(equivalent_diameter_mm(lesion_mask, 1.0)))
    assert all(min(abs(number - 500 - mean) for number in near) < 2 for mean in means)
    assert len({round(mean) for mean in means}) == 3


def test_a_batch_gives_what_its_volumes_give_alone():
    pipe, (ct_hu, lesion_mask) = pipeline(), uniform_crops(2)
    together = pipe(ct_hu, lesion_mask, generator=seeds(5, 6), num_inference_steps=2).ct
    alone = pipe(ct_hu[1:], lesion_mask[1:], generator=seeds(6), num_inference_steps=2).ct
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
