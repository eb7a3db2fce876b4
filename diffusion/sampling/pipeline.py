"""`LesionInpaintPipeline`: a CT and a mask in, the same CT with a lesion inside the mask out."""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from autoencoder.latents import standardise, unstandardise
from autoencoder.pretrained import resolve_folder
from diffusion.attributes import AttributeValue
from diffusion.conditioning import blank, condition_of
from diffusion.population import equivalent_diameter_mm, surroundings_hu
from diffusion.sampling.checks import (
    Generators,
    check_batch,
    check_crops,
    check_diffusers_options,
    check_numbers,
    check_spacing,
)
from diffusion.sampling.components import import_component_modules
from diffusion.sampling.guide import Scales
from diffusion.sampling.samplers import check_fits, saved_scheduler, set_steps
from diffusion.sampling.steering import Attributes, steering_of
from imaging.compositing import composite, edge_weight
from imaging.files.hounsfield import check_hu
from imaging.lesions.mask import binary_mask, grown_mask
from imaging.noise import noise_like
from imaging.semantic_map import FIRST_NODULE, LABELS, inpainting_map
from imaging.window import AIR_HU, to_hu, to_norm

if TYPE_CHECKING:
    import SimpleITK as sitk

STEPS = 16  # within 5 % of 250 in every texture distance (benchmarks/choices/few_steps.md)
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class LesionInpaintOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        ct: The CT with the lesion, HU; the type, shape and geometry of the input, unless `output_type` says otherwise.
            Several lesions per mask are a batch of crops, or a list of scans.
        lesion_mask: The mask that was given.
        paint_mask: The lesion and the margin around it, uint8: outside it the CT is the input, bit for bit; one per
            mask.
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
        guide: Optional classifier guidance, a `diffusion.sampling.guide.Guide`.
        population: Optional `LesionPopulation` of real lesions, from which is drawn where nothing is requested.
        crop_size: Edge of the model's grid in voxels, used for whole scans.
        spacing_mm: Spacing of the model's grid, isotropic, used for whole scans.
        paint_margin_mm: Margin that the U-Net was trained with.
        time_shift: Of its calls, where they name none.
    """

    model_cpu_offload_seq = "vae->unet->vae"
    _optional_components = ["guide", "population"]  # noqa: RUF012 - the name and type Diffusers reads
    _callback_tensor_inputs = ("latents", "condition")
    _interrupt = False

    def __init__(
        self,
        vae: Any,
        unet: Any,
        scheduler: Any,
        guide: Any = None,
        population: Any = None,
        crop_size: int = 64,
        spacing_mm: float = 1.0,
        paint_margin_mm: float = 2.0,
        time_shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, guide=guide, population=population)
        self.register_to_config(
            crop_size=crop_size, spacing_mm=spacing_mm, paint_margin_mm=paint_margin_mm, time_shift=time_shift
        )
        self._trained_scheduler = scheduler  # another that takes its place must fit it

    @property
    def interrupt(self) -> bool:
        """Whether the call under way skips its remaining steps; a callback sets `_interrupt`."""
        return self._interrupt

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
        Raises: ValueError, OSError: As `autoencoder.pretrained.resolve_folder` says.
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
        if "scheduler" in kwargs:
            pipeline._trained_scheduler = saved_scheduler(folder)
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
        hu_scale: float = 1.0,
        time_shift: float | None = None,
        draw_appearance: bool = True,
        num_inference_steps: int = STEPS,
        generator: Generators = None,
        spacing_mm: Any = None,
        semantic_map: Any = None,
        valid_mask: Any = None,
        paint_margin_mm: float | None = None,
        blend_mm: float | None = None,
        match_noise: bool = True,
        num_lesions_per_mask: int = 1,
        latents: Tensor | None = None,
        output_type: str = "input",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> LesionInpaintOutput | tuple[Any, ...]:
        """Inpaint one lesion per volume, or several versions of it.

        Args:
            ct: HU. Either a whole scan as a `SimpleITK.Image` (any spacing, direction and size; the model works on a
                grid of `crop_size` voxels around the mask), or crops on the model's grid, (B, 1, D, H, W).
            mask: The lesion: 0 and one positive value, which is taken as 1; geometry or shape of `ct`.
            attributes: Wanted character, for example `{"malignancy": "malignant", "mean_hu": -450}`: what the U-Net was
                trained to take (`unet.config.attributes`) or the guide classifies (`guide.attributes`); what both know
                is requested of both. One value for all, or a list with one per volume, None where nothing is requested.
            guidance_scale: Strength s of the guide, the classifiers' gradient: one number, or one for each attribute by
                name, `{"malignancy": 2, "spiculation": 0.5}`, 1 where it has none; 0 switches it off.
            guidance_range: (low, high), which timesteps are guided, as shares of all with 0 clean and 1 noise; None
                takes the guide's own.
            cfg_scale: Classifier-free guidance w of the U-Net's own attributes: ε̂ = ε(∅) + w (ε(a) - ε(∅)) (Ho &
                Salimans 2022); 1 asks once, anything else twice a step.
            hu_scale: How firmly HU that are requested (mean_hu, p10_hu, p50_hu, p90_hu) are met: the share of what is
                missing in the decoded prediction that each step makes up for (`MeasuredGuidance`); 0 leaves it to the
                U-Net.
            time_shift: δ of shifted time steps (Li et al. 2024): the U-Net is told 1 + δ times the time of each step,
                so it trusts less what earlier steps made, errors included. None takes the pipeline's, 0 shifts nothing.
            draw_appearance: Whether a lesion without a request gets texture and HU of a real one of its size,
                drawn from `population`. The U-Net receives all of it, and the mean HU is met, at the cost of requested
                HU. Otherwise the U-Net receives no attribute.
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
            num_lesions_per_mask: Versions n of each lesion, one after the other in the batch; `generator` and `latents`
                then hold n for each volume.
            latents: The first noise, of unit variance, (B n, C, d, h, w); None draws it from `generator`.
            output_type: "input", the type of `ct`; "pt" or "np", (B n, 1, D, H, W), also of a scan; or "latent", what
                was sampled, standardised, (B n, C, d, h, w), before it is decoded.
            return_dict: Whether to return a `LesionInpaintOutput` and not its values as a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step; what it returns
                replaces the tensors. If it sets `pipeline._interrupt = True`, the remaining steps are skipped.
            callback_on_step_end_tensor_inputs: Which tensors it is given: "latents", and the U-Net's "condition".
        Returns: `LesionInpaintOutput`; `ct` has the input's type, and outside `paint_mask` its very values.
        Raises: ValueError: If shapes, sizes, values, attributes or the scheduler do not fit; before anything is
            computed.
        """
        margin_mm = self.config["paint_margin_mm"] if paint_margin_mm is None else paint_margin_mm
        blend_mm = margin_mm if blend_mm is None else blend_mm
        scales = (guidance_scale, cfg_scale, blend_mm, margin_mm, guidance_range, hu_scale, time_shift or 0.0)
        check_numbers(num_inference_steps, *scales)
        check_diffusers_options(
            output_type, num_lesions_per_mask, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        options: dict[str, Any] = {
            "attributes": attributes,
            "guidance_scale": guidance_scale,
            "guidance_range": guidance_range,
            "cfg_scale": cfg_scale,
            "hu_scale": hu_scale,
            "time_shift": time_shift,
            "draw_appearance": draw_appearance,
            "match_noise": match_noise,
            "num_inference_steps": num_inference_steps,
            "generator": generator,
            "num_lesions_per_mask": num_lesions_per_mask,
            "latents": latents,
            "decode": output_type != "latent",
            "callback_on_step_end": callback_on_step_end,
            "callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs,
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
            output = self._inpaint_scan(ct, mask, margin_mm, blend_mm, output_type, options)
        else:
            crops = {"spacing_mm": spacing_mm, "semantic_map": semantic_map, "valid_mask": valid_mask}
            output = self._inpaint_crops(ct, mask, margin_mm, blend_mm, output_type, options, **crops)
        return output if return_dict else (output.ct, output.lesion_mask, output.paint_mask)

    def _inpaint_scan(
        self, ct: "sitk.Image", mask: Any, margin_mm: float, blend_mm: float, output_type: str, options: dict[str, Any]
    ) -> LesionInpaintOutput:
        """The lesion's surroundings to the model's grid, and what is made there back into the scan."""
        import SimpleITK as sitk  # needed for scans only

        from diffusion.sampling.crops import crop_of_scan, paste_into_scan

        place = crop_of_scan(ct, mask, self.config["crop_size"], self.config["spacing_mm"], margin_mm)
        tensors: dict[str, Any] = {
            name: torch.from_numpy(np.ascontiguousarray(array))[None, None] for name, array in place.crop.items()
        }
        made = self.generate(**tensors, **options)
        if output_type == "latent":
            return LesionInpaintOutput(ct=made, lesion_mask=mask, paint_mask=place.painted)
        scans = [paste_into_scan(ct, place, volume, blend_mm) for volume in made[:, 0].cpu().numpy()]
        result: Any = scans if len(scans) > 1 else scans[0]
        if output_type != "input":
            result = np.stack([sitk.GetArrayFromImage(scan) for scan in scans])[:, None]
            result = torch.from_numpy(result) if output_type == "pt" else result
        return LesionInpaintOutput(ct=result, lesion_mask=mask, paint_mask=place.painted)

    def _inpaint_crops(
        self,
        ct: "np.ndarray | Tensor",
        mask: Any,
        margin_mm: float,
        blend_mm: float,
        output_type: str,
        options: dict[str, Any],
        spacing_mm: Any,
        semantic_map: Any,
        valid_mask: Any,
    ) -> LesionInpaintOutput:
        """Crops on the model's grid; composed as a scan whose grid is the model's."""
        ct_hu = torch.as_tensor(ct)
        lesion_mask = torch.from_numpy(binary_mask(torch.as_tensor(mask).cpu().numpy()))
        check_crops(ct_hu, lesion_mask, self.unet.size_multiple)
        check_hu(ct_hu.float().cpu().numpy(), "ct", crop=True)
        check_spacing(spacing_mm, self.config["spacing_mm"], len(ct_hu))
        valid = torch.ones_like(lesion_mask)
        if valid_mask is not None:
            valid = torch.from_numpy(binary_mask(torch.as_tensor(valid_mask).cpu().numpy(), "valid_mask"))
        semantic = None if semantic_map is None else torch.as_tensor(semantic_map)
        for name, given in (("valid_mask", valid), ("semantic_map", semantic)):
            if given is not None and given.shape != ct_hu.shape:
                raise ValueError(f"{name} has shape {tuple(given.shape)}, ct {tuple(ct_hu.shape)}; must be equal")
        own_mm = 3 * (self.config["spacing_mm"],)
        grown = np.stack([grown_mask(lesion, margin_mm, own_mm) for lesion in lesion_mask[:, 0].numpy()])
        paint_mask = torch.from_numpy(grown[:, None]) * valid
        generated = self.generate(ct_hu, lesion_mask, paint_mask, valid, semantic, **options)
        as_array = output_type == "np" or (output_type == "input" and isinstance(ct, np.ndarray))
        painted_region = paint_mask.numpy() if as_array else paint_mask
        if output_type == "latent":
            return LesionInpaintOutput(ct=generated, lesion_mask=mask, paint_mask=painted_region)
        each = options["num_lesions_per_mask"]
        volumes = ct_hu.cpu().float().numpy() if ct_hu.dtype in (torch.float16, torch.bfloat16) else ct_hu.cpu().numpy()
        # where the scan ends, there is nothing to blend with
        weights = [edge_weight(place, np.array(own_mm), blend_mm) for place in grown] * valid[:, 0].numpy()
        painted = [
            composite(volumes[n // each, 0], made - np.maximum(volumes[n // each, 0], AIR_HU), weights[n // each])
            for n, made in enumerate(generated[:, 0].cpu().numpy())
        ]
        result = torch.from_numpy(np.stack(painted)[:, None]).to(ct_hu)
        return LesionInpaintOutput(
            ct=result.numpy() if as_array else result, lesion_mask=mask, paint_mask=painted_region
        )

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
        check_crops(torch.zeros(labels.shape), everywhere, self.unet.size_multiple)
        made = self.generate(
            torch.zeros(labels.shape),
            lesion_mask,
            everywhere,
            everywhere,
            labels,
            draw_appearance=False,
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
        hu_scale: float = 1.0,
        time_shift: float | None = None,
        draw_appearance: bool = True,
        match_noise: bool = True,
        num_inference_steps: int = STEPS,
        generator: Generators = None,
        num_lesions_per_mask: int = 1,
        latents: Tensor | None = None,
        decode: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Tensor:
        """The model's own volume, before it is blended into the CT; arguments as for crops, masks 0 or 1.

        Returns: HU within the window, float, (B n, 1, D, H, W), on the pipeline's device; or, unless `decode`, the
            standardised latent, (B n, C, d, h, w).
        """
        device, config, factor = self._execution_device, self.vae.config, self.vae.factor
        window = (config["window_width"], config["window_level"])
        check_fits(self.scheduler, self._trained_scheduler)
        if num_lesions_per_mask > 1:
            given = (ct_hu, lesion_mask, paint_mask, valid_mask)
            ct_hu, lesion_mask, paint_mask, valid_mask = (
                one.repeat_interleave(num_lesions_per_mask, 0) for one in given
            )
            semantic_map = None if semantic_map is None else semantic_map.repeat_interleave(num_lesions_per_mask, 0)
            attributes = {
                name: _repeated(request, num_lesions_per_mask) for name, request in (attributes or {}).items()
            }
        latent_shape = (len(ct_hu), config["latent_channels"], *(edge // factor for edge in ct_hu.shape[2:]))
        check_batch(generator, latents, latent_shape)
        if latents is None:
            latents = randn_tensor(latent_shape, generator=generator, device=device, dtype=self.unet.dtype)
        lesion_mask, paint_mask = lesion_mask.to(device), paint_mask.to(device)
        asking = steering_of(
            self.unet,
            self.guide,
            self.vae,
            attributes or {},
            lesion_mask,
            cfg_scale,
            guidance_scale,
            guidance_range,
            hu_scale,
            self.config["time_shift"] if time_shift is None else time_shift,
            self._completing(ct_hu, lesion_mask, paint_mask, valid_mask, generator) if draw_appearance else None,
        )
        if semantic_map is None:
            semantic_map = self._map_of(ct_hu, lesion_mask, paint_mask, valid_mask)
        modulation = self.unet.modulate(semantic_map.to(device))
        ct_norm = to_norm(ct_hu.to(device, torch.float32), *window).to(self.unet.dtype)
        blanked = self.vae.encode(blank(ct_norm, paint_mask)).latent_dist.mode()
        condition = condition_of(standardise(blanked, config), lesion_mask, paint_mask, valid_mask.to(device), factor)

        set_steps(self.scheduler, num_inference_steps, device)
        latent = latents.to(blanked) * getattr(
            self.scheduler, "init_noise_sigma", 1.0
        )  # a flow starts at noise of unit variance
        scaled = getattr(self.scheduler, "scale_model_input", lambda sample, t: sample)
        accepted = inspect.signature(self.scheduler.step).parameters
        step_options = {"generator": generator} if "generator" in accepted else {}
        self._interrupt = False
        for step, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:
                break
            noisy = scaled(latent, t)
            output = asking.output(self.unet, self.scheduler, noisy, condition, t, modulation)
            latent = self.scheduler.step(output, t, latent, **step_options).prev_sample
            if callback_on_step_end is not None:
                tensors = {"latents": latent, "condition": condition}
                shown = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                tensors |= callback_on_step_end(self, step, t, shown)
                latent, condition = tensors["latents"], tensors["condition"]
        if not decode:
            return latent
        generated = self.vae.decode(unstandardise(latent, config)).sample
        made_hu = to_hu(generated.float().clamp(-1, 1), *window)
        if match_noise:
            white = randn_tensor(ct_hu.shape, generator=generator, device=device)
            made_hu = made_hu + self._noise(ct_norm, valid_mask.to(device) * (paint_mask == 0), white)
        return made_hu

    def _completing(
        self, ct_hu: Tensor, lesion_mask: Tensor, paint_mask: Tensor, valid_mask: Tensor, generator: Generators
    ) -> Callable[[Tensor], Tensor] | None:
        """What puts drawn appearances in place of no requests; None without a population."""
        if self.population is None:
            return None
        device = lesion_mask.device
        normal = randn_tensor((len(lesion_mask), 1), generator=generator, device=device)
        drawing = {
            "diameter_mm": equivalent_diameter_mm(lesion_mask, self.config["spacing_mm"]),
            "surroundings_hu": surroundings_hu(ct_hu.to(device), paint_mask, valid_mask.to(device)),
            "uniform": torch.special.ndtr(normal[:, 0]),
        }
        return partial(self.population.completed, names=tuple(self.unet.config["attributes"]), **drawing)

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


def _repeated(request: AttributeValue, each: int) -> AttributeValue:
    """A list with one request per volume as one with each of them so many times; one request for all stays."""
    if isinstance(request, str) or not isinstance(request, Sequence):
        return request
    return [value for value in request for _ in range(each)]
