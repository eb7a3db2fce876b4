"""A lesion into a whole scan: what stays, what comes back, and what is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from tiny_models import RecordingGuide, pixel_pipeline
from torch import Tensor

from diffusion.sampling.crops import Crops
from diffusion.sampling.request import ResolvedRequest
from diffusion.sampling.scan_crop import check_lesion_fits, crop_of_scan, paste_into_scan
from imaging.lesions.mask import grown_mask

SPACING = (2.5, 0.7, 0.7)  # z, y, x, mm
SIZE = (16, 52, 60)


def oblique_scan(pixel_type: int = sitk.sitkInt16, seed: int = 0) -> sitk.Image:
    """Noise around -800 HU, some of it below the window, turned by 20 and 10 degrees, far from the origin."""
    ct_hu = np.random.default_rng(seed).normal(-800, 150, SIZE)
    image = sitk.Cast(sitk.GetImageFromArray(ct_hu), pixel_type)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-131.5, 77.25, -402.0))
    turned = sitk.Euler3DTransform((0.0, 0.0, 0.0), np.radians(20), 0.0, np.radians(10))
    image.SetDirection(turned.GetMatrix())
    image.SetMetaData("0008|103e", "chest")
    return image


def ball(ct: sitk.Image, centre: tuple[float, float, float], diameter_mm: float) -> sitk.Image:
    """Mask of a ball around a voxel index (z, y, x), in the scan's geometry."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in ct.GetSize()[::-1]], indexing="ij"), axis=-1)
    inside = (((grid - centre) * ct.GetSpacing()[::-1]) ** 2).sum(-1) <= (diameter_mm / 2) ** 2
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(ct)
    return mask


class Painter:
    """Stands for the model: paints `paint(sampled HU, mask)` and notes what it is given."""

    def __init__(self, paint: Any) -> None:
        self.paint, self.calls = paint, []

    def __call__(self, crop: Crops) -> np.ndarray:
        ct_hu, mask = crop.ct_hu[0, 0].numpy(), crop.lesion_mask[0, 0].numpy()
        self.calls.append(SimpleNamespace(ct_hu=ct_hu, mask=mask, crop=crop))
        return self.paint(ct_hu, mask)


def inpainted(
    paint: Any,
    ct: sitk.Image,
    mask: sitk.Image,
    blend_mm: float = 1.0,
    size: int = 32,
    spacing_mm: float = 1.0,
    margin_mm: float = 0.0,
) -> sitk.Image:
    crop = crop_of_scan(ct, mask, size, spacing_mm, margin_mm)
    result, painted = paste_into_scan(crop, paint(crop), blend_mm), crop.region
    expected = grown_mask(sitk.GetArrayViewFromImage(mask), margin_mm, ct.GetSpacing()[::-1])
    assert np.array_equal(sitk.GetArrayViewFromImage(painted), expected)
    return result


def constant(value_hu: float) -> Any:
    return Painter(lambda ct_hu, mask: np.full_like(ct_hu, value_hu))


def check_outside(before: sitk.Image, after: sitk.Image, mask: sitk.Image) -> np.ndarray:
    """Outside and geometry are the input's; returns what is inside the mask afterwards."""
    a, b = sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after)
    inside = sitk.GetArrayFromImage(mask) > 0
    assert a.dtype == b.dtype and np.array_equal(a[~inside], b[~inside])
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection", "GetPixelID", "GetMetaDataKeys"):
        assert getattr(before, name)() == getattr(after, name)()
    assert (a[inside] != b[inside]).mean() > 0.9
    return b[inside]


@pytest.mark.parametrize("pixel_type", [sitk.sitkInt16, sitk.sitkFloat32])
def test_pipeline_changes_the_mask_of_an_oblique_scan_and_nothing_else(pixel_type: int):
    ct = oblique_scan(pixel_type)
    mask = ball(ct, (8, 25, 28), 11)
    pipe = pixel_pipeline(crop_size=24, spacing_mm=1.0)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    output, again = (pipe(ct, mask, num_inference_steps=2, generator=seed) for seed in seeds)
    check_outside(ct, output.ct, output.paint_mask)
    assert output.lesion_mask is mask
    lesion, painted = (sitk.GetArrayFromImage(image) > 0 for image in (mask, output.paint_mask))
    expected = distance_transform_edt(~lesion, sampling=ct.GetSpacing()[::-1]) <= pipe.config["paint_margin_mm"]
    assert np.array_equal(painted, expected)
    assert np.array_equal(sitk.GetArrayViewFromImage(again.ct), sitk.GetArrayViewFromImage(output.ct))


