"""The seam benchmark: its ways to paste, the borders that it looks at, and a run from end to end."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.choices import seam
from benchmarks.choices.seam import Experiment, experiments, membrane, paint_mask_of, painted_seam, pasted
from evaluation.lesions.lesion_sets import Lesion
from imaging.lesions.mask import grown_mask

SHAPE = (8, 10, 12)
WINDOW_HU = (-1150.0, 350.0)


def real_lesion() -> Lesion:
    ct_hu = np.random.default_rng(0).integers(-1100, 1200, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, bool)
    mask[3:5, 4:6, 5:7] = True
    valid = np.ones(SHAPE, bool)
    valid[:, :, 8:] = False
    return Lesion("nodule", "patient", ct_hu, mask, valid, (1.0, 1.0, 1.0))


def test_value_takes_the_place_of_the_scan_in_the_painted_region_alone():
    lesion = real_lesion()
    paint_mask = paint_mask_of(lesion, 2.0)
    assert np.array_equal(paint_mask, grown_mask(lesion.lesion_mask, 2.0, (1, 1, 1)) * lesion.valid_mask)
    source = np.full(SHAPE, -321.4)
    made = pasted(lesion, source, np.zeros(SHAPE), paint_mask, Experiment("generated", 2.0, 0.0), WINDOW_HU)
    assert np.array_equal(made.ct_hu, np.where(paint_mask > 0, -321, lesion.ct_hu))
    smooth = Experiment("generated", 2.0, 3.0)
    blended = pasted(lesion, source, np.zeros(SHAPE), paint_mask, smooth, WINDOW_HU).ct_hu
    assert np.array_equal(blended[paint_mask == 0], lesion.ct_hu[paint_mask == 0])
    assert (blended != made.ct_hu)[paint_mask > 0].mean() > 0.5


def test_difference_to_the_reconstruction_keeps_what_the_autoencoder_cannot_show():
    lesion = real_lesion()
    paint_mask = paint_mask_of(lesion, 1.0)
    reconstruction = np.random.default_rng(1).uniform(-1100, 300, SHAPE)
    difference = Experiment("generated", 1.0, 0.0, "difference")
    same = pasted(lesion, reconstruction, reconstruction, paint_mask, difference, WINDOW_HU).ct_hu
    assert np.array_equal(same, np.where(paint_mask > 0, np.maximum(lesion.ct_hu, -1024), lesion.ct_hu))
    brighter = pasted(lesion, reconstruction + 50, reconstruction, paint_mask, difference, WINDOW_HU).ct_hu
    inside = paint_mask > 0
    assert np.array_equal(brighter[inside], np.maximum(lesion.ct_hu, -1024)[inside] + 50)


def test_residual_of_elsewhere_comes_from_half_the_crop_away():
    lesion = real_lesion()
    reconstruction = np.clip(lesion.ct_hu, -1024, 350) - 7
    reconstruction[7, 9, 11] -= 10  # half of (8, 10, 12) from (3, 4, 5)
    other = Experiment("generated", 0.0, 0.0, "elsewhere")
    made = pasted(lesion, np.zeros(SHAPE), reconstruction, lesion.lesion_mask, other, WINDOW_HU)
    assert made.ct_hu[3, 4, 5] == 17 and made.ct_hu[4, 5, 6] == 7


def test_membrane_is_harmonic_and_meets_the_offset_around_it():
    z, y, x = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    linear = 3.0 * z - 2 * y + x  # a linear function is its own smoothest continuation
    inside = np.zeros(SHAPE, bool)
    inside[2:6, 3:7, 4:8] = True
    everywhere = np.ones(SHAPE, bool)
    found = membrane(np.where(inside, 99, linear), inside, everywhere)
    assert np.allclose(found, np.where(inside, linear, 0), atol=1e-3)
    at_edge = np.zeros(SHAPE, bool)
    at_edge[:3] = True  # nothing is beyond the volume, so the offset of the other side fills it
    assert np.allclose(membrane(np.full(SHAPE, 5.0), at_edge, everywhere)[:3], 5, atol=1e-3)
    assert not membrane(linear, inside, np.zeros(SHAPE, bool)).any()


def test_membrane_takes_a_constant_offset_away_and_keeps_the_texture():
    lesion = real_lesion()
    lesion.ct_hu[:] = -800
    paint_mask = paint_mask_of(lesion, 2.0)
    texture = np.random.default_rng(2).normal(0, 30, SHAPE) * (paint_mask > 0)
    way = Experiment("generated", 2.0, 0.0, "membrane")
    made = pasted(lesion, -750 + texture, np.zeros(SHAPE), paint_mask, way, WINDOW_HU).ct_hu
    assert np.abs(made - (-800 + texture)).max() <= 0.51  # whole HU


def test_step_at_the_painted_border_is_seen_there_and_not_at_the_lesions():
    lesion = real_lesion()
    paint_mask = paint_mask_of(lesion, 2.0)
    lesion.ct_hu[:] = np.where(paint_mask > 0, 40, 0)
    features = painted_seam([lesion], [paint_mask])
    assert 30 < features.values.item() <= 40  # less where the region is a single voxel wide
    assert painted_seam([lesion], [np.ones(SHAPE)]).lesions == []


def test_each_cause_is_requested_with_the_other_settings_as_usual():
    requested = experiments(2.0, 1.0, margins_mm=(0, 2, 4), blends_mm=(0, 3))
    assert [one.margin_mm for one in requested["margin"]] == [0, 2, 4]
    assert {(one.margin_mm, one.blend_mm) for one in requested["blend"]} == {(0, 0), (0, 3), (2, 0), (2, 3)}
    assert {one.source for one in requested["decoder"]} == {"reconstruction"}
    assert requested["margin"][1] == requested["paste"][4] == Experiment("generated", 2.0, 1.0)
    assert len(experiments(0.0, 1.0, (0,), (1,))["paste"]) == 4
    over_the_margin = experiments(3.0, None, margins_mm=(0, 2), blends_mm=(1,))
    assert [(one.margin_mm, one.blend_mm) for one in over_the_margin["margin"]] == [(0, 0), (2, 2)]
    assert [(one.margin_mm, one.blend_mm) for one in over_the_margin["decoder"]] == [(0, 0), (3, 0), (3, 3)]


@pytest.mark.parametrize("margin_mm", [0.0, 3.0])
def test_painted_region_ends_where_the_scan_does(margin_mm: float):
    lesion = real_lesion()
    assert not paint_mask_of(lesion, margin_mm)[:, :, 8:].any()


@pytest.mark.slow
def test_seam_asks_for_every_cause_and_continues(chain, nodules, tmp_path, monkeypatch, measured_once):
    config = seam.SeamConfig(
        pipeline=str(chain.ldm / "pipeline"),
        data=nodules,
        out=tmp_path / "seam",
        margins_mm=(0, 2),
        blends_mm=(0, 1),
        blend_mm=1,
        steps=1,
        repeats=10,
        device="cpu",
    )
    seam.main(config)
    text = (config.out / "seam.md").read_text()
    assert [text.count(f"\n| {cause} |") for cause in ("decoder", "margin", "blend", "paste")] == [4, 2, 4, 8]

    monkeypatch.setattr(seam.LesionInpaintPipeline, "generate", lambda *_, **__: pytest.fail("made twice"))
    seam.main(config)
    assert (config.out / "seam.md").read_text() == text
    with pytest.raises(ValueError, match=r"other settings \(steps: 1 -> 2\)"):
        seam.main(replace(config, steps=2))
