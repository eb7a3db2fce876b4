"""Paired pipeline: both modes, saving and loading, what is left as it was, and bad input."""

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hub_server import HubServer
from tiny_models import pixel_autoencoder, pixel_pipeline, randomised, seeds, tiny_unet

from diffusion import LesionInpaintPipeline, PairedLesionPipeline, SPADEUNet3D
from diffusion.paired import mask_conditions
from diffusion.population import LesionPopulation
from diffusion.process import training_scheduler
from diffusion.sampling.samplers import sampler_of
from diffusion.shapes import LearnedShapes, drawn_mask_image

SIZE = 16
QUICK = {"num_inference_steps": 2}


def pipeline() -> PairedLesionPipeline:
    torch.manual_seed(0)
    mask_unet = SPADEUNet3D(
        *(1, mask_conditions(1), 2, 1, 0),
        channels=(4, 8),
        blocks_per_level=1,
        attributes=("diameter_mm", "spiculation", "elastic"),
    )
    names = ("diameter_mm", "texture")
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, num_labels=8, attributes=names)
    population = LesionPopulation.of(["texture"], torch.tensor([5.0, 9.0]), torch.tensor([[4.0], [5.0]]))
    scheduler = sampler_of("ddim", training_scheduler("v"))
    pipe = PairedLesionPipeline(
        pixel_autoencoder(), randomised(mask_unet), unet, scheduler, population, crop_size=SIZE, spacing_mm=2.0
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> PairedLesionPipeline:
    return pipeline()


def crops(batch: int = 2) -> torch.Tensor:
    return 300 * torch.rand((batch, 1, SIZE, SIZE, SIZE), generator=torch.Generator().manual_seed(0)) - 900


def test_outside_the_ball_the_crop_is_the_input_bit_for_bit(pipe):
    ct = crops()
    made = pipe(ct, center=(8, 8, 8), diameter_mm=[6.0, 8.0], generator=seeds(0, 1), **QUICK)
    outside = made.paint_mask == 0
    assert torch.equal(made.ct[outside], ct[outside]) and not torch.equal(made.ct, ct)
    radii = (made.paint_mask.flatten(1).sum(1) * 3 / (4 * torch.pi)) ** (1 / 3) * 2  # mm
    np.testing.assert_allclose(radii, [0.75 * 6 + 4, 0.75 * 8 + 4], rtol=0.06)
    assert made.lesion_mask.dtype == torch.uint8 and made.lesion_mask.shape == ct.shape


def test_a_batch_gives_what_its_crops_give_alone(pipe):
    ct = crops()
    both = pipe(ct, center=(8, 8, 8), diameter_mm=6.0, generator=seeds(0, 1), **QUICK)
    alone = pipe(ct[1:], center=(8, 8, 8), diameter_mm=6.0, generator=seeds(1), **QUICK)
    torch.testing.assert_close(both.ct[1:], alone.ct, atol=0.5, rtol=0)
    assert torch.equal(both.lesion_mask[1:], alone.lesion_mask)


def test_a_scan_keeps_its_geometry_and_its_voxels_outside(pipe):
    voxels = np.random.default_rng(0).integers(-900, -600, (30, 40, 50)).astype(np.int16)
    scan = sitk.GetImageFromArray(voxels)
    scan.SetSpacing((1.3, 1.3, 1.5))
    scan.SetOrigin((5.0, -7.0, 3.0))
    made = pipe(scan, center=(15, 20, 25), diameter_mm=6.0, generator=torch.Generator().manual_seed(0), **QUICK)
    for image in (made.ct, made.lesion_mask, made.paint_mask):
        assert image.GetSize() == scan.GetSize() and image.GetOrigin() == scan.GetOrigin()
    outside = sitk.GetArrayFromImage(made.paint_mask) == 0
    assert (sitk.GetArrayFromImage(made.ct)[outside] == voxels[outside]).all()


def test_pairs_come_from_nothing_and_are_reproduced_by_their_seed(pipe):
    first, again, other = (
        pipe.generate(2, generator=torch.Generator().manual_seed(seed), **QUICK) for seed in (3, 3, 4)
    )
    assert first.ct.shape == first.lesion_mask.shape == (2, 1, SIZE, SIZE, SIZE)
    assert torch.equal(first.ct, again.ct) and torch.equal(first.lesion_mask, again.lesion_mask)
    assert not torch.equal(first.ct, other.ct)


def test_without_a_mask_the_mask_network_changes_nothing(tmp_path):
    pipe = pipeline()
    pipe.register_to_config(has_mask=False)
    made = pipe.generate(1, diameter_mm=7.0, generator=torch.Generator().manual_seed(5), **QUICK)
    assert not made.lesion_mask.any()
    pipe.save_pretrained(tmp_path)
    loaded = PairedLesionPipeline.from_pretrained(tmp_path)
    randomised(loaded.mask_unet, seed=9)
    loaded.set_progress_bar_config(disable=True)
    again = loaded.generate(1, diameter_mm=7.0, generator=torch.Generator().manual_seed(5), **QUICK)
    assert torch.equal(made.ct, again.ct)


def test_a_mask_alone_leaves_the_ct_and_needs_no_image(monkeypatch):
    pipe = pipeline()
    request = {"center": (8, 8, 8), "diameter_mm": 8.0, "exact_diameter": True, **QUICK}
    with pytest.raises(ValueError, match="mask_alone: this pipeline was trained with image_hidden 0"):
        pipe(crops(1), generator=seeds(0), mask_alone=True, **request)
    pipe.register_to_config(masks_alone=True)
    monkeypatch.setattr(pipe.unet, "forward", lambda *_, **__: pytest.fail("the image's network was called"))
    made = pipe(crops(1), generator=seeds(0), mask_alone=True, **request)
    assert torch.equal(made.ct, crops(1)) and made.lesion_mask.any()
    assert LearnedShapes(pipe).mask_in(crops(1)[0], (8, 8, 8), 8.0, {}, 0)[0].any()


def test_a_request_reaches_the_networks(pipe):
    ct = crops(1)
    plain, spiky, solid = (
        pipe(ct, (8, 8, 8), 6.0, attributes, generator=seeds(0), draw_appearance=False, **QUICK)
        for attributes in (None, {"spiculation": 5}, {"texture": "solid"})
    )
    assert not torch.equal(plain.ct, spiky.ct)
    assert torch.equal(plain.lesion_mask, plain.lesion_mask) and not torch.equal(plain.ct, solid.ct)


def test_a_callback_watches_mask_and_image(pipe):
    seen = []

    def watch(pipeline, step, t, tensors):
        seen.append((step, {name: tuple(value.shape) for name, value in tensors.items()}))
        return {"mask": torch.full_like(tensors["mask"], -1.0)}

    made = pipe.generate(1, generator=seeds(0), callback_on_step_end=watch, **QUICK)
    grid = (1, 1, SIZE, SIZE, SIZE)
    assert seen == [(n, dict.fromkeys(("mask", "image", "mask_estimate", "image_estimate"), grid)) for n in range(2)]
    assert not made.lesion_mask.any()  # what the callback returns replaces the state


def makes_the_same_pair(pipe: PairedLesionPipeline, loaded: PairedLesionPipeline) -> bool:
    loaded.set_progress_bar_config(disable=True)
    made, again = (one(crops(1), (8, 8, 8), 6.0, generator=seeds(0), **QUICK) for one in (pipe, loaded))
    return torch.equal(made.ct, again.ct) and torch.equal(made.lesion_mask, again.lesion_mask)


def test_what_is_loaded_makes_the_same_pair(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = PairedLesionPipeline.from_pretrained(tmp_path)
    assert dict(loaded.config)["mask"] == "distance" and loaded.population is not None
    assert makes_the_same_pair(pipe, loaded)
    with pytest.raises(ValueError, match="holds a PairedLesionPipeline, expected a LesionInpaintPipeline"):
        LesionInpaintPipeline.from_pretrained(tmp_path)


def test_what_is_pushed_to_the_hub_makes_the_same_pair(pipe, hub_server: HubServer):
    sha = pipe.push_to_hub("tester/pairs").oid
    assert makes_the_same_pair(pipe, PairedLesionPipeline.from_pretrained("tester/pairs", revision=sha))
    with pytest.raises(ValueError, match="holds a PairedLesionPipeline, expected a LesionInpaintPipeline"):
        LesionInpaintPipeline.from_pretrained("tester/pairs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diameter_mm": 30.0}, r"diameter_mm 30, expected 3 to 18 mm"),
        ({"diameter_mm": float("nan")}, r"diameter_mm nan, expected finite numbers"),
        ({"center": (8, 8)}, r"center \(8, 8\), expected three numbers"),
        ({"attributes": {"elastic": 0.5}}, r'attribute "elastic" is unknown to this pipeline, expected one of'),
        ({"attributes": {"spiculation": 7}}, r"spiculation: 7, expected a number from 1 to 5"),
        ({"num_inference_steps": 0}, r"num_inference_steps 0"),
        ({"ct": torch.full((1, 1, 16, 16, 15), -700.0)}, r"ct has shape"),
        ({"ct": "scan.nii"}, r"ct is a str, expected a SimpleITK.Image"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(pipe, monkeypatch, change, message):
    monkeypatch.setattr(pipe, "_sample", None)
    with pytest.raises(ValueError, match=message):
        pipe(**{"ct": crops(1), "center": (8, 8, 8), "diameter_mm": 6.0, **change})


def test_a_wrong_number_of_pairs_is_refused(pipe):
    with pytest.raises(ValueError, match=r"count 0, expected a whole number"):
        pipe.generate(0)


class Lesions:
    """A mask's network that is sure of a ball of 3 cells in the middle; its output is x0."""

    config = {"attributes": ("diameter_mm",)}  # noqa: RUF012 - as a model has it
    size_multiple = 2

    def __call__(self, sample, timestep, modulation, attributes):
        grid = torch.stack(torch.meshgrid(*3 * (torch.arange(SIZE) - 7.5,), indexing="ij"))
        image = (3 - grid.norm(dim=0)).clamp(-1, 1).expand(len(sample), 1, -1, -1, -1)
        return SimpleNamespace(sample=image)


def sure_pipeline() -> PairedLesionPipeline:
    made = pipeline()
    scheduler = sampler_of("ddim", training_scheduler("x0"))
    made = PairedLesionPipeline(made.vae, None, made.unet, scheduler, made.population, crop_size=SIZE, spacing_mm=2.0)
    made.mask_unet = Lesions()
    made.set_progress_bar_config(disable=True)
    return made


def test_a_mask_can_have_the_requested_volume_exactly():
    pipe = sure_pipeline()
    asked = [8.0, 13.0]  # the network is sure of 12 mm
    made = pipe(crops(), (8, 8, 8), asked, generator=seeds(0, 1), exact_diameter=True, **QUICK)
    volumes = made.lesion_mask.flatten(1).sum(1).double()
    expected = torch.pi / 6 * (torch.tensor(asked, dtype=torch.float64) / 2) ** 3
    assert bool(((volumes - expected).abs() < 30).all()) and 2 * volumes[0] < volumes[1]
    plain = pipe(crops(), (8, 8, 8), asked, generator=seeds(0, 1), **QUICK).lesion_mask.flatten(1).sum(1)
    assert plain[0] == plain[1]


def test_a_learned_shape_is_the_mask_of_a_call_without_one(monkeypatch):
    monkeypatch.setattr("diffusion.sampling.paired_pipeline.STEPS", 2)
    paints = pixel_pipeline(spacing_mm=2.0)
    ct = crops(1)
    with pytest.raises(ValueError, match="shape learned needs a paired pipeline: pass --paired FOLDER"):
        paints(ct, center=(8, 8, 8), diameter_mm=12.0, shape="learned", **QUICK)
    paints.learned_shapes = LearnedShapes(sure_pipeline())
    made = paints(ct, center=(8, 8, 8), diameter_mm=12.0, shape="learned", generator=seeds(0), **QUICK)
    assert made.shapes[0]["kind"] == "learned" and made.lesion_mask.shape == ct.shape
    assert int(made.lesion_mask.sum()) == pytest.approx(4 / 3 * torch.pi * 3**3, rel=0.25)
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-900, -600, (40, 40, 40)).astype(np.int16))
    image.SetSpacing((1.0, 1.0, 1.0))
    mask, record = drawn_mask_image(image, (20, 20, 20), 12.0, {"spiculation": 5}, 7, paints.learned_shapes)
    voxels = sitk.GetArrayFromImage(mask)
    assert record == {"kind": "learned", "seed": 7}  # the mask's network knows no spiculation
    assert voxels.sum() == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.1)  # on a finer grid, without steps
    np.testing.assert_allclose(np.argwhere(voxels).mean(0), 20, atol=0.6)