def test_model_sees_a_cube_around_the_lesion():
    ct, painter = oblique_scan(), constant(0.0)
    inpainted(painter, ct, ball(ct, (8, 25, 28), 12), size=36, spacing_mm=0.8)
    (call,) = painter.calls
    assert call.ct_hu.shape == call.mask.shape == (36, 36, 36)
    assert float(call.mask.sum()) * 0.8**3 == pytest.approx(np.pi / 6 * 12**3, rel=0.1)
    np.testing.assert_allclose(np.argwhere(call.mask).mean(0), 17.5, atol=0.6)


def test_pipeline_hands_its_grid_and_every_option_to_the_model(monkeypatch: pytest.MonkeyPatch):
    ct, pipe, calls = (
        oblique_scan(),
        pixel_pipeline(crop_size=36, spacing_mm=0.8, guide=RecordingGuide(), paint_margin_mm=2.0),
        [],
    )

    def generate(crops: Crops, request: Any, *run: Any) -> Tensor:
        calls.append((crops.ct_hu.shape, request, run))
        assert (crops.paint_mask >= crops.lesion_mask).all() and crops.paint_mask.sum() > crops.lesion_mask.sum()
        assert crops.valid_mask.all()
        return crops.ct_hu

    monkeypatch.setattr(pipe, "generate", generate)
    requested = {"malignancy": ["benign"]}
    pipe(ct, ball(ct, (8, 25, 28), 12), requested, 2.0, num_inference_steps=np.int64(7), num_lesions_per_mask=2)
    expected = ResolvedRequest(
        attributes={"malignancy": ["benign", "benign"]},
        guidance_scale=2.0,
        steps=7,
        paint_margin_mm=2.0,
        blend_mm=2.0,
    )
    assert calls == [((2, 1, 36, 36, 36), expected, (None, None, True, None, ("latents",)))]


def test_painted_hounsfield_units_arrive_away_from_the_rim():
    """The scan's own noise stays, so it is the mean that is painted; constant in means constant difference out."""
    ct = oblique_scan(sitk.sitkFloat32)
    mask = ball(ct, (8, 25, 28), 16)
    smooth = sitk.SmoothingRecursiveGaussian(ct, 6.0)  # what the model's grid can represent
    after = sitk.GetArrayFromImage(inpainted(constant(40.0), smooth, mask, size=40))
    inside = sitk.GetArrayFromImage(mask) > 0
    deep = distance_transform_edt(inside, sampling=SPACING) > 2.5
    assert deep.sum() > 100
    assert np.abs(after[deep] - 40).max() < 5
    rough = sitk.GetArrayFromImage(inpainted(constant(40.0), ct, mask, size=40))
    assert abs(rough[deep].mean() - 40) < 5
    assert 50 < rough[deep].std() < sitk.GetArrayFromImage(ct).std()  # the scan's noise is not painted over


@pytest.mark.parametrize("shift_hu", [-500, 0, 1200])
def test_model_that_changes_nothing_leaves_every_voxel(shift_hu: int):
    """Also above the model's window; what lies below air is raised to air inside the mask, as in prepared data."""
    ct = oblique_scan() + shift_hu
    mask = ball(ct, (8, 25, 28), 12)
    after = inpainted(Painter(lambda ct_hu, mask: ct_hu), ct, mask)
    before, inside = sitk.GetArrayFromImage(ct), sitk.GetArrayFromImage(mask) > 0
    assert np.array_equal(sitk.GetArrayFromImage(after), np.where(inside, np.maximum(before, -1024), before))


