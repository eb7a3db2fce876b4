"""Character as an input: requests, null tokens, what is forgotten in training, classifier-free guidance."""

import math

import pytest
import torch
from tiny_models import pixel_pipeline, seeds, tiny_unet
from torch import nn
from torch.testing import assert_close

from diffusion.attributes import (
    SCALES,
    AttributeEmbedding,
    check_attribute,
    check_compatible,
    composition_of,
    forgotten,
    requested_attributes,
)
from diffusion.sampling.crops import Crops
from diffusion.sampling.pipeline import LesionInpaintPipeline
from diffusion.sampling.request import InpaintRequest
from evaluation.lesions.real_lesions import CHARACTER, SHIPPED, load_real_lesions

KNOWN = ("malignancy", "mean_hu", "texture")
NAN = math.nan


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"texture": "solid", "mean_hu": -800},
            "texture solid and mean_hu -800 exclude each other, .* above -700",
        ),
        ({"texture": 5, "p50_hu": "-701"}, "texture 5 and p50_hu -701 exclude each other, .* solid nodule; leave out"),
        (
            {"texture": "ground-glass", "mean_hu": 40},
            "exclude each other, expected below 0 HU of a ground-glass",
        ),
    ],
)
def test_a_texture_and_hu_that_exclude_each_other_are_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        check_compatible(attributes)


def test_every_real_lesion_is_possible_and_so_is_a_request_of_either_alone():
    real = load_real_lesions(SHIPPED)
    for character in real.character:
        check_compatible({k: float(v) for k, v in zip(CHARACTER, character, strict=True) if math.isfinite(v)})
    for attributes in ({"texture": "solid"}, {"mean_hu": -800}, {"texture": "part-solid", "mean_hu": -800}):
        check_compatible(attributes)
    check_compatible({"texture": "sold", "mean_hu": -800})  # for `check_attribute` to name


def attribute_unet():
    return tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, attributes=KNOWN)


def pipeline() -> LesionInpaintPipeline:
    return pixel_pipeline(attribute_unet())


