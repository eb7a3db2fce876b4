"""The inpainting pipeline on crops: what it leaves alone, that the loop is right, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from forked import expect, start
from tiny_models import (
    SHAPE,
    Oracle,
    RecordingGuide,
    crops,
    pixel_pipeline,
    pixel_unet,
    randomised,
    seeds,
    tiny_unet,
)
from torch.testing import assert_close

from autoencoder.kl import AutoencoderKL3D
from autoencoder.latents import standardise, unstandardise
from diffusion.conditioning import condition_of, show_map
from diffusion.process import TARGETS, training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline
from guidance.multi_classifier_guidance import MultiClassifierGuidance
from imaging.compositing import edge_weight
from imaging.lesions.mask import grown_mask
from imaging.semantic_map import inpainting_map
from imaging.window import to_hu, to_norm

MALIGNANT = {"malignancy": "malignant"}


@pytest.mark.parametrize("kind", ["int16 tensor", "int16 array", "float32 tensor", "float64 array", "uint8 mask bool"])
def test_ct_outside_the_mask_is_the_inputs_bit_for_bit(kind: str):
    ct_hu, lesion_mask = crops()
    ct: Any = ct_hu.round().to(torch.int16) if "int16" in kind else ct_hu
    mask: Any = lesion_mask.bool() if "bool" in kind else lesion_mask
    if "array" in kind:
        ct, mask = ct.numpy().astype(kind.split()[0]), mask.numpy()
        ct = ct + np.array(1e-7).astype(ct.dtype)  # digits that float32 does not have
    before = np.asarray(ct).copy()
    output = pixel_pipeline()(ct, mask, num_inference_steps=2, generator=seeds(0, 1))
    assert type(output.ct) is type(ct) and output.ct.dtype == ct.dtype and output.ct.shape == ct.shape
    assert output.lesion_mask is mask
    result, inside = np.asarray(output.ct), np.asarray(mask) > 0
    assert np.array_equal(result[~inside], before[~inside]) and np.array_equal(np.asarray(ct), before)
    assert (result[inside] != before[inside]).mean() > 0.9


def test_margin_is_painted_too_and_given_back():
    ct_hu, lesion_mask = crops()
    pipe = pixel_pipeline(paint_margin_mm=1.0)
    output = pipe(ct_hu, lesion_mask, num_inference_steps=2, generator=seeds(0, 1))
    expected = np.stack([grown_mask(mask, 1.0, (1, 1, 1)) for mask in lesion_mask[:, 0].numpy()])
    assert np.array_equal(output.paint_mask[:, 0], expected) and expected.sum() > lesion_mask.sum()
    assert torch.equal(output.ct[output.paint_mask == 0], ct_hu[output.paint_mask == 0])
    assert (output.ct != ct_hu)[output.paint_mask > 0].float().mean() > 0.9
    tight = pipe(ct_hu, lesion_mask, num_inference_steps=2, generator=seeds(0, 1), paint_margin_mm=0)
    assert torch.equal(tight.paint_mask, lesion_mask)
    valid_mask = torch.ones_like(lesion_mask)
    valid_mask[..., 6:] = 0
    cut = pipe(ct_hu, lesion_mask, num_inference_steps=2, generator=seeds(0, 1), valid_mask=valid_mask)
    assert torch.equal(cut.paint_mask, output.paint_mask * valid_mask)
    assert torch.equal(cut.ct[..., 6:], ct_hu[..., 6:]) and not torch.equal(cut.ct[..., :6], output.ct[..., :6])


def test_map_of_eight_labels_is_made_from_the_crop(monkeypatch: pytest.MonkeyPatch):
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, num_labels=8)
    pipe = pixel_pipeline(unet, paint_margin_mm=1.0)
    modulate = Counted(unet, "modulate", monkeypatch)
    ct_hu, lesion_mask = crops()
    made = pipe(ct_hu, lesion_mask, num_inference_steps=1)
    volumes = zip(ct_hu[:, 0].numpy(), lesion_mask[:, 0].numpy(), made.paint_mask[:, 0].numpy(), strict=True)
    expected = np.stack([inpainting_map(*volume, (1, 1, 1)) for volume in volumes])
    assert np.array_equal(modulate.calls[0][0][0][:, 0], expected) and (expected == 6).sum() == lesion_mask.sum()


def test_crop_is_synthesised_from_its_map_alone(monkeypatch: pytest.MonkeyPatch):
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, num_labels=8)
    pipe = pixel_pipeline(unet)
    forward = Counted(unet, "forward", monkeypatch)
    labels = torch.randint(0, 8, SHAPE, generator=torch.Generator().manual_seed(0))
    made = pipe.synthesize(labels, num_inference_steps=2, generator=seeds(0, 1))
    assert made.shape == SHAPE and made.min() >= -1150 and made.max() <= 350
    sample = forward.calls[0][0][0]
    assert (sample[:, 1] == sample[0, 1, 0, 0, 0]).all() and (sample[:, 3:] == 1).all()
    assert torch.equal(sample[:, 2:3], (labels >= 5).float())
    with pytest.raises(ValueError, match="this U-Net knows 2 labels, a semantic map has 8; train one with"):
        pixel_pipeline().synthesize(labels)


def test_a_synthesised_crop_sees_what_training_showed(monkeypatch: pytest.MonkeyPatch):
    unet = tiny_unet(latent_channels=1, condition_channels=4, map_factor=1, num_labels=8)
    guide = RecordingGuide()
    pipe = pixel_pipeline(unet, guide=guide, encoded_map=True)
    forward = Counted(unet, "forward", monkeypatch)
    labels = torch.randint(0, 8, SHAPE, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    valid_mask = torch.ones_like(labels)
    valid_mask[..., 6:] = 0
    options = {"valid_mask": valid_mask, "attributes": {"malignancy": [1.0, None]}, "guidance_scale": 3.0}
    pipe.synthesize(labels, num_inference_steps=1, generator=seeds(0, 1), **options)
    masks = {"lesion_mask": (labels >= 5).float(), "paint_mask": torch.zeros(SHAPE), "valid_mask": valid_mask}
    batch = {**masks, "blanked_latent": torch.zeros(SHAPE), "semantic_map": labels}
    trained = show_map(batch, torch.tensor([True, True]), pipe.vae)
    condition = condition_of(*(trained[name] for name in ("blanked_latent", *masks)), 1)
    assert_close(forward.calls[0][0][0][:, 1:], condition)
    (requested, lesion_mask, scale, _) = guide.planned[0]
    assert (requested, scale) == (options["attributes"], 3.0) and torch.equal(lesion_mask, labels >= 5)
    with pytest.raises(ValueError, match=r"valid_mask has shape \(2, 1, 4, 6, 4\), semantic_map \(2, 1, 4, 6, 8\)"):
        pipe.synthesize(labels, valid_mask=valid_mask[..., :4])


EULER = EulerDiscreteScheduler.from_config(training_scheduler("v").config)  # which scales what the network sees


@pytest.mark.parametrize("scheduler", [*map(training_scheduler, TARGETS), EULER], ids=[*TARGETS, "euler"])
def test_exact_denoiser_makes_the_sampler_return_its_x0(scheduler: Any):
    ct_hu, lesion_mask = crops()
    wanted_hu = -500 + 300 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    pipe = pixel_pipeline(scheduler=scheduler)
    x0 = standardise(to_norm(wanted_hu), pipe.vae.config)
    pipe.register_modules(unet=Oracle(x0, scheduler))
    result = pipe(ct_hu, lesion_mask, num_inference_steps=10, generator=seeds(0, 1), blend_mm=0).ct
    assert_close(result, torch.where(lesion_mask > 0, wanted_hu.clamp(-1150, 350), ct_hu), rtol=0, atol=0.5)


def test_latent_is_standardised_before_and_decoded_after():
    torch.manual_seed(0)
    vae = randomised(
        AutoencoderKL3D((4,), 1, 2, window_width=1000.0, window_level=-300.0, latents_mean=[1, -2], latents_std=[3, 4])
    )
    scheduler = DDIMScheduler.from_config(training_scheduler("epsilon").config)
    x0 = torch.randn(2, 2, 2, 3, 4, generator=torch.Generator().manual_seed(3))
    pipe = LesionInpaintPipeline(vae, Oracle(x0, scheduler), scheduler, paint_margin_mm=0.0)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        decoded = vae.decode(unstandardise(x0, vae.config)).sample.clamp(-1, 1)
    ct_hu, lesion_mask = crops()
    result = pipe(ct_hu, lesion_mask, num_inference_steps=5, blend_mm=0, match_noise=False).ct
    expected = torch.where(lesion_mask > 0, to_hu(decoded, 1000.0, -300.0), ct_hu)
    assert_close(result, expected, rtol=0, atol=0.5)


def test_same_seed_gives_the_same_lesion_again_and_another_seed_another():
    pipe = pixel_pipeline()
    ct_hu, lesion_mask = crops()
    first, again, other = (pipe(ct_hu, lesion_mask, num_inference_steps=3, generator=g).ct for g in seeds(4, 4, 7))
    assert torch.equal(first, again) and (other - first).abs().max() > 20


class Counted:
    """Counts the calls of a bound method, and keeps their arguments."""

    def __init__(self, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[tuple, dict]] = []
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((args, kwargs))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)


def test_map_is_modulated_once_and_the_network_sees_what_it_should(monkeypatch: pytest.MonkeyPatch):
    unet = pixel_unet()
    pipe = pixel_pipeline(unet, spacing_mm=0.8)
    modulate, forward = Counted(unet, "modulate", monkeypatch), Counted(unet, "forward", monkeypatch)
    ct_hu, lesion_mask = crops()
    pipe(ct_hu, lesion_mask, num_inference_steps=4)
    assert len(modulate.calls) == 1 and torch.equal(modulate.calls[0][0][0], lesion_mask)
    assert [int(arguments[1]) for arguments, _ in forward.calls] == [999, 749, 499, 249]
    blanked = standardise(torch.where(lesion_mask > 0, -1.0, to_norm(ct_hu)), pipe.vae.config)
    for (sample, _), _ in forward.calls:
        masks = (lesion_mask, lesion_mask, torch.ones_like(lesion_mask))
        assert_close(sample[:, 1:], torch.cat([blanked, *(mask.float() for mask in masks)], dim=1))

    pipe(ct_hu, lesion_mask, num_inference_steps=1, spacing_mm=[0.8, 0.8, 0.8], semantic_map=1 - lesion_mask)
    assert torch.equal(modulate.calls[1][0][0], 1 - lesion_mask)


@pytest.mark.parametrize("value", [7, 255, 0.5])
def test_mask_of_one_positive_value_is_taken_as_one(value: float):
    ct_hu, lesion_mask = crops()
    pipe = pixel_pipeline()
    results = [
        pipe(ct_hu, mask, num_inference_steps=2, generator=seeds(1, 2)).ct
        for mask in (lesion_mask, value * lesion_mask)
    ]
    assert torch.equal(*results)


def test_blend_mixes_ct_and_generated_by_the_edge_weight(monkeypatch: pytest.MonkeyPatch):
    ct_hu, lesion_mask = crops()
    ct_hu[0, 0, 2, 3, 4] = 1200  # beyond the window: it is painted over as all else
    pipe = pixel_pipeline()
    monkeypatch.setattr(pipe, "generate", lambda *_, **__: torch.full(SHAPE, -100.0))
    result = pipe(ct_hu, lesion_mask, blend_mm=2.0).ct
    weight = torch.from_numpy(np.stack([edge_weight(m[0].numpy(), np.ones(3), 2.0)[None] for m in lesion_mask]))
    raised = ct_hu.clamp(min=-1024)  # what lies below air counts as air where it is painted over
    expected = torch.where(weight > 0, raised + weight * (-100 - raised), ct_hu)
    assert_close(result, expected, rtol=1e-5, atol=1e-3)


def test_lesion_where_the_scan_ends_is_all_the_models(monkeypatch: pytest.MonkeyPatch):
    ct_hu, lesion_mask, valid_mask = torch.full(SHAPE, -800.0), torch.zeros(SHAPE).byte(), torch.ones(SHAPE).byte()
    lesion_mask[..., 1:3, 2:4, 3:5] = 1
    valid_mask[..., 5:] = 0  # the lesion's last voxel is the scan's
    pipe = pixel_pipeline(paint_margin_mm=2.0)
    monkeypatch.setattr(pipe, "generate", lambda *_, **__: torch.full(SHAPE, -100.0))
    result = pipe(ct_hu, lesion_mask, valid_mask=valid_mask).ct
    assert (result[lesion_mask > 0] == -100).all() and (result[valid_mask == 0] == -800).all()
    assert ((result > -800) & (result < -100)).any()


def test_guide_is_requested_at_every_step_with_what_the_network_sees(monkeypatch: pytest.MonkeyPatch):
    guide, unet = RecordingGuide(), pixel_unet()
    pipe = pixel_pipeline(unet, EulerDiscreteScheduler.from_config(training_scheduler("v").config), guide)
    forward = Counted(unet, "forward", monkeypatch)
    ct_hu, lesion_mask = crops()
    plain = pipe(ct_hu, lesion_mask, num_inference_steps=3, generator=seeds(1, 2)).ct
    assert guide.planned == [] and guide.requested == []
    forward.calls.clear()
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "guidance_range": (0.1, 0.9)}
    neutral = pipe(ct_hu, lesion_mask, MALIGNANT, generator=seeds(1, 2), **options).ct
    assert torch.equal(neutral, plain)  # a gradient of 0
    ((requests, mask, *settings),) = guide.planned
    assert requests == MALIGNANT and torch.equal(mask, lesion_mask) and settings == [2.0, (0.1, 0.9)]
    for (noisy, t, sigma), ((sample, t_seen), _) in zip(guide.requested, forward.calls, strict=True):
        assert torch.equal(noisy, sample[:, :1]) and t == t_seen
        assert sigma == pytest.approx(float((1 - pipe.scheduler.alphas_cumprod[int(t)]) ** 0.5))


def test_guidance_moves_the_lesion_by_the_gradient_times_the_noise_level():
    ct_hu, lesion_mask = crops()
    guide = RecordingGuide(strength=0.2)
    scheduler = DDIMScheduler.from_config(training_scheduler("epsilon", "linear").config)
    pipe = pixel_pipeline(scheduler=scheduler, guide=guide)
    pipe.register_modules(unet=Oracle(torch.zeros(SHAPE), scheduler))
    means = []
    for scale in (0.0, 0.5, 1.0, -1.0):
        options = {"num_inference_steps": 5, "guidance_scale": scale, "blend_mm": 0, "generator": seeds(1, 2)}
        result = pipe(ct_hu, lesion_mask, MALIGNANT, **options).ct
        means.append(float(result[lesion_mask > 0].mean()))
        assert len(guide.planned) == len(means) and len(guide.requested) == len(means) * 5
    # the last step moves x̂0 by s σ²/√ᾱ · 0.2 at t = 199, in units of the latent's 0.5 · 750 HU
    alpha_bar = float(scheduler.alphas_cumprod[199])
    shift_hu = (1 - alpha_bar) / alpha_bar**0.5 * 0.2 * 0.5 * 750
    assert_close(np.diff(means), np.array([0.5, 0.5, -2.0]) * shift_hu, rtol=0.01, atol=0)


def tiny_guide() -> MultiClassifierGuidance:
    classifier = {"classes": {"malignancy": ["benign", "malignant"]}, "latent_channels": 1, "channels": (4, 8)}
    torch.manual_seed(0)
    return randomised(MultiClassifierGuidance([classifier], neighbourhood_cells=2))


def test_saved_pipeline_is_loaded_back_with_guide_and_settings(tmp_path: Path):
    pipe = pixel_pipeline(guide=tiny_guide(), crop_size=16, spacing_mm=0.75)
    pipe.save_pretrained(tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    weights = {f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet", "guide")}
    assert {name for name in files if not name.endswith(".json")} == weights
    loaded = LesionInpaintPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config["crop_size"] == 16 and loaded.config["spacing_mm"] == 0.75
    ct_hu, lesion_mask = crops()
    a, b = (p(ct_hu, lesion_mask, MALIGNANT, num_inference_steps=3, generator=seeds(1, 2)).ct for p in (pipe, loaded))
    assert torch.equal(a, b)
    unguided = loaded(ct_hu, lesion_mask, num_inference_steps=3, generator=seeds(1, 2)).ct
    assert not torch.equal(a, unguided)


def test_guide_is_found_by_who_knows_the_pipeline_alone(tmp_path: Path):
    pixel_pipeline(guide=tiny_guide()).save_pretrained(tmp_path)
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(
        "import sys\nfrom diffusion import LesionInpaintPipeline\nassert 'guidance' not in sys.modules\n"
        "print(type(LesionInpaintPipeline.from_pretrained(sys.argv[1]).guide).__name__)\n"
    )
    expect(start(script, [tmp_path], log), log)
    assert log.read_text().endswith("MultiClassifierGuidance\n")


def test_pipeline_without_guide_is_saved_and_loaded_with_another_scheduler(tmp_path: Path):
    pipe = pixel_pipeline()
    pipe.save_pretrained(tmp_path)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    loaded = LesionInpaintPipeline.from_pretrained(str(tmp_path), scheduler=scheduler)
    assert loaded.guide is None and loaded.scheduler is scheduler
    state = loaded.unet.state_dict()
    assert all(torch.equal(state[name], value) for name, value in pipe.unet.state_dict().items())


def test_folder_that_names_foreign_code_is_refused(tmp_path: Path):
    pixel_pipeline().save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "unet": ["subprocess", "Popen"]}))
    with pytest.raises(ValueError, match=r"component 'unet' is from library 'subprocess', expected diffusers or a mod"):
        LesionInpaintPipeline.from_pretrained(tmp_path)


def edit(kind: str) -> dict[str, Any]:
    """Arguments of a call with one fault."""
    ct_hu, mask = crops()
    holed, two_labels, empty, label_two = ct_hu.clone(), mask.clone(), mask.clone(), mask.clone()
    holed[1, 0, 2, 3, 4], two_labels[0, 0, 0, 0, 0], empty[1], label_two[0, 0, 0, 0, 0] = float("nan"), 2, 0, 2
    faults: dict[str, dict[str, Any]] = {
        "no batch": {"ct": ct_hu[0], "mask": mask[0]},
        "two channels": {"ct": ct_hu.expand(2, 2, 4, 6, 8), "mask": mask.expand(2, 2, 4, 6, 8)},
        "odd size": {"ct": ct_hu[..., :7], "mask": mask[..., :7]},
        "other mask shape": {"mask": mask[:1]},
        "nan": {"ct": holed},
        "mask of two": {"mask": two_labels},
        "soft mask": {"mask": torch.where(two_labels == 2, 0.5, mask)},
        "empty mask": {"mask": empty},
        "map shape": {"semantic_map": mask[:, :, :2]},
        "map label": {"semantic_map": label_two},
        "spacing count": {"spacing_mm": [1.0, 1.0]},
        "spacing zero": {"spacing_mm": [1.0, 0.0, 1.0]},
        "another spacing": {"spacing_mm": [2.5, 0.7, 0.7]},
        "one of another spacing": {"spacing_mm": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.02]]},
        "blend": {"blend_mm": -1.0},
        "margin": {"paint_margin_mm": -1.0},
        "valid shape": {"valid_mask": mask[:1]},
        "blend nan": {"blend_mm": float("nan")},
        "scale nan": {"guidance_scale": float("nan")},
        "scale word": {"guidance_scale": "2"},
        "steps word": {"num_inference_steps": "5"},
        "steps fraction": {"num_inference_steps": 2.5},
        "steps bool": {"num_inference_steps": True},
        "generators": {"generator": seeds(1, 2, 3)},
        "no steps": {"num_inference_steps": 0},
        "attributes": {"attributes": MALIGNANT},
    }
    return {"ct": ct_hu, "mask": mask, **faults[kind]}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "no batch",
            r"ct has shape \(1, 4, 6, 8\), expected \(B, 1, D, H, W\) with D, H, W multiples of 2; pass a Sim",
        ),
        ("two channels", r"ct has shape \(2, 2, 4, 6, 8\), expected \(B, 1, D, H, W\)"),
        ("odd size", r"ct has shape \(2, 1, 4, 6, 7\), .* multiples of 2"),
        ("other mask shape", r"mask has shape \(1, 1, 4, 6, 8\), ct \(2, 1, 4, 6, 8\); they must be equal"),
        ("nan", "ct holds NaN or infinite values; replace them with HU first"),
        ("mask of two", "mask has the values 0 and 1, 2; expected 0 and one positive value, which is taken as 1"),
        ("soft mask", r"mask has the values 0 and 0\.5, 1; expected 0 and one positive value"),
        ("empty mask", "mask of volume 1 is empty; it says where the lesion is painted"),
        ("map shape", r"semantic_map has shape \(2, 1, 2, 6, 8\), ct \(2, 1, 4, 6, 8\)"),
        ("map label", r"semantic_map has labels 0 \.\.\. 2, the model knows 0 \.\.\. 1"),
        (
            "spacing count",
            r"spacing_mm \[1\.0, 1\.0\], expected three positive numbers \(z, y, x\), or three per volume",
        ),
        ("spacing zero", r"spacing_mm \[1\.0, 0\.0, 1\.0\], expected three positive numbers"),
        ("another spacing", r"spacing_mm \[2\.5, 0\.7, 0\.7\]: the model has learnt 1 mm along every axis; resample"),
        ("one of another spacing", r"the model has learnt 1 mm along every axis"),
        ("blend", r"blend_mm -1\.0, expected a finite number of at least 0"),
        ("margin", r"paint_margin_mm -1\.0, expected a finite number of at least 0"),
        ("valid shape", r"valid_mask has shape \(1, 1, 4, 6, 8\), ct \(2, 1, 4, 6, 8\); must be equal"),
        ("blend nan", r"blend_mm nan, expected a finite number of at least 0"),
        ("scale nan", r"guidance_scale nan, expected a finite number"),
        ("scale word", r"guidance_scale '2', expected a finite number"),
        ("steps word", r"num_inference_steps '5', expected a whole number of at least 1"),
        ("steps fraction", r"num_inference_steps 2\.5, expected a whole number of at least 1"),
        ("steps bool", r"num_inference_steps True, expected a whole number of at least 1"),
        ("generators", "3 generators for 2 volumes; give one, or one per volume"),
        ("no steps", "num_inference_steps 0, expected a whole number of at least 1"),
        ("attributes", r'attribute "malignancy" is unknown to this pipeline; known: none; train others with train_ldm'),
    ],
)
def test_fault_is_named_before_anything_is_computed(kind: str, message: str, monkeypatch: pytest.MonkeyPatch):
    pipe = pixel_pipeline()
    monkeypatch.setattr(pipe.vae, "encode", lambda *_: pytest.fail("computed before checking"))
    with pytest.raises(ValueError, match=message):
        pipe(**edit(kind))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"colour": "red"}, 'attribute "colour" is unknown to this pipeline; known: malignancy'),
        ({"malignancy": "grim"}, "malignancy: 'grim', expected a number from 1 to 5, or benign, malignant"),
        ({"malignancy": ["benign"] * 3}, "malignancy: 3 values for 2 volumes; give one, or one per volume"),
    ],
)
def test_attribute_the_guide_does_not_know_is_named(attributes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        pixel_pipeline(guide=tiny_guide())(*crops(), attributes)


def test_autoencoder_without_latent_statistics_is_refused():
    vae = AutoencoderKL3D(channels=(4,), blocks_per_level=1, latent_channels=2)
    pipe = LesionInpaintPipeline(vae, tiny_unet(), training_scheduler("v"))
    ct_hu, lesion_mask = torch.zeros(1, 1, 4, 8, 8), torch.ones(1, 1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"no latents_mean and latents_std; run scripts/encode_latents\.py"):
        pipe(ct_hu, lesion_mask)


def test_what_is_painted_has_the_noise_of_the_ct_around_it(monkeypatch: pytest.MonkeyPatch):
    """An autoencoder that keeps nothing leaves all of the CT as noise to be matched."""
    noise = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    ct_hu, lesion_mask = -700 + 40 * noise, torch.zeros(1, 1, 16, 16, 16)
    lesion_mask[..., 4:12, 4:12, 4:12] = 1
    pipe = pixel_pipeline()
    calm = torch.full_like(ct_hu, 0.1)
    monkeypatch.setattr(type(pipe.vae), "decode", lambda self, latent: SimpleNamespace(sample=calm))
    options = {"num_inference_steps": 1, "blend_mm": 0}
    without = pipe(ct_hu, lesion_mask, generator=seeds(1)[0], match_noise=False, **options).ct
    first, again, other = (pipe(ct_hu, lesion_mask, generator=seeds(seed)[0], **options).ct for seed in (1, 1, 2))
    inside = lesion_mask > 0
    assert without[inside].std() < 1e-3 and first[inside].std() == pytest.approx(40, rel=0.15)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first[inside].mean() == pytest.approx(float(without[inside].mean()), abs=10)
    for made in (without, first):
        assert torch.equal(made[~inside], ct_hu[~inside])