def test_calcification_of_the_old_lesion_leaves_no_trace():
    """It is brighter than the model's window, so a difference to the windowed scan would leave the excess behind."""
    ct = oblique_scan(sitk.sitkFloat32) * 1e-6 - 800
    mask = ball(ct, (8, 25, 28), 14)
    array = sitk.GetArrayFromImage(ct)
    array[sitk.GetArrayFromImage(ball(ct, (8, 25, 28), 8)) > 0] = 900
    calcified = sitk.GetImageFromArray(array)
    calcified.CopyInformation(ct)
    old, without = (
        sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, 2.0)).mean() for image in (calcified, ct)
    )
    assert old > without  # it is there
    spacing = (min(ct.GetSpacing()),) * 3
    fine = sitk.Resample(
        calcified,
        [60, 52, 57],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        ct.GetOrigin(),
        spacing,
        ct.GetDirection(),
        -800.0,
    )
    fine_mask = sitk.Resample(mask, fine, sitk.Transform(), sitk.sitkNearestNeighbor)
    after = inpainted(constant(-300.0), fine, fine_mask, blend_mm=0.0, size=48, spacing_mm=spacing[0])
    inside = sitk.GetArrayFromImage(fine_mask) > 0
    np.testing.assert_allclose(sitk.GetArrayFromImage(after)[inside], -300, atol=0.01)


def test_crop_and_scan_on_the_models_grid_give_the_same_result(monkeypatch: pytest.MonkeyPatch):
    ct_hu = np.random.default_rng(4).normal(-700, 200, (24, 24, 24)).astype(np.float32)
    assert ct_hu.min() < -1200  # some of it below air
    inside = np.zeros(ct_hu.shape, np.uint8)
    inside[8:16, 7:17, 9:15] = 1
    pipe = pixel_pipeline(crop_size=24, spacing_mm=0.9)
    made = torch.from_numpy(np.random.default_rng(5).normal(-300, 100, (1, 1, 24, 24, 24)).astype(np.float32))
    monkeypatch.setattr(pipe, "generate", lambda *_, **__: made)
    scan, mask = sitk.GetImageFromArray(ct_hu), sitk.GetImageFromArray(255 * inside)
    for image in (scan, mask):
        image.SetSpacing((0.9,) * 3)
    as_scan = sitk.GetArrayFromImage(pipe(scan, mask, blend_mm=1.5).ct)
    as_crop = pipe(ct_hu[None, None], 7 * inside[None, None], blend_mm=1.5).ct[0, 0]
    shift = np.argwhere(inside).min(0) + np.argwhere(inside).max(0) - 23  # the scan's grid is centred on the lesion
    assert not shift.any()
    np.testing.assert_allclose(as_scan, as_crop, atol=2e-3)
    assert np.array_equal(as_scan[inside == 0], ct_hu[inside == 0])


def test_lesion_fades_towards_the_rim_of_the_mask():
    ct = oblique_scan(sitk.sitkFloat32) * 1e-6 - 800
    mask = ball(ct, (8, 25, 28), 16)
    hard, soft = (sitk.GetArrayFromImage(inpainted(constant(0.0), ct, mask, w, size=40)) for w in (0.0, 3.0))
    inside = sitk.GetArrayFromImage(mask) > 0
    assert np.allclose(hard[inside], 0, atol=0.01)
    rim = inside & ~binary_erosion(inside)
    assert -800 < soft[rim].min() < soft[rim].mean() < -200
    depth_mm = distance_transform_edt(inside, sampling=SPACING)
    assert np.allclose(soft[inside], -800 + 800 * np.minimum(depth_mm[inside] / 3, 1), atol=0.1)


@pytest.mark.parametrize("centre", [(0, 25, 28), (8, 1, 28), (15, 50, 58)])
def test_lesion_at_the_border_of_the_scan_is_painted(centre: tuple[int, int, int]):
    ct = oblique_scan()
    mask = ball(ct, centre, 12)
    painter = constant(100.0)
    inside = check_outside(ct, inpainted(painter, ct, mask, blend_mm=0.0), mask)
    assert -50 < inside.mean() < 200
    crop = painter.calls[0].crop
    beyond = crop.valid_mask == 0
    assert beyond.any() and not crop.paint_mask[beyond].any()
    assert crop.ct_hu[beyond].min() > -1024  # the scan's edge is repeated, no wall of air


def lopsided(ct: sitk.Image) -> sitk.Image:
    """A ball with a long tail: its centroid is far from the middle of its extent."""
    array = sitk.GetArrayFromImage(ball(ct, (8, 25, 12), 12))
    array[8, 25, 12:42] = 1
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(ct)
    return result


