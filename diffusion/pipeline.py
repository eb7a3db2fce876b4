"""`LesionInpaintPipeline`: a CT and a mask in, the same CT with a lesion inside the mask out."""

import inspect
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from autoencoder.hub import resolve_folder
from autoencoder.latents import standardise, unstandardise
from diffusion.attributes import Wish, wished
from diffusion.conditioning import blank, condition_of
from diffusion.guide import Plan, Scales, attribute_scales, check_range, is_finite
from diffusion.hub import import_component_modules
from diffusion.objective import guided_output, noise_level
from diffusion.samplers import set_steps
from imaging.compositing import composite, edge_weight
from imaging.files.hounsfield import check_hu
from imaging.lesions.mask import binary_mask, grown_mask
from imaging.noise import noise_like
from imaging.semantic_map import FIRST_NODULE, LABELS, inpainting_map
from imaging.window import AIR_HU, to_hu, to_norm

if TYPE_CHECKING:
    import SimpleITK as sitk

Attributes = Mapping[str, Wish]
STEPS = 16  # within 5 % of 250 in every texture distance (benchmarks/few_steps.md)
SAME_SPACING = 0.01  # relative; the same grid to a hundredth
Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class LesionInpaintOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        ct: The CT with the lesion, HU; the type, shape and geometry of the input.
        lesion_mask: The mask that was given.
        paint_mask: The lesion and the margin around it, uint8: outside it the CT is the input, bit for bit.
    """

    ct: Any
    lesion_mask: Any
    paint_mask: Any = None


class LesionInpaintPipeline(DiffusionPipeline):
    """Inpaints lung nodules into chest CT; outside the painted region the result is the input, bit for bit.

    The painted region is the lesion mask and a margin around it, in which the lesion's blurred rim and the lung around
    it are made together with the lesion.

    Args:
        vae: Stage 1: an autoencoder with `encode`, `decode`, `factor`, and latent statistics in its config; local, or a
            `RemoteAutoencoder(url)`, with which the pipeline cannot be saved.
        unet: Stage 2: `SPADEUNet3D`.
        scheduler: Any Diffusers scheduler built from the training scheduler's config.
        guide: Optional classifier guidance, a `diffusion.guide.Guide`.
        crop_size: Edge of the model's grid in voxels, used for whole scans.
        spacing_mm: Spacing of the model's grid, isotropic, used for whole scans.
        paint_margin_mm: Margin that the U-Net was trained with.
    """

    model_cpu_offload_seq = "vae->unet->vae"
    _optional_components = ["guide"]  # noqa: RUF012 - the name and type Diffusers reads

    def __init__(
        self,
        vae: Any,
        unet: Any,
        scheduler: Any,
        guide: Any = None,
        crop_size: int = 64,
        spacing_mm: float = 1.0,
        paint_margin_mm: float = 2.0,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, guide=guide)
        self.register_to_config(crop_size=crop_size, spacing_mm=spacing_mm, paint_margin_mm=paint_margin_mm)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **kwargs: Any,
    ) -> "LesionInpaintPipeline":
        """Load from a folder or from the Hugging Face Hub (snapshot first, then the folder; no code is executed).

        Args:
            repo_or_folder: What `save_pretrained` or `push_to_hub` wrote.
            revision: Branch, tag or commit of the repository.
            token, cache_dir, local_files_only, force_download: As `huggingface_hub.snapshot_download`.
            kwargs: Passed on to Diffusers, for example `torch_dtype` or a component to replace; `vae` may be any
                autoencoder, also a `RemoteAutoencoder(url)`.
        Raises: ValueError, OSError: As `autoencoder.hub.resolve_folder` says.
        """
        folder = resolve_folder(
            repo_or_folder,
            revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        import_component_modules(folder)
        if "custom_pipeline" in kwargs or kwargs.get("trust_remote_code"):
            raise ValueError("custom_pipeline and trust_remote_code would run code from the folder; leave them out")
        vae = kwargs.pop("vae", None)
        without = {} if vae is None else {"vae": None}  # Diffusers takes no component whose class it did not save
        pipeline = super().from_pretrained(folder, use_safetensors=True, local_files_only=True, **without, **kwargs)
        if vae is not None:
            pipeline.register_modules(vae=vae)
        return pipeline

    @torch.no_grad()
    def __call__(
        self,
        ct: "np.ndarray | Tensor | sitk.Image",
        mask: Any,
        attributes: Attributes | None = None,
        guidance_scale: Scales = 1.0,
        guidance_range: Sequence[float] | None = None,
        cfg_scale: float = 1.0,
        num_inference_steps: int = STEPS,
        generator: Generators = None,
        spacing_mm: Any = None,
        semantic_map: Any = None,
        valid_mask: Any = None,
        paint_margin_mm: float | None = None,
        blend_mm: float | None = None,
        match_noise: bool = True,
    ) -> LesionInpaintOutput:
        """Inpaint one lesion per volume.

        Args:
            ct: HU. Either a whole scan as a `SimpleITK.Image` (any spacing, direction and size; the model works on a
                grid of `crop_size` voxels around the mask), or crops on the model's grid, (B, 1, D, H, W).
            mask: The lesion: 0 and one positive value, which is taken as 1; geometry or shape of `ct`.
            attributes: Wanted character, for example `{"malignancy": "malignant", "mean_hu": -450}`: what the U-Net was
                trained to take (`unet.config.attributes`) or the guide classifies (`guide.attributes`); what both know
                is asked of both. One value for all, or a list with one per volume, None where nothing is asked for.
            guidance_scale: Strength s of the guide, the classifiers' gradient: one number, or one for each attribute by
                name, `{"malignancy": 2, "spiculation": 0.5}`, 1 where it has none; 0 switches it off.
            guidance_range: (low, high), which timesteps are guided, as shares of all with 0 clean and 1 noise; None
                takes the guide's own.
            cfg_scale: Classifier-free guidance w of the U-Net's own attributes: ε̂ = ε(∅) + w (ε(a) - ε(∅)) (Ho &
                Salimans 2022); 1 asks once, anything else twice a step.
            num_inference_steps: Denoising steps.
            generator: One, or one per volume: then a batch gives what its volumes give alone.
            spacing_mm: Of crops, (3,) or (B, 3), z, y, x, to be checked: the model has learnt one spacing. None means
                the pipeline's own. Scans carry theirs and are resampled.
            semantic_map: Labels (B, 1, D, H, W) for crops, where the U-Net knows more than background and lesion;
                None makes it (`imaging.semantic_map.inpainting_map`).
            valid_mask: For crops, (B, 1, D, H, W), 0 where the crop reaches outside its scan; there `ct` should repeat
                the nearest voxel, as prepared datasets do. None: all is valid.
            paint_margin_mm: What is painted around the lesion; None takes the margin of the training.
            blend_mm: Width over which the change is blended in from the border of the painted region inwards; None is
                the margin, so that the lesion itself is all the model's.
            match_noise: Whether what is painted is given noise like that of the CT around it, of which the autoencoder
                keeps little (`imaging.noise.noise_like`).
        Returns: `LesionInpaintOutput`; `ct` has the input's type, and outside `paint_mask` its very values.
        Raises: ValueError: If shapes, sizes, values or attributes do not fit; before anything is computed.
        """
        margin_mm = self.config["paint_margin_mm"] if paint_margin_mm is None else paint_margin_mm
        blend_mm = margin_mm if blend_mm is None else blend_mm
        check_numbers(num_inference_steps, guidance_scale, cfg_scale, blend_mm, margin_mm, guidance_range)
        options: dict[str, Any] = {
            "attributes": attributes,
            "guidance_scale": guidance_scale,
            "guidance_range": guidance_range,
            "cfg_scale": cfg_scale,
            "match_noise": match_noise,
            "num_inference_steps": num_inference_steps,
            "generator": generator,
        }
        if not isinstance(ct, np.ndarray | Tensor):
            if not hasattr(ct, "GetSpacing"):
                raise ValueError(
                    f"ct is a {type(ct).__name__}, expected a SimpleITK.Image (see read_ct), array or tensor"
                )
            if spacing_mm is not None or semantic_map is not None or valid_mask is not None:
                raise ValueError(
                    "spacing_mm, semantic_map and valid_mask go with crops; a scan has its spacing and is mapped here"
                )
            from diffusion.insertion import inpaint_scan  # SimpleITK is needed for scans only

            def paint(crop: dict[str, np.ndarray]) -> np.ndarray:
                tensors: dict[str, Any] = {
                    name: torch.from_numpy(np.ascontiguousarray(array))[None, None] for name, array in crop.items()
                }
                return self.generate(**tensors, **options)[0, 0].cpu().numpy()

            size, grid_mm = self.config["crop_size"], self.config["spacing_mm"]
            made, painted_region = inpaint_scan(ct, mask, paint, size, grid_mm, margin_mm, blend_mm)
            return LesionInpaintOutput(ct=made, lesion_mask=mask, paint_mask=painted_region)
        ct_hu = torch.as_tensor(ct)
        lesion_mask = torch.from_numpy(binary_mask(torch.as_tensor(mask).cpu().numpy()))
        self._check_crops(ct_hu, lesion_mask)
        check_hu(ct_hu.float().cpu().numpy(), "ct", crop=True)
        self._check_spacing(spacing_mm, len(ct_hu))
        valid = torch.ones_like(lesion_mask)
        if valid_mask is not None:
            valid = torch.from_numpy(binary_mask(torch.as_tensor(valid_mask).cpu().numpy(), "valid_mask"))
        semantic = None if semantic_map is None else torch.as_tensor(semantic_map)
        for name, given in (("valid_mask", valid), ("semantic_map", semantic)):
            if given is not None and given.shape != ct_hu.shape:
                raise ValueError(f"{name} has shape {tuple(given.shape)}, ct {tuple(ct_hu.shape)}; must be equal")
        own_mm = 3 * (self.config["spacing_mm"],)
        paint_mask = torch.from_numpy(
            np.stack([grown_mask(lesion, margin_mm, own_mm) for lesion in lesion_mask[:, 0].numpy()])[:, None]
        )
        paint_mask = paint_mask * valid
        generated = self.generate(ct_hu, lesion_mask, paint_mask, valid, semantic, **options).cpu().numpy()
        volumes = ct_hu.cpu().float().numpy() if ct_hu.dtype in (torch.float16, torch.bfloat16) else ct_hu.cpu().numpy()
        painted = [  # a crop is a scan whose grid is the model's
            composite(volume, made - np.maximum(volume, AIR_HU), edge_weight(place, np.array(own_mm), blend_mm))
            for volume, made, place in zip(volumes[:, 0], generated[:, 0], paint_mask[:, 0].numpy(), strict=True)
        ]
        result = torch.from_numpy(np.stack(painted)[:, None]).to(ct_hu)
        if isinstance(ct, np.ndarray):
            return LesionInpaintOutput(ct=result.numpy(), lesion_mask=mask, paint_mask=paint_mask.numpy())
        return LesionInpaintOutput(ct=result, lesion_mask=mask, paint_mask=paint_mask)

    @torch.no_grad()
    def synthesize(
        self, semantic_map: Any, num_inference_steps: int = STEPS, generator: Generators = None
    ) -> np.ndarray:
        """Crops from their semantic map alone: LSDM's task, in 3D. The U-Net must have been trained for it.

        Args:
            semantic_map: Labels (`imaging.semantic_map.LABELS`), integer (B, 1, D, H, W).
            num_inference_steps, generator: As in the call.
        Returns: HU within the window, float32 (B, 1, D, H, W).
        Raises: ValueError: If the U-Net knows only background and lesion, or shapes do not fit.
        """
        check_numbers(num_inference_steps, 0.0, 1.0, 0.0, 0.0)
        labels = torch.as_tensor(semantic_map)
        if self.unet.config["num_labels"] != len(LABELS):
            raise ValueError(
                f"this U-Net knows {self.unet.config['num_labels']} labels, a semantic map has {len(LABELS)}; train "
                f"one with model.num_labels {len(LABELS)} and whole_share above 0"
            )
        everywhere = torch.ones_like(labels, dtype=torch.uint8)
        lesion_mask = (labels >= FIRST_NODULE).to(torch.uint8)
        self._check_crops(torch.zeros(labels.shape), everywhere)
        made = self.generate(
            torch.zeros(labels.shape),
            lesion_mask,
            everywhere,
            everywhere,
            labels,
            match_noise=False,
            num_inference_steps=num_inference_steps,
            generator=generator,
        )
        return made.cpu().numpy()

    @torch.no_grad()
    def generate(
        self,
        ct_hu: Tensor,
        lesion_mask: Tensor,
        paint_mask: Tensor,
        valid_mask: Tensor,
        semantic_map: Tensor | None = None,
        attributes: Attributes | None = None,
        guidance_scale: Scales = 1.0,
        guidance_range: Sequence[float] | None = None,
        cfg_scale: float = 1.0,
        match_noise: bool = True,
        num_inference_steps: int = STEPS,
        generator: Generators = None,
    ) -> Tensor:
        """The model's own volume, before it is blended into the CT; arguments as for crops, masks 0 or 1.

        Returns: HU within the window, float, (B, 1, D, H, W), on the pipeline's device.
        """
        device, config, factor = self._execution_device, self.vae.config, self.vae.factor
        window = (config["window_width"], config["window_level"])
        self._check_generators(generator, ct_hu.shape[0])
        lesion_mask, paint_mask = lesion_mask.to(device), paint_mask.to(device)
        asked, plan = self._wishes(attributes or {}, lesion_mask, guidance_scale, guidance_range)
        asked = None if asked is None else asked.to(device)
        free = asked is not None and cfg_scale != 1 and bool(asked.isfinite().any())
        if semantic_map is None:
            semantic_map = self._map_of(ct_hu, lesion_mask, paint_mask, valid_mask)
        modulation = self.unet.modulate(semantic_map.to(device))
        ct_norm = to_norm(ct_hu.to(device, torch.float32), *window).to(self.unet.dtype)
        blanked = self.vae.encode(blank(ct_norm, paint_mask)).latent_dist.mode()
        condition = condition_of(standardise(blanked, config), lesion_mask, paint_mask, valid_mask.to(device), factor)

        set_steps(self.scheduler, num_inference_steps, device)
        latent = randn_tensor(blanked.shape, generator=generator, device=device, dtype=blanked.dtype)
        latent = latent * getattr(self.scheduler, "init_noise_sigma", 1.0)  # a flow starts at noise of unit variance
        scaled = getattr(self.scheduler, "scale_model_input", lambda sample, t: sample)
        accepted = inspect.signature(self.scheduler.step).parameters
        step_options = {"generator": generator} if "generator" in accepted else {}
        for t in self.progress_bar(self.scheduler.timesteps):
            noisy = scaled(latent, t)
            sample = torch.cat([noisy, condition], dim=1)
            output = self.unet(sample, t, modulation=modulation, attributes=asked).sample
            if free:
                unasked = self.unet(sample, t, modulation=modulation).sample
                output = unasked + cfg_scale * (output - unasked)
            if plan is not None and plan.covers(float(t) / self.scheduler.config["num_train_timesteps"]):
                gradient = self.guide.gradient(noisy, t, noise_level(self.scheduler, t), plan, self.vae)
                output = guided_output(self.scheduler, output, t, gradient)
            latent = self.scheduler.step(output, t, latent, **step_options).prev_sample
        generated = self.vae.decode(unstandardise(latent, config)).sample
        made_hu = to_hu(generated.float().clamp(-1, 1), *window)
        if match_noise:
            white = randn_tensor(ct_hu.shape, generator=generator, device=device)
            made_hu = made_hu + self._noise(ct_norm, valid_mask.to(device) * (paint_mask == 0), white)
        return made_hu

    def _noise(self, ct_norm: Tensor, known: Tensor, white: Tensor) -> Tensor:
        """Noise like what the autoencoder leaves of the CT where it is known, HU, (B, 1, D, H, W)."""
        latent = self.vae.encode(ct_norm).latent_dist.mode()
        residual = (ct_norm.clamp(-1, 1) - self.vae.decode(latent).sample).float()
        residual_hu = residual.cpu().numpy() * self.vae.config["window_width"] / 2
        volumes = zip(residual_hu[:, 0], known[:, 0].cpu().numpy(), white[:, 0].cpu().numpy(), strict=True)
        return torch.from_numpy(np.stack([noise_like(*volume) for volume in volumes])[:, None]).to(white)

    def _map_of(self, ct_hu: Tensor, lesion_mask: Tensor, paint_mask: Tensor, valid_mask: Tensor) -> Tensor:
        """The labels that the U-Net knows: background and lesion, or the semantic map of each crop."""
        if self.unet.config["num_labels"] == 2:
            return lesion_mask
        crops = zip(*(given[:, 0].cpu().numpy() for given in (ct_hu, lesion_mask, paint_mask, valid_mask)), strict=True)
        own_mm = 3 * (self.config["spacing_mm"],)
        maps = [inpainting_map(ct, lesion, paint, own_mm, valid) for ct, lesion, paint, valid in crops]
        return torch.from_numpy(np.stack(maps))[:, None]

    def _check_crops(self, ct_hu: Tensor, lesion_mask: Tensor) -> None:
        multiple = self.unet.size_multiple
        if ct_hu.ndim != 5 or ct_hu.shape[1] != 1 or any(edge % multiple for edge in ct_hu.shape[2:]):
            raise ValueError(
                f"ct has shape {tuple(ct_hu.shape)}, expected (B, 1, D, H, W) with D, H, W multiples of {multiple}; "
                "pass a SimpleITK.Image to have the crop made"
            )
        if lesion_mask.shape != ct_hu.shape:
            raise ValueError(f"mask has shape {tuple(lesion_mask.shape)}, ct {tuple(ct_hu.shape)}; they must be equal")
        if not torch.isfinite(ct_hu.float()).all():
            raise ValueError("ct holds NaN or infinite values; replace them with HU first")
        empty = (lesion_mask.flatten(1) == 0).all(dim=1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"mask of volume {empty[0]} is empty; it says where the lesion is painted")

    def _wishes(
        self,
        attributes: Attributes,
        lesion_mask: Tensor,
        guidance_scale: Scales,
        guidance_range: Sequence[float] | None,
    ) -> tuple[Tensor | None, Plan | None]:
        """What the U-Net is told, (B, its attributes), None where it has none; and what the guide makes of its part."""
        of_unet = tuple(self.unet.config.get("attributes") or ())
        of_guide = tuple(self.guide.attributes) if self.guide is not None else ()
        attribute_scales(guidance_scale, of_guide)
        for name in attributes:
            if name not in (*of_unet, *of_guide):
                known = ", ".join(dict.fromkeys((*of_unet, *of_guide))) or "none"
                raise ValueError(
                    f'attribute "{name}" is unknown to this pipeline; known: {known}; train others with '
                    "train_ldm.py (model.attributes) or train_classifier.py"
                )
        own = {name: wish for name, wish in attributes.items() if name in of_unet}
        asked = wished(own, of_unet, len(lesion_mask)) if of_unet else None
        for_guide = {name: wish for name, wish in attributes.items() if name in of_guide}
        if not for_guide:
            return asked, None
        return asked, self.guide.plan(for_guide, lesion_mask, self.vae, guidance_scale, guidance_range)

    def _check_generators(self, generator: Generators, batch: int) -> None:
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"{len(generator)} generators for {batch} volumes; give one, or one per volume")

    def _check_spacing(self, spacing_mm: Any, batch: int) -> None:
        if spacing_mm is None:
            return
        own = self.config["spacing_mm"]
        spacing = torch.as_tensor(spacing_mm, dtype=torch.float64)
        if spacing.shape not in ((3,), (batch, 3)) or not (spacing > 0).all():
            raise ValueError(f"spacing_mm {spacing_mm}, expected three positive numbers (z, y, x), or three per volume")
        if not ((spacing / own - 1).abs() <= SAME_SPACING).all():
            raise ValueError(
                f"spacing_mm {spacing.tolist()}: the model has learnt {own:g} mm along every axis; resample the crop, "
                "or pass a SimpleITK.Image to have that done"
            )


def check_numbers(
    num_inference_steps: Any,
    guidance_scale: Any,
    cfg_scale: Any,
    blend_mm: Any,
    paint_margin_mm: Any,
    guidance_range: Any = None,
) -> None:
    """Raise ValueError, naming the value, unless steps are a whole number from 1 and the others finite and in range."""
    steps = num_inference_steps
    if not isinstance(steps, numbers.Integral) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"num_inference_steps {steps!r}, expected a whole number of at least 1")
    scales = {"guidance_scale": guidance_scale}
    if isinstance(guidance_scale, Mapping):
        scales = {f'guidance_scale of "{name}"': value for name, value in guidance_scale.items()}
    for name, value, low in (
        *((name, value, -math.inf) for name, value in scales.items()),
        ("cfg_scale", cfg_scale, -math.inf),
        ("paint_margin_mm", paint_margin_mm, 0.0),
        ("blend_mm", blend_mm, 0.0),
    ):
        if not (is_finite(value) and value >= low):
            raise ValueError(f"{name} {value!r}, expected a finite number{' of at least 0' if low == 0 else ''}")
    if guidance_range is not None:
        check_range(guidance_range)
