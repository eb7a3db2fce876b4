"""`LesionInpaintPipeline`: a CT and a mask in, the same CT with a lesion inside the mask out."""

import inspect
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from autoencoder.latents import standardise, unstandardise
from diffusion.attributes import composition_of
from diffusion.conditioning import blank, condition_of, map_as_hu
from diffusion.option_types import Attributes, Scales, ShapeKind
from diffusion.population import equivalent_diameter_mm, surroundings_hu
from diffusion.sampling.crops import Crops, TensorCrops, check_batch, check_crops, crops_of_tensors
from diffusion.sampling.drawn_masks import drawn_masks, index_of_physical
from diffusion.sampling.finishing import finished
from diffusion.sampling.lesion_pipeline import LesionPipeline
from diffusion.sampling.request import STEPS, InpaintRequest, ResolvedRequest
from diffusion.sampling.samplers import check_fits, set_steps
from diffusion.sampling.steering import steering_of
from imaging.lesions.composition import composed
from imaging.lesions.mask import binary_mask
from imaging.semantic_map import FIRST_NODULE, LABELS, inpainting_map
from imaging.window import to_hu, to_norm

if TYPE_CHECKING:
    import SimpleITK as sitk

    from diffusion.sampling.scan_crop import ScanCrop, ScanCrops