def test_lopsided_lesion_that_fits_is_painted_to_its_end():
    ct = oblique_scan()
    mask = lopsided(ct)
    after = inpainted(constant(100.0), ct, mask, blend_mm=0.0, size=36)
    assert abs(int(after[41, 25, 8]) - int(ct[41, 25, 8])) > 50


def test_lesion_larger_than_the_grid_is_refused():
    ct = oblique_scan()
    painter = constant(0.0)
    with pytest.raises(
        ValueError, match=r"the mask spans \[.*\] mm \(z, y, x\), the model's grid 16 mm; expected at mo"
    ):
        inpainted(painter, ct, ball(ct, (8, 25, 28), 12), size=16)
    assert painter.calls == []
    with pytest.raises(ValueError, match="the mask spans"):  # the mask alone says it, too
        check_lesion_fits(ball(ct, (8, 25, 28), 12), 16, 1.0, 0.0)
    check_lesion_fits(ball(ct, (8, 25, 28), 12), 32, 1.0, 0.0)


def test_lesion_smaller_than_the_grid_can_show_is_refused():
    ct = oblique_scan()
    mask = ball(ct, (8, 25, 28), 0.1)
    with pytest.raises(ValueError, match=r"the mask vanishes on the model's grid of 4\.0 mm; the lesion is too small"):
        inpainted(constant(0.0), ct, mask, spacing_mm=4.0)
    with pytest.raises(ValueError, match="the mask vanishes"):
        check_lesion_fits(mask, 32, 4.0, 0.0)


def changed(mask: sitk.Image, what: str) -> sitk.Image:
    mask = sitk.Image(mask)
    if what == "size":
        return mask[:, :, :-1]
    if what == "spacing":
        mask.SetSpacing((0.7, 0.7, 2.4))
    if what == "origin":
        mask.SetOrigin(np.add(mask.GetOrigin(), 0.5).tolist())
    if what == "direction":
        mask.SetDirection(np.eye(3).flatten().tolist())
    return mask


@pytest.mark.parametrize("what", ["size", "spacing", "origin", "direction"])
def test_mask_of_another_geometry_is_refused(what: str):
    ct = oblique_scan()
    with pytest.raises(ValueError, match=r"mask: .*expected the same grid; resample it to the CT"):
        pixel_pipeline()(ct, changed(ball(ct, (8, 25, 28), 12), what))


def test_empty_mask_is_refused():
    ct = oblique_scan()
    with pytest.raises(ValueError, match="the lesion mask is empty, expected at least one voxel above 0"):
        pixel_pipeline()(ct, ball(ct, (-50, -50, -50), 1))


def test_guide_of_a_scan_is_requested_as_for_crops():
    ct, guide = oblique_scan(), RecordingGuide()
    mask = ball(ct, (8, 25, 28), 11)
    pixel_pipeline(guide=guide, crop_size=24)(ct, mask, {"malignancy": "benign"}, num_inference_steps=2)
    assert [request for request, *_ in guide.planned] == [{"malignancy": "benign"}] and len(guide.requested) == 2
    assert guide.planned[0][1].shape == (1, 1, 24, 24, 24)


def test_the_scans_noise_stays_and_a_fine_vessel_does_not_shine_through():
    size, spacing = (48, 48, 48), (0.6, 0.6, 0.6)
    noise = np.random.default_rng(0).normal(0, 20, size)
    scan = noise - 850.0
    scan[:, 24, 24] += 700.0  # thinner than the model's grid can hold
    ct = sitk.GetImageFromArray(scan.astype(np.float32))
    ct.SetSpacing(spacing)
    mask = ball(ct, (24, 24, 24), 14)
    after = sitk.GetArrayFromImage(inpainted(constant(40.0), ct, mask, size=24, spacing_mm=1.0))
    deep = distance_transform_edt(sitk.GetArrayFromImage(mask) > 0, sampling=spacing) > 3
    vessel = deep & (scan > -500)
    assert vessel.sum() > 10
    assert after[vessel].mean() < 40 + 80  # all but noise: 250 HU and more of the vessel were left
    assert after[deep & ~vessel].mean() == pytest.approx(40, abs=10)
    assert 0.5 * 20 < after[deep & ~vessel].std() < 22
