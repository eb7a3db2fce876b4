"""Shapes of real nodules: chosen by character, drawn on any grid, and taken by a call without a mask."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file
from scipy import ndimage
from shape_factory import ellipsoid, nodule_shapes
from tiny_models import pixel_pipeline, seeds, tiny_unet

from diffusion.sampling.pipeline import LesionInpaintPipeline
from diffusion.shapes import CHOSEN_BY, MOST_SCALE, Chosen, LesionShapes, drawn_mask, without_steps
from imaging.boxes import mask_box

GRID, CENTRE = (40, 44, 48), (19.0, 22.0, 24.0)
PLACE = {"center": (9, 9, 9), "diameter_mm": 8}
PLAIN = Chosen(0, 1.0, 0.0, (False, False))


def component(count: int = 60) -> LesionShapes:
    return LesionShapes.of_nodules(nodule_shapes(count), {"source": "made", "patients": 30, "left_out": {"test": 1}})


def one(outline: np.ndarray) -> LesionShapes:
    return LesionShapes.of([outline], np.full((1, len(CHOSEN_BY)), 3.0))


def pipeline(**components):
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, attributes=("spiculation", "mean_hu"))
    pipe = pixel_pipeline(unet, **components)
    pipe.register_modules(shapes=component(200))
    return pipe


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.8)])
@pytest.mark.parametrize("diameter_mm", [7.0, 11.0])
def test_a_drawn_shape_has_the_requested_volume_to_the_voxel_and_is_one_piece(spacing_mm, diameter_mm):
    for seed in range(6):
        mask, _ = drawn_mask(GRID, spacing_mm, CENTRE, diameter_mm, {}, seed, component())
        expected = round(np.pi / 6 * diameter_mm**3 / np.prod(spacing_mm))
        assert expected <= mask.sum() <= 1.06 * expected  # in a symmetric shape, voxels of equal level come together
        assert mask.dtype == np.uint8 and ndimage.label(mask)[1] == 1


def test_an_ellipsoid_that_is_turned_scaled_and_resampled_is_the_ellipsoid_of_the_formula():
    outline = ellipsoid((5.0, 6.5, 10.0))
    turn_deg, scale, spacing_mm = 30.0, 1.1, (1.0, 0.7, 0.7)
    mask = one(outline).mask(Chosen(0, scale, turn_deg, (False, True)), (41, 61, 61), spacing_mm, (20, 30, 30))
    z, y, x = ((np.arange(n) - n // 2) * mm for n, mm in zip((41, 61, 61), spacing_mm, strict=True))
    z, y, x = np.ix_(z, y, x)
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    along, across = cos * x + sin * y, cos * y - sin * x  # mirrored along itself, an ellipsoid stays
    formula = (z / 5) ** 2 + (across / 6.5) ** 2 + (along / 10) ** 2
    expected = formula <= np.sort(formula.ravel())[int(mask.sum()) - 1]
    assert 2 * (mask.astype(bool) & expected).sum() / (mask.sum() + expected.sum()) > 0.97


def test_an_untouched_shape_is_the_outline_but_for_its_border():
    for shape in nodule_shapes(6):
        mask = one(shape.outline).mask(PLAIN, (50, 50, 50), (1, 1, 1), (25, 25, 25)).astype(bool)
        body = np.zeros_like(mask)
        middle = np.round(np.array(ndimage.center_of_mass(shape.outline))).astype(int)
        body[tuple(slice(25 - m, 25 - m + n) for m, n in zip(middle, shape.outline.shape, strict=True))] = shape.outline
        assert 2 * (mask & body).sum() / (mask.sum() + body.sum()) > 0.85 and mask.sum() == body.sum()


def test_mirrored_twice_or_turned_by_a_whole_circle_a_shape_stays_and_by_half_it_does_not():
    outline = ellipsoid((5, 6, 9))
    outline[:, :, :6] &= ellipsoid((5, 6, 9))[:, ::-1, :6] & (np.arange(13) < 8)[None, :, None]
    shapes, place = one(outline), ((40, 40, 40), (1, 1, 1), (20, 20, 20))
    plain = shapes.mask(PLAIN, *place)
    assert np.array_equal(plain, shapes.mask(PLAIN._replace(turn_deg=360.0), *place))
    flipped = shapes.mask(PLAIN._replace(mirrored=(True, True)), *place)
    again = one(outline[::-1, :, ::-1]).mask(PLAIN, *place)
    assert (flipped != again).mean() < 1e-3 < (flipped != plain).mean()


def test_steps_of_thick_slices_are_smoothed_and_the_volume_stays():
    ball = ellipsoid((8, 8, 8))
    thick = np.repeat(ball[1::3], 3, axis=0)[: ball.shape[0]]
    smooth = without_steps(thick, 3.0)
    assert abs(int(smooth.sum()) - int(thick.sum())) < 0.02 * thick.sum()
    equal = [(a[1:] == a[:-1]).all(axis=(1, 2)).mean() for a in (thick, smooth)]
    assert equal[1] < 0.5 * equal[0]
    assert np.array_equal(without_steps(thick, 1.0), thick[mask_box(thick)])


def test_a_request_chooses_the_shapes_that_are_rated_so_and_none_is_scaled_too_much():
    shapes = component(400)
    for wanted in (1.0, 5.0):
        chosen = [shapes.choose(9.0, {"spiculation": wanted}, np.random.default_rng(n)) for n in range(40)]
        assert all(float(shapes.ratings[one.number, 1]) == wanted for one in chosen)
        assert all(1 / MOST_SCALE <= one.scale <= MOST_SCALE for one in chosen)
        assert len({one.number for one in chosen}) > 10
    fits = set(np.flatnonzero(np.abs(np.log(shapes.diameter_mm() / 9.0)) <= np.log(MOST_SCALE)).tolist())
    drawn = {shapes.choose(9.0, {}, np.random.default_rng(n)).number for n in range(1500)}
    assert drawn == fits


def test_diameters_are_those_of_the_voxels_and_the_record_draws_the_shape_again():
    shapes, made = component(), nodule_shapes()
    volumes = [without_steps(shape.outline, shape.slice_mm).sum() for shape in made]
    np.testing.assert_allclose(np.pi / 6 * shapes.diameter_mm() ** 3, volumes)
    mask, record = drawn_mask(GRID, (1, 1, 1), CENTRE, 9.0, {"spiculation": 5}, 3, shapes)
    assert record["spiculation"] == float(shapes.ratings[record["number"], 1])
    again = Chosen(*(record[name] for name in Chosen._fields))
    assert np.array_equal(mask, shapes.mask(again, GRID, (1, 1, 1), CENTRE))
    assert record["kind"] == "real"
    assert json.loads(json.dumps(record)) == record


def test_saved_in_half_precision_and_loaded_the_outlines_are_the_same(tmp_path):
    pipe = pipeline()
    pipe.to(torch.float16)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded, shapes = LesionInpaintPipeline.from_pretrained(tmp_path / "pipe").shapes, component(200)
    assert all(np.array_equal(loaded.outline(n), shapes.outline(n)) for n in (0, 7, 59))
    torch.testing.assert_close(loaded.ratings, shapes.ratings, rtol=1e-3, atol=0)
    assert loaded.config["record"]["patients"] == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packed": 255}, None),  # other voxels are a shape all the same
        ({"packed": 0}, "a shape has no voxel"),
        ({"extent": 90}, "do not fill"),
        ({"extent": 0}, "shapes of 0 to 0 voxels"),
        ({"ratings": 7}, "ratings of shapes are not all from 1 to 5"),
        ({"ratings": float("nan")}, "ratings of shapes are not all from 1 to 5"),
    ],
)
def test_a_damaged_component_is_refused_by_one_sentence(tmp_path, change, message):
    component().save_pretrained(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    tensors = load_file(file)
    for name, value in change.items():
        tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, file, {"format": "pt"})
    if message is None:
        assert LesionShapes.from_pretrained(tmp_path).diameter_mm().min() > 0
        return
    with pytest.raises(ValueError, match=message):
        LesionShapes.from_pretrained(tmp_path)


def test_a_component_that_announces_too_much_is_refused_before_memory_is_taken(tmp_path):
    component().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"packed_bytes": 10**12}))
    with pytest.raises(ValueError, match="packed_bytes 1000000000000 of a component of shapes, expected 1 to"):
        LesionShapes.from_pretrained(tmp_path)


def test_a_call_without_a_mask_paints_a_shape_of_the_requested_character():
    ct_hu = torch.full((2, 1, 24, 24, 24), -800.0)
    options = {"center": (12, 12, 12), "diameter_mm": [8.0, 10.0], "num_inference_steps": 1}
    made = pipeline()(ct_hu, attributes={"spiculation": [5, 1], "sphericity": 3}, generator=seeds(0, 1), **options)
    assert [record["spiculation"] for record in made.shapes] == [5, 1]
    expected = np.pi / 6 * np.array([8.0, 10.0]) ** 3
    np.testing.assert_allclose(made.lesion_mask.sum((1, 2, 3, 4)).numpy(), expected, rtol=0.02)
    assert torch.equal(made.ct[made.paint_mask == 0], ct_hu[made.paint_mask == 0])
    alone = pipeline()(ct_hu[:1], attributes={"spiculation": 5}, generator=seeds(0), **{**options, "diameter_mm": 8.0})
    assert torch.equal(alone.lesion_mask[0], made.lesion_mask[0])


def test_a_scan_gets_a_mask_of_its_geometry():
    ct_hu = np.random.default_rng(0).integers(-900, -700, (18, 22, 20)).astype(np.int16)
    ct_hu[0] = -1000
    scan = sitk.GetImageFromArray(ct_hu)
    scan.SetSpacing((1.2, 1.2, 1.5))
    pipe = pipeline(crop_size=32)
    made = pipe(scan, center=(9, 11, 10), diameter_mm=8, generator=seeds(0)[0], num_inference_steps=1)
    assert made.lesion_mask.GetSpacing() == scan.GetSpacing() and made.lesion_mask.GetSize() == scan.GetSize()
    volume_mm3 = sitk.GetArrayFromImage(made.lesion_mask).sum() * 1.2 * 1.2 * 1.5
    assert volume_mm3 == pytest.approx(np.pi / 6 * 8**3, rel=0.02)
    assert made.ct.GetSize() == scan.GetSize()


def test_without_shapes_procedural_ones_are_drawn_and_the_user_is_told():
    pipe, ct_hu = pipeline(), torch.full((1, 1, 24, 24, 24), -800.0)
    options = {"center": (12, 12, 12), "diameter_mm": 8, "num_inference_steps": 1}
    chosen = pipe(ct_hu, shape="procedural", generator=seeds(0), **options)
    pipe.register_modules(shapes=None)
    with pytest.warns(UserWarning, match=r"no shapes of real nodules.*scripts/prepare_shapes\.py makes shapes"):
        made = pipe(ct_hu, generator=seeds(0), **options)
    assert torch.equal(made.lesion_mask, chosen.lesion_mask) and made.shapes[0]["kind"] == "procedural"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "center None, diameter_mm None: give both, or a mask"),
        ({"center": (9, 9, 9)}, "diameter_mm None: give both"),
        ({"center": (9, 9), "diameter_mm": 8}, r"center \(9, 9\), expected three numbers z, y, x"),
        ({"center": (9, 9, 90), "diameter_mm": 8}, r"center_zyx is \(9.0, 9.0, 90.0\), outside the image"),
        ({"center": (9, 9, 9), "diameter_mm": "big"}, "diameter_mm 'big', expected"),
        ({"center": (9, 9, 9), "diameter_mm": 50}, "diameter_mm 50: no real shape is within 15 %, they have"),
        ({**PLACE, "shape": "cube"}, "shape 'cube', expected real, procedural, learned"),
        (
            {"center": (9, 9, 9), "diameter_mm": 8, "attributes": {"spiculation": 9}},
            "spiculation: 9, expected a number",
        ),
        ({"center": (9, 9, 9), "diameter_mm": 8, "attributes": {"colour": 1}}, 'attribute "colour" is unknown'),
        ({"mask": torch.ones(1, 1, 24, 24, 24), "diameter_mm": 8}, "center and diameter_mm say where a mask is drawn"),
    ],
)
def test_a_request_that_cannot_be_met_is_named(options, message):
    ct_hu = torch.full((1, 1, 24, 24, 24), -800.0)
    with pytest.raises(ValueError, match=message):
        pipeline()(ct_hu, **options, num_inference_steps=1)