OUTPUT_TYPES = ("input", "pt", "np", "latent")
Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class LesionInpaintOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        ct: The CT with the lesion, HU; the type, shape and geometry of the input, unless `output_type` says otherwise.
            Several lesions per mask are a batch of crops, or a list of scans.
        lesion_mask: The mask that was given, or drawn.
        paint_mask: The lesion and the margin around it, uint8: outside it the CT is the input, bit for bit; one per
            mask.
        shapes: Of masks that were drawn, a record of each: with centre and diameter all that draws it again.
    """

    ct: Any
    lesion_mask: Any
    paint_mask: Any = None
    shapes: Any = None


class LesionInpaintPipeline(LesionPipeline):
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
        shapes: Optional `LesionShapes` of real nodules, which lesions without a mask get.
        crop_size: Edge of the model's grid in voxels, used for whole scans.
        spacing_mm: Spacing of the model's grid, isotropic, used for whole scans.
        paint_margin_mm: Margin that the U-Net was trained with.
        time_shift: Of its calls, where they name none.
        finish: Whether its decoded lesions are finished, where a call does not say.
        detailed_map: Whether its semantic maps show vessels and the painted margin
            (`imaging.semantic_map.inpainting_map`), and the composition of a lesion whose texture is known
            (`imaging.lesions.composition.composed`).
        encoded_map: Whether :meth:`synthesize` shows the U-Net the encoded map where it sees the CT otherwise. False
            shows it a blank crop.
    """

    model_cpu_offload_seq = "vae->unet->vae"
    _optional_components = ["guide", "population", "shapes"]  # noqa: RUF012 - the name and type Diffusers reads
    _callback_tensor_inputs = ("latents", "condition")
    _interrupt = False

    def __init__(
        self,
        vae: Any,
        unet: Any,
        scheduler: Any,
        guide: Any = None,
        population: Any = None,
        shapes: Any = None,
        crop_size: int = 64,
        spacing_mm: float = 1.0,
        paint_margin_mm: float = 2.0,
        time_shift: float = 0.0,
        detailed_map: bool = False,
        finish: bool = False,
        encoded_map: bool = False,
    ) -> None:
        super().__init__()
        optional = {"guide": guide, "population": population, "shapes": shapes}
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, **optional)
        self.register_to_config(
            crop_size=crop_size,
            spacing_mm=spacing_mm,
            paint_margin_mm=paint_margin_mm,
            time_shift=time_shift,
            detailed_map=detailed_map,
            finish=finish,
            encoded_map=encoded_map,
        )
        self._trained_scheduler = scheduler  # another that takes its place must fit it

    @property
    def interrupt(self) -> bool:
        """Whether the call under way skips its remaining steps; a callback sets `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        ct: "np.ndarray | Tensor | sitk.Image | Sequence[sitk.Image]",
        mask: Any = None,
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
        finish: bool | None = None,
        match_noise: bool = True,
        mixed_precision: Literal["no", "bf16"] = "no",
        num_lesions_per_mask: int = 1,
        latents: Tensor | None = None,
        output_type: str = "input",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        center: Any = None,
        diameter_mm: Any = None,
        shape: ShapeKind = "real",
        center_lps: Any = None,
        center_ras: Any = None,
    ) -> LesionInpaintOutput | tuple[Any, ...]:
        """Inpaint one lesion per volume, or several versions of it.

        Args:
            ct: HU. Either a whole scan as a `SimpleITK.Image` (any spacing, direction and size; the model works on a
                grid of `crop_size` voxels around the mask), or a list of scans, or crops on the model's grid,
                (B, 1, D, H, W).
            mask: The lesion: 0 and one positive value, which is taken as 1; geometry or shape of `ct`; of a list of
                scans, a list. None draws it at `center`.
            attributes, guidance_scale, guidance_range, cfg_scale, hu_scale, time_shift, draw_appearance,
            paint_margin_mm, blend_mm, finish, match_noise, mixed_precision: As :class:`InpaintRequest`.
            num_inference_steps: Its `steps`.
            generator: One, or one per volume: then a batch gives what its volumes give alone.
            spacing_mm: Of crops, (3,) or (B, 3), z, y, x, to be checked: the model has learnt one spacing. None means
                the pipeline's own. Scans carry theirs and are resampled.
            semantic_map: Labels (B, 1, D, H, W) for crops, where the U-Net knows more than background and lesion;
                None makes it (`imaging.semantic_map.inpainting_map`).
            valid_mask: For crops, (B, 1, D, H, W), 0 where the crop reaches outside its scan; there `ct` should repeat
                the nearest voxel, as prepared datasets do. None: all is valid.
            num_lesions_per_mask: Versions n of each lesion, one after the other in the batch; `generator` and `latents`
                then hold n for each volume.
            latents: The first noise, of unit variance, (B n, C, d, h, w); None draws it from `generator`.
            output_type: "input", the type of `ct`; "pt" or "np", (B n, 1, D, H, W), also of a scan; or "latent", what
                was sampled, standardised, (B n, C, d, h, w), before it is decoded.
            return_dict: Whether to return a `LesionInpaintOutput` and not its values as a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step; what it returns
                replaces the tensors. If it sets `pipeline._interrupt = True`, the remaining steps are skipped.
            callback_on_step_end_tensor_inputs: Which tensors it receives: "latents", and the U-Net's "condition".
            center, diameter_mm, shape: Without a mask, where the lesion is, its size, and whether its shape is "real"
                "procedural" or "learned", as `diffusion.sampling.drawn_masks.drawn_masks`. Requested lobulation,
                spiculation, sphericity and texture choose a real shape.
            center_lps, center_ras: Of scans, instead of `center`: x, y, z in mm, LPS as in DICOM or RAS as in NIfTI; of
                several scans, one for each.
        Returns: `LesionInpaintOutput`; `ct` has the input's type, and outside `paint_mask` its very values.
        Raises: ValueError: If shapes, sizes, values, attributes or the scheduler do not fit; before anything is
            computed.
        """
        self._check_options(output_type, num_lesions_per_mask, callback_on_step_end_tensor_inputs)
        drawn = None
        if center_lps is not None or center_ras is not None:
            center = index_of_physical(ct, center, center_lps, center_ras)
        if mask is None:
            how = (center, diameter_mm, attributes or {}, shape, generator, num_lesions_per_mask)
            drawn = drawn_masks(self, ct, *how)
            mask, attributes = drawn.mask, drawn.attributes
        elif center is not None or diameter_mm is not None:
            raise ValueError("center and diameter_mm say where a mask is drawn; leave them out, or the mask")
        request = InpaintRequest(
            attributes=attributes or {},
            guidance_scale=guidance_scale,
            guidance_range=guidance_range,
            cfg_scale=cfg_scale,
            hu_scale=hu_scale,
            time_shift=time_shift,
            draw_appearance=draw_appearance,
            steps=num_inference_steps,
            paint_margin_mm=paint_margin_mm,
            blend_mm=blend_mm,
            finish=finish,
            match_noise=match_noise,
            mixed_precision=mixed_precision,
        ).resolved(*self._own_options())
        crops = self._crops(ct, mask, request, spacing_mm, semantic_map, valid_mask)
        made = self.generate(
            crops.repeated(num_lesions_per_mask),
            request.repeated(num_lesions_per_mask),
            generator,
            latents,
            output_type != "latent",
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        result = made if output_type == "latent" else crops.paste(made, request.blend_mm, output_type)
        painted = crops.painted(output_type)
        records = drawn.shapes if drawn is not None else None
        output = LesionInpaintOutput(ct=result, lesion_mask=mask, paint_mask=painted, shapes=records)
        return output if return_dict else (output.ct, output.lesion_mask, output.paint_mask)

    @torch.no_grad()
    def synthesize(
        self,
        semantic_map: Any,
        num_inference_steps: int = STEPS,
        generator: Generators = None,
        valid_mask: Any = None,
        attributes: Attributes | None = None,
        guidance_scale: Scales = 1.0,
        guidance_range: Sequence[float] | None = None,
        cfg_scale: float = 1.0,
        hu_scale: float = 1.0,
        time_shift: float | None = None,
    ) -> np.ndarray:
        """Crops from their semantic map alone: LSDM's task, in 3D. The U-Net must have been trained for it.

        Args:
            semantic_map: Labels (`imaging.semantic_map.LABELS`), integer (B, 1, D, H, W).
            num_inference_steps, generator: As in the call.
            valid_mask: 0 where a crop reaches outside its scan, same shape; what is made there has no meaning. None
                makes all of the crop.
            attributes, guidance_scale, guidance_range, cfg_scale, hu_scale, time_shift: As in the call, of the map's
                lesion.
        Returns: HU within the window, float32 (B, 1, D, H, W).
        Raises: ValueError: If the U-Net knows only background and lesion, or shapes or requests do not fit.
        """
        request = InpaintRequest(
            attributes=attributes or {},
            guidance_scale=guidance_scale,
            guidance_range=guidance_range,
            cfg_scale=cfg_scale,
            hu_scale=hu_scale,
            time_shift=time_shift,
            steps=num_inference_steps,
            draw_appearance=False,
            finish=False,
            match_noise=False,
        )
        labels = torch.as_tensor(semantic_map)
        if self.unet.config["num_labels"] != len(LABELS):
            raise ValueError(
                f"this U-Net knows {self.unet.config['num_labels']} labels, a semantic map has {len(LABELS)}; train "
                f"one with model.num_labels {len(LABELS)} and whole_share above 0"
            )
        nothing, everywhere = torch.zeros(labels.shape), torch.ones_like(labels, dtype=torch.uint8)
        check_crops(nothing, everywhere, self.unet.size_multiple)
        valid = everywhere
        if valid_mask is not None:
            valid = torch.from_numpy(binary_mask(torch.as_tensor(valid_mask).cpu().numpy(), "valid_mask"))
        if valid.shape != labels.shape:
            raise ValueError(
                f"valid_mask has shape {tuple(valid.shape)}, semantic_map {tuple(labels.shape)}; must be equal"
            )
        lesion_mask = (labels >= FIRST_NODULE).to(torch.uint8)
        shows_map = self.config["encoded_map"]
        ct_hu = map_as_hu(labels) if shows_map else nothing
        crops = Crops(ct_hu, lesion_mask, everywhere, valid, labels, shows_map=shows_map)
        return self.generate(crops, request, generator).cpu().numpy()

    @torch.no_grad()
    def generate(
        self,
        crops: Crops,
        request: InpaintRequest | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        decode: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Tensor:
        """The model's own volumes, before they are blended into the CT.

        Args:
            crops: On the model's grid.
            request: Its margins count where the crops were made and where the result is pasted, not here.
            generator, latents, callback_on_step_end, callback_on_step_end_tensor_inputs: As in the call.
            decode: Whether to decode what was sampled.
        Returns: HU within the window, float, (B, 1, D, H, W), on the pipeline's device; or, unless `decode`, the
            standardised latent, (B, C, d, h, w).
        """
        request = (request or InpaintRequest()).resolved(*self._own_options())
        device, config, factor = self._execution_device, self.vae.config, self.vae.factor
        window = (config["window_width"], config["window_level"])
        check_fits(self.scheduler, self._trained_scheduler)
        latent_shape = (len(crops), config["latent_channels"], *(edge // factor for edge in crops.ct_hu.shape[2:]))
        check_batch(generator, latents, latent_shape)
        if latents is None:
            latents = randn_tensor(latent_shape, generator=generator, device=device, dtype=self.unet.dtype)
        lesion_mask, paint_mask, valid_mask = (
            mask.to(device) for mask in (crops.lesion_mask, crops.paint_mask, crops.valid_mask)
        )
        complete = None
        if request.draw_appearance and self.population is not None:
            complete = self._completing(crops, lesion_mask, paint_mask, valid_mask, generator)
        steering = steering_of(self, request, lesion_mask, complete)
        modulation = self.unet.modulate(self._map_of(crops, steering.attributes, generator).to(device))
        ct_norm = to_norm(crops.ct_hu.to(device, torch.float32), *window).to(self.unet.dtype)
        blanked = self.vae.encode(ct_norm if crops.shows_map else blank(ct_norm, paint_mask)).latent_dist.mode()
        condition = condition_of(standardise(blanked, config), lesion_mask, paint_mask, valid_mask, factor)

        set_steps(self.scheduler, request.steps, device)
        # a flow starts at noise of unit variance
        latent = latents.to(blanked) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        scaled = getattr(self.scheduler, "scale_model_input", lambda sample, t: sample)
        accepted = inspect.signature(self.scheduler.step).parameters
        step_options = {"generator": generator} if "generator" in accepted else {}
        self._interrupt = False
        for step, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:
                break
            with torch.autocast(device.type, torch.bfloat16, enabled=request.mixed_precision == "bf16"):
                output = steering.output(self.unet, self.scheduler, scaled(latent, t), condition, t, modulation)
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
        if request.finish:
            made_hu = finished(made_hu, lesion_mask, paint_mask, valid_mask)
        if request.match_noise:
            white = randn_tensor(crops.ct_hu.shape, generator=generator, device=device)
            made_hu = made_hu + self._noise(ct_norm, valid_mask * (paint_mask == 0), white)
        return made_hu

    def _own_options(self) -> tuple[float, float, bool]:
        """What `InpaintRequest.resolved` takes where a call names nothing."""
        return self.config["paint_margin_mm"], self.config["time_shift"], self.config["finish"]

    def _check_options(self, output_type: Any, num_lesions_per_mask: Any, tensor_inputs: Sequence[str]) -> None:
        """Raise ValueError unless output type and callback inputs are known and lesions are counted from 1."""
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}, expected one of {', '.join(OUTPUT_TYPES)}")
        count = num_lesions_per_mask
        if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
            raise ValueError(f"num_lesions_per_mask {count!r}, expected a whole number of at least 1")
        known = self._callback_tensor_inputs
        unknown = [name for name in tensor_inputs if name not in known]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs {unknown[0]!r} is not known; choose from {', '.join(known)}"
            )

    def _crops(
        self,
        ct: Any,
        mask: Any,
        request: ResolvedRequest,
        spacing_mm: Any,
        semantic_map: Any,
        valid_mask: Any,
    ) -> "TensorCrops | ScanCrop | ScanCrops":
        """What the model sees of a scan, or of crops on its grid."""
        own_mm, margin_mm = self.config["spacing_mm"], request.paint_margin_mm
        if isinstance(ct, np.ndarray | Tensor):
            multiple = self.unet.size_multiple
            return crops_of_tensors(ct, mask, margin_mm, own_mm, multiple, spacing_mm, semantic_map, valid_mask)
        scans = ct if isinstance(ct, list | tuple) else [ct]
        if not all(hasattr(scan, "GetSpacing") for scan in scans):
            raise ValueError(f"ct is a {type(ct).__name__}, expected a SimpleITK.Image (see read_ct), array or tensor")
        if spacing_mm is not None or semantic_map is not None or valid_mask is not None:
            raise ValueError(
                "spacing_mm, semantic_map and valid_mask go with crops; a scan has its spacing and is mapped here"
            )
        from diffusion.sampling.scan_crop import crop_of_scan, crops_of_scans  # SimpleITK is needed for scans only

        if scans is ct:
            return crops_of_scans(ct, mask, self.config["crop_size"], own_mm, margin_mm)
        return crop_of_scan(ct, mask, self.config["crop_size"], own_mm, margin_mm)

    def _completing(
        self, crops: Crops, lesion_mask: Tensor, paint_mask: Tensor, valid_mask: Tensor, generator: Generators
    ) -> Callable[[Tensor], Tensor]:
        """A function that gives lesions without a request the appearance of a real one."""
        device = lesion_mask.device
        normal = randn_tensor((len(lesion_mask), 1), generator=generator, device=device)
        drawing = {
            "diameter_mm": equivalent_diameter_mm(lesion_mask, self.config["spacing_mm"]),
            "surroundings_hu": surroundings_hu(crops.ct_hu.to(device), paint_mask, valid_mask),
            "uniform": torch.special.ndtr(normal[:, 0]),
        }
        return partial(self.population.completed, names=tuple(self.unet.config["attributes"]), **drawing)

    def _map_of(self, crops: Crops, attributes: Tensor | None, generator: Generators) -> Tensor:
        """The labels that the U-Net knows: background and lesion, or the semantic map of each crop."""
        if crops.semantic_map is not None:
            return crops.semantic_map
        if self.unet.config["num_labels"] == 2:
            return crops.lesion_mask
        given = (crops.ct_hu, crops.lesion_mask, crops.paint_mask, crops.valid_mask)
        volumes: list[Any] = list(zip(*(one[:, 0].cpu().numpy() for one in given), strict=True))
        own_mm, detailed = 3 * (self.config["spacing_mm"],), self.config["detailed_map"]
        solid_masks: list[np.ndarray | None] = [None] * len(crops)
        if detailed and attributes is not None:
            white = randn_tensor(crops.ct_hu.shape, generator=generator, device=attributes.device)[:, 0].cpu().numpy()
            told = composition_of(attributes, self.unet.config["attributes"])
            solid_masks = [
                composed(ct, lesion, own_mm, texture, solid_share, noise)
                for (ct, lesion, *_), (texture, solid_share), noise in zip(volumes, told, white, strict=True)
            ]
        maps = [
            inpainting_map(ct, lesion, paint, own_mm, valid, solid_mask=solid_mask, detailed_map=detailed)
            for (ct, lesion, paint, valid), solid_mask in zip(volumes, solid_masks, strict=True)
        ]
        return torch.from_numpy(np.stack(maps))[:, None]