def crops(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    ct_hu = torch.randint(-1000, 100, (batch, 1, 4, 6, 8), generator=torch.Generator().manual_seed(0)).float()
    mask = torch.zeros_like(ct_hu)
    mask[..., 1:3, 2:5, 3:6] = 1
    return ct_hu, mask


def test_a_calcified_lesion_can_be_requested_and_counts_as_the_end_of_the_scale():
    assert check_attribute("mean_hu", 900, KNOWN) == 900
    embedding = AttributeEmbedding(KNOWN, 8)
    nn.init.normal_(embedding.mlp[-1].weight)
    dense, end, less = (embedding(torch.tensor([[NAN, hu, NAN]])) for hu in (900.0, 400.0, 350.0))
    assert dense.equal(end) and not dense.equal(less)


def test_wishes_become_numbers_in_the_order_of_the_network():
    requested = requested_attributes({"texture": "ground-glass", "malignancy": ["benign", None]}, KNOWN, 2)
    assert_close(requested, torch.tensor([[1.0, NAN, 1.0], [NAN, NAN, 1.0]]), equal_nan=True)
    assert_close(
        requested_attributes({"mean_hu": "-450"}, KNOWN, 1), torch.tensor([[NAN, -450.0, NAN]]), equal_nan=True
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("age", 40, 'attribute "age" is unknown to this pipeline; known: malignancy, mean_hu, texture'),
        ("malignancy", "evil", "malignancy: 'evil', expected a number from 1 to 5, or benign, malignant"),
        ("texture", 6, "texture: 6, expected a number from 1 to 5, or ground-glass, part-solid, solid"),
        ("mean_hu", NAN, "mean_hu: nan, expected a number from -1000 to 1000"),
        ("mean_hu", True, "mean_hu: True, expected a number"),
        ("mean_hu", [1], r"mean_hu: \[1\], expected a number"),
    ],
)
def test_a_wish_that_cannot_be_met_is_named_with_what_can(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_attribute(name, value, KNOWN)


def test_another_number_of_wishes_than_volumes_is_refused():
    with pytest.raises(ValueError, match="mean_hu: 3 values for 2 volumes; give one, or one per volume"):
        requested_attributes({"mean_hu": [-1.0, -2.0, -3.0]}, KNOWN, 2)


def test_as_many_attributes_are_kept_as_drawn_evenly_and_each_as_often():
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(20000, 3, generator=generator)
    given[10000:, 1] = NAN  # not rated
    kept = forgotten(given, torch.rand(20000, 5, generator=generator), 0.2)
    known = torch.isfinite(kept)
    assert torch.equal(kept[known], given[known])
    rated, unrated = known[:10000], known[10000:]
    counts = torch.bincount(rated.sum(1)) / 10000
    assert_close(counts, torch.tensor([0.2, 0.8 / 3, 0.8 / 3, 0.8 / 3]), rtol=0, atol=0.02)
    assert_close(rated.float().mean(0), torch.full((3,), 0.8 * 2 / 3), rtol=0, atol=0.02)
    assert_close(unrated.float().mean(0), torch.tensor([0.6, 0.0, 0.6]), rtol=0, atol=0.02)
    assert torch.isnan(forgotten(torch.full((4, 3), NAN), torch.ones(4, 5) * 0.99, 0.0)).all()


def test_an_augmentation_is_never_forgotten_and_never_requested():
    names = ("texture", "zoom", "mean_hu", "elastic")
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(2000, 4, generator=generator)
    kept = forgotten(given, torch.rand(2000, 6, generator=generator), 0.2, names)
    assert torch.equal(kept[:, [1, 3]], given[:, [1, 3]])
    counts = torch.bincount(torch.isfinite(kept[:, [0, 2]]).sum(1)) / 2000
    assert_close(counts, torch.tensor([0.2, 0.4, 0.4]), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match='attribute "zoom" is unknown to this pipeline; known: texture, mean_hu'):
        requested_attributes({"zoom": 0.1}, names, 1)


def test_an_augmentation_that_is_not_given_is_a_plain_image():
    torch.manual_seed(0)
    embedding = AttributeEmbedding(("texture", "zoom", "elastic"), 16)
    torch.nn.init.normal_(embedding.mlp[2].weight)
    unknown, plain, zoomed = embedding(torch.tensor([[NAN, NAN, NAN], [NAN, 0.0, 0.0], [NAN, 0.4, 0.0]]))
    assert torch.equal(unknown, plain) and not torch.allclose(unknown, zoomed)


def test_embedding_of_an_unknown_attribute_is_its_own_and_not_that_of_a_value():
    torch.manual_seed(0)
    embedding = AttributeEmbedding(KNOWN, 16)
    assert not embedding(torch.tensor([[1.0, -400.0, 3.0]])).any()  # before training
    torch.nn.init.normal_(embedding.mlp[2].weight)
    values = [[NAN] * 3, [1.0, NAN, NAN], [5.0, NAN, NAN], [3.0, NAN, NAN], [NAN, -300.0, NAN], [NAN, 400.0, NAN]]
    made = embedding(torch.tensor(values))
    assert torch.pdist(made).min() > 0.05
    beyond = embedding(torch.tensor([[NAN, 2000.0, NAN]]))  # a lesion brighter than can be requested
    assert_close(beyond[0], made[5])
    with pytest.raises(ValueError, match="attributes colour are unknown; choose from malignancy"):
        AttributeEmbedding(("colour",), 16)


def test_network_without_a_wish_is_the_network_of_unknown_attributes():
    unet, (_, mask) = attribute_unet(), crops()
    torch.nn.init.normal_(unet.attribute_embedding.mlp[2].weight)
    sample = torch.randn(2, 5, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    plain = unet(sample, 10, mask).sample
    assert torch.equal(plain, unet(sample, 10, mask, attributes=torch.full((2, 3), NAN)).sample)
    assert not torch.allclose(plain, unet(sample, 10, mask, attributes=torch.tensor([[1.0, NAN, NAN]] * 2)).sample)
    with pytest.raises(ValueError, match=r"attributes of shape \(2, 2\), expected \(2, 3\)"):
        unet(sample, 10, mask, attributes=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="this model has no attributes"):
        tiny_unet(latent_channels=1, condition_channels=4, map_factor=1)(sample, 10, mask, attributes=torch.zeros(2, 3))


def test_classifier_free_guidance_moves_the_prediction_away_from_the_unasked_one():
    pipe, (ct_hu, mask) = pipeline(), crops()
    torch.nn.init.normal_(pipe.unet.attribute_embedding.mlp[2].weight)
    options = {"num_inference_steps": 1, "blend_mm": 0}

    def latent(**requests):
        """What one step gives; a step is linear in the network's output."""
        with torch.no_grad():
            everywhere = torch.ones_like(mask).byte()
            crops = Crops(ct_hu, mask.byte(), mask.byte(), everywhere)
            made = pipe.generate(crops, InpaintRequest(steps=1, hu_scale=0, **requests), seeds(1, 2))
        return made

    request = {"mean_hu": -450, "malignancy": ["malignant", None]}
    unconditional, requested, pushed = latent(), latent(attributes=request), latent(attributes=request, cfg_scale=1.5)
    free = torch.stack([unconditional, requested, pushed]).sub(-400).abs().amax(0) < 749  # not cut off at the window
    assert free.float().mean() > 0.3 and not torch.allclose(requested, unconditional)
    assert_close(pushed[free], (unconditional + 1.5 * (requested - unconditional))[free], rtol=0, atol=0.5)
    assert torch.equal(latent(attributes=request, cfg_scale=0.0), unconditional)
    both = pipe(ct_hu, mask, request, cfg_scale=2.0, generator=seeds(1, 2), **options).ct
    for index, value in enumerate(("malignant", None)):
        one = {"mean_hu": -450} | ({"malignancy": value} if value else {})
        alone = pipe(ct_hu[[index]], mask[[index]], one, cfg_scale=2.0, generator=seeds(index + 1), **options).ct
        assert_close(both[[index]], alone, rtol=0, atol=0.1)


def test_saved_pipeline_keeps_its_attributes(tmp_path):
    pipeline().save_pretrained(tmp_path)
    loaded = LesionInpaintPipeline.from_pretrained(tmp_path)
    assert tuple(loaded.unet.config["attributes"]) == KNOWN
    with pytest.raises(ValueError, match='"age" is unknown to this pipeline; known: malignancy, mean_hu, texture'):
        loaded(*crops(), {"age": 3})
    with pytest.raises(ValueError, match=r"cfg_scale inf, expected a finite number"):
        loaded(*crops(), cfg_scale=math.inf)


def test_every_scale_has_its_names_within():
    for name, scale in SCALES.items():
        assert scale.low < scale.high, name
        assert all(scale.low <= value <= scale.high for value in scale.names.values())


def test_the_solid_share_is_what_the_percentiles_leave_above_the_threshold():
    """Solid from -300 HU; between percentiles the quantile function is a line, and beyond them it goes on."""
    names = ("mean_hu", "p10_hu", "p50_hu", "p90_hu", "texture")
    rows = [
        [NAN, -700.0, -300.0, 100.0, 3.0],  # the median is the threshold
        [NAN, -700.0, -500.0, -100.0, 2.0],  # halfway between the 50th and the 90th percentile
        [NAN, -400.0, -200.0, 0.0, 4.0],  # halfway between the 10th and the 50th
        [NAN, -900.0, -800.0, -700.0, 1.0],
        [NAN, -100.0, 0.0, 50.0, NAN],
        [-300.0, NAN, -300.0, 100.0, 3.0],
    ]
    found = composition_of(torch.tensor(rows), names)
    expected = [(3.0, 0.5), (2.0, 0.3), (4.0, 0.7), (1.0, 0.0), (NAN, 1.0), (3.0, NAN)]
    for pair, values in zip(found, expected, strict=True):
        assert pair == pytest.approx(values, nan_ok=True)
    assert all(map(math.isnan, composition_of(torch.zeros(1, 1), ("malignancy",))[0]))


def test_a_detailed_map_shows_what_the_requested_lesion_is_made_of_and_another_does_not(monkeypatch):
    unet = {"latent_channels": 1, "condition_channels": 4, "map_factor": 1, "num_labels": 8, "attributes": KNOWN}
    seen = []
    for detailed in (False, True):
        pipe = pixel_pipeline(tiny_unet(**unet), detailed_map=detailed, paint_margin_mm=1.0)
        modulate = pipe.unet.modulate
        monkeypatch.setattr(pipe.unet, "modulate", lambda labels, of=modulate: (seen.append(labels), of(labels))[1])
        pipe(*crops(2), attributes={"texture": ["solid", "ground-glass"]}, num_inference_steps=1)
    lesion_mask = crops(2)[1] > 0
    plain, detailed = seen
    assert (plain[lesion_mask] == 6).all()
    assert (detailed[0][lesion_mask[0]] == 7).all() and (detailed[1][lesion_mask[1]] == 5).all()
