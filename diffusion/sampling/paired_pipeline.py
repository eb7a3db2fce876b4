"""`PairedLesionPipeline`: a lesion together with its mask, in a given background or from nothing (PIG)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from autoencoder.latents import standardise, unstandardise
from diffusion.attributes import SCALES, check_attribute, requestable, requested_attributes
from diffusion.conditioning import blank, condition_of, mask_coverage
from diffusion.mask_latents import interpolated, largest_part, mask_channels, mask_of_latent
from diffusion.option_types import Attributes, MaskKind
from diffusion.paired import REGION, FactorisedSampler, Pair, ball, guided_by
from diffusion.population import surroundings_hu
from diffusion.sampling.crops import Crops, check_batch, crops_of_tensors
from diffusion.sampling.drawn_masks import one_for_each
from diffusion.sampling.lesion_pipeline import LesionPipeline
from diffusion.sampling.request import STEPS, InpaintRequest
from diffusion.sampling.samplers import check_fits, set_steps
from diffusion.sampling.steering import Steering
from diffusion.shapes import of_volume
from imaging.semantic_map import HU_EDGES, LUNG, lung_mask, semantic_map
from imaging.window import to_hu, to_norm

if TYPE_CHECKING:
    import SimpleITK as sitk

Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
LEAST_MM = 3.0  # diameter of a lesion
EDGE_MM = 3.0  # CT that is known on every side of the region in a scan's crop, at least


@dataclass
class PairedLesionOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        ct: The CT with the lesion, HU, of the type and geometry of the input; from nothing a tensor (n, 1, D, H, W).
        lesion_mask: Where the lesion is, 0 or 1, likewise; empty where the networks made none.
        paint_mask: What was painted: outside it the CT is the input, bit for bit.
    """

    ct: Any
    lesion_mask: Any
    paint_mask: Any = None


class PairedLesionPipeline(LesionPipeline):
    """Makes a lung nodule and its mask together: no mask is drawn before.

    Args:
        vae: Stage 1.
        mask_unet: model_x, makes the mask (`diffusion.paired`).
        unet: model_y, `SPADEUNet3D` of stage 2, makes the image.
        scheduler: Of both; any Diffusers scheduler built from the training scheduler's config.
        population: Optional `LesionPopulation`, from which is drawn what is not requested.
        crop_size: Edge of the model's grid in voxels.
        spacing_mm: Of the model's grid, isotropic.
        mask: What the mask's diffusion makes, as `diffusion.mask_latents.mask_latent`.
        reach_mm: Where its distance is clipped.
        detailed_map: Whether semantic maps show vessels.
        has_mask: False makes images without any mask, as PIG's unconditional baseline does.
        masks_alone: Whether the mask's network has learned to make masks without an image beside them.
    """

    model_cpu_offload_seq = "vae->mask_unet->unet->vae"
    _optional_components = ["population"]  # noqa: RUF012 - the name and type Diffusers reads

    def __init__(
        self,
        vae: Any,
        mask_unet: Any,
        unet: Any,
        scheduler: Any,
        population: Any = None,
        crop_size: int = 48,
        spacing_mm: float = 1.0,
        mask: MaskKind = "distance",
        reach_mm: float = 2.0,
        detailed_map: bool = False,
        has_mask: bool = True,
        masks_alone: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, mask_unet=mask_unet, unet=unet, scheduler=scheduler, population=population)
        self.register_to_config(
            crop_size=crop_size,
            spacing_mm=spacing_mm,
            mask=mask,
            reach_mm=reach_mm,
            detailed_map=detailed_map,
            has_mask=has_mask,
            masks_alone=masks_alone,
        )
        self._trained_scheduler = scheduler  # another that takes its place must fit it

    @property
    def attributes(self) -> tuple[str, ...]:
        """What can be requested beside the diameter."""
        both = (*self.mask_unet.config["attributes"], *self.unet.config["attributes"])
        return tuple(name for name in requestable(tuple(dict.fromkeys(both))) if name != "diameter_mm")

    @property
    def diameters_mm(self) -> tuple[float, float]:
        """Diameters that a lesion may have."""
        return LEAST_MM, 2 * (self._largest_radius_mm - REGION[1])

    @property
    def _largest_radius_mm(self) -> float:
        return self.config["crop_size"] * self.config["spacing_mm"] / 2 - EDGE_MM

    @torch.no_grad()
    def __call__(
        self,
        ct: "np.ndarray | Tensor | sitk.Image",
        center: Any,
        diameter_mm: Any,
        attributes: Attributes | None = None,
        cfg_scale: float = 1.0,
        mask_cfg_scale: float = 1.0,
        time_shift: float = 0.0,
        draw_appearance: bool = True,
        num_inference_steps: int = STEPS,
        generator: Generators = None,
        valid_mask: Any = None,
        blend_mm: float = 2.0,
        match_noise: bool = True,
        exact_diameter: bool = False,
        mask_alone: bool = False,
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> PairedLesionOutput | tuple[Any, ...]:
        """Make a lesion and its mask at a place of a CT; a ball around it is painted.

        Args:
            ct: HU. A whole scan as a `SimpleITK.Image`, or crops on the model's grid, (B, 1, D, H, W).
            center: Voxel index z, y, x; of crops one for each, or one for all.
            diameter_mm: Of the sphere of equal volume, within `diameters_mm`; one number, or one for each crop.
            attributes: Requested character, names in `attributes`.
            cfg_scale, mask_cfg_scale: Of classifier-free guidance of the image's and of the mask's network.
            time_shift, draw_appearance, num_inference_steps, match_noise: As for `LesionInpaintPipeline`.
            generator: One, or one per volume.
            valid_mask: For crops, 0 where the crop reaches outside its scan.
            blend_mm: Depth over which the change is blended in, from the border of the painted region inwards.
            exact_diameter: Whether the mask is cut at the level that gives it the requested volume. Otherwise the
                networks decide: they meet the diameter about, and may make no lesion.
            mask_alone: Make the mask without the image; the CT stays as it is. For a pipeline with `masks_alone`.
            return_dict: Whether to return a `PairedLesionOutput` and not its values as a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step. The tensors are the
                states `mask` and `image` and the clean estimates `mask_estimate` and `image_estimate`, on the latent
                grid; states that it returns replace the states.
        Raises: ValueError: If something does not fit; before anything is computed.
        """
        is_crops = isinstance(ct, np.ndarray | Tensor)
        if not is_crops and not hasattr(ct, "GetSpacing"):
            raise ValueError(f"ct is a {type(ct).__name__}, expected a SimpleITK.Image (see read_ct), array or tensor")
        count = len(ct) if is_crops else 1
        centers = one_for_each(center, count, "center", 1)
        diameters = self._diameters(diameter_mm, count)
        options = self._options(attributes, count, cfg_scale, mask_cfg_scale, time_shift, num_inference_steps)
        if mask_alone and not self.config["masks_alone"]:
            raise ValueError(
                "mask_alone: this pipeline was trained with image_hidden 0; it makes mask and image together"
            )
        crops = self._region(ct, centers, diameters, valid_mask)
        options |= {"mask_alone": mask_alone}
        level, made = self._sample(crops, diameters, options, draw_appearance, generator, callback_on_step_end)
        if exact_diameter:
            level = _at_volume(level, crops.paint_mask, diameters, self.config["spacing_mm"])
        if match_noise and not mask_alone:
            ct_norm = self._norm(crops)
            white = randn_tensor(crops.ct_hu.shape, generator=generator, device=self._execution_device)
            known = (crops.valid_mask * (crops.paint_mask == 0)).to(white.device)
            made = made + self._noise(ct_norm, known, white)
        result = ct if mask_alone else crops.paste(made, blend_mm, "input")
        painted = crops.painted("input")
        mask: Any = largest_part((level > 0).to(torch.uint8)) * crops.valid_mask.to(level.device)
        if not is_crops:
            mask = _on_scan(level, mask, crops, ct)
        else:
            mask = mask.cpu().numpy() if isinstance(ct, np.ndarray) else mask.cpu()
        return PairedLesionOutput(result, mask, painted) if return_dict else (result, mask, painted)

    @torch.no_grad()
    def generate(
        self,
        count: int,
        diameter_mm: Any = None,
        attributes: Attributes | None = None,
        cfg_scale: float = 1.0,
        mask_cfg_scale: float = 1.0,
        time_shift: float = 0.0,
        num_inference_steps: int = STEPS,
        generator: Generators = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> PairedLesionOutput:
        """Crops with their masks from nothing: the task of PIG.

        Args:
            count: Number n of pairs.
            diameter_mm: As for the call; None draws the diameter of a real lesion from the population.
            attributes, cfg_scale, mask_cfg_scale, time_shift, num_inference_steps, generator, callback_on_step_end:
                As for the call.
        Returns: `ct` float32 (n, 1, D, H, W), HU within the window, and `lesion_mask` uint8.
        Raises: ValueError: As the call.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"count {count!r}, expected a whole number of at least 1")
        options = self._options(attributes, count, cfg_scale, mask_cfg_scale, time_shift, num_inference_steps)
        diameters = [float("nan")] * count
        if diameter_mm is not None:
            diameters = self._diameters(diameter_mm, count)
        elif self.population is not None:
            low, high = self.diameters_mm
            real = self.population.diameter_mm.cpu().clamp(low, high)
            normal = randn_tensor((count, 1), generator=generator, device=torch.device("cpu"))
            diameters = real[(torch.special.ndtr(normal[:, 0]) * len(real)).long().clamp(max=len(real) - 1)].tolist()
        everywhere = torch.ones((count, 1, *3 * (self.config["crop_size"],)), dtype=torch.uint8)
        lung = torch.full_like(everywhere, LUNG)
        crops = Crops(torch.zeros(everywhere.shape), everywhere, everywhere, everywhere, lung)
        level, made = self._sample(crops, diameters, options, True, generator, callback_on_step_end)
        return PairedLesionOutput(made.cpu(), largest_part((level > 0).to(torch.uint8)).cpu(), everywhere)

    def _options(
        self,
        attributes: Attributes | None,
        count: int,
        cfg_scale: float,
        mask_cfg_scale: float,
        time_shift: float,
        steps: int,
    ) -> dict[str, Any]:
        """The checked request: what each network receives beside the diameter, and how it is sampled."""
        for scale in (cfg_scale, mask_cfg_scale):
            InpaintRequest(cfg_scale=scale, time_shift=time_shift, steps=steps)
        given = dict(attributes or {})
        for name in given:
            if name not in self.attributes:
                known = ", ".join(self.attributes) or "none"
                raise ValueError(f'attribute "{name}" is unknown to this pipeline, expected one of {known}')
        check_fits(self.scheduler, self._trained_scheduler)
        received = [
            requested_attributes({name: value for name, value in given.items() if name in names}, names, count)
            for names in (self.mask_unet.config["attributes"], self.unet.config["attributes"])
        ]
        return {
            "received": received,
            "cfg_scales": (mask_cfg_scale, cfg_scale),
            "time_shift": time_shift,
            "steps": steps,
        }

    def _diameters(self, diameter_mm: Any, count: int) -> list[float]:
        diameters = one_for_each(diameter_mm, count, "diameter_mm", 0)
        low, high = self.diameters_mm
        for diameter in diameters:
            if not low <= diameter <= high:
                raise ValueError(f"diameter_mm {diameter:g}, expected {low:g} to {high:g} mm, what the grid can hold")
            check_attribute("diameter_mm", float(np.clip(diameter, *SCALES["diameter_mm"][:2])), ("diameter_mm",))
        return list(diameters)

    def _region(self, ct: Any, centers: Sequence[Any], diameters: Sequence[float], valid_mask: Any) -> Any:
        """What the model sees: crops in which a ball is painted."""
        own_mm = self.config["spacing_mm"]
        radii_mm = [min(REGION[0] * diameter + REGION[1], self._largest_radius_mm) for diameter in diameters]
        if isinstance(ct, np.ndarray | Tensor):
            balls = [ball(ct.shape[2:], at, radius / own_mm) for at, radius in zip(centers, radii_mm, strict=True)]
            multiple = max(self.unet.size_multiple, self.mask_unet.size_multiple)
            return crops_of_tensors(ct, torch.cat(balls), 0.0, own_mm, multiple, valid_mask=valid_mask)
        if valid_mask is not None:
            raise ValueError("valid_mask goes with crops; of a scan it is known")
        from diffusion.sampling.scan_crop import crop_of_scan  # SimpleITK is needed for scans only

        return crop_of_scan(ct, _ball_image(ct, centers[0], radii_mm[0]), self.config["crop_size"], own_mm, 0.0)

    def _norm(self, crops: Crops) -> Tensor:
        config = self.vae.config
        ct_hu = crops.ct_hu.to(self._execution_device, torch.float32)
        return to_norm(ct_hu, config["window_width"], config["window_level"])

    def _background_map(self, crops: Crops) -> Tensor:
        """The labels of the CT as it is: what lies where the lesion will be is overwritten by it."""
        if crops.semantic_map is not None:
            return crops.semantic_map
        if self.unet.config["num_labels"] == 2:
            return torch.zeros_like(crops.lesion_mask)
        maps = []
        for ct_hu, valid in zip(crops.ct_hu[:, 0].cpu().numpy(), crops.valid_mask[:, 0].cpu().numpy(), strict=True):
            lung = lung_mask(ct_hu, 3 * (self.config["spacing_mm"],), whole_scan=False, valid_mask=valid)
            maps.append(semantic_map(ct_hu, lung & (ct_hu < HU_EDGES[0]) if self.config["detailed_map"] else lung))
        return torch.from_numpy(np.stack(maps)[:, None])

    def _sample(
        self,
        crops: Crops,
        diameters: Sequence[float],
        options: dict[str, Any],
        draw_appearance: bool,
        generator: Generators,
        callback: StepCallback | None,
    ) -> tuple[Tensor, Tensor]:
        """Joint sampling: the image of the masks at the voxels, whose border is at 0, and the HU; (B, 1, D, H, W)."""
        device, config, factor = self._execution_device, self.vae.config, self.vae.factor
        mask_alone = options.get("mask_alone", False)
        grid = [edge // factor for edge in crops.ct_hu.shape[2:]]
        shapes = [(len(crops), channels, *grid) for channels in (mask_channels(factor), config["latent_channels"])]
        check_batch(generator, None, shapes[0])
        state = Pair(*(randn_tensor(tuple(shape), generator=generator, device=device) for shape in shapes))
        paint, valid = crops.paint_mask.to(device), crops.valid_mask.to(device)
        blanked = self.vae.encode(blank(self._norm(crops), paint)).latent_dist.mode()
        batch = {
            "blanked_latent": standardise(blanked, config),
            "paint_mask": paint,
            "valid_mask": valid,
            "background_map": self._background_map(crops).to(device),
        }
        steering = self._steerings(crops, diameters, options, draw_appearance, generator)
        shares = [mask_coverage(mask, factor) for mask in (paint, valid)]

        def predict_mask(state: Pair, t: Tensor) -> Tensor:
            if not self.config["has_mask"]:
                return torch.zeros_like(state.mask)
            image = torch.zeros_like(state.image) if mask_alone else state.image
            condition = torch.cat([image, batch["blanked_latent"], *shares], dim=1)
            return steering[0].output(self.mask_unet, self.scheduler, state.mask, condition, t, [])

        def predict_image(estimate: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
            if mask_alone:
                return torch.zeros_like(noisy)
            shown = mask_of_latent(estimate, factor)
            seen = guided_by(batch, shown if self.config["has_mask"] else torch.zeros_like(shown))
            labels = seen["lesion_mask"] if self.unet.config["num_labels"] == 2 else seen["semantic_map"]
            condition = condition_of(batch["blanked_latent"], seen["lesion_mask"], paint, valid, factor)
            return steering[1].output(self.unet, self.scheduler, noisy, condition, t, self.unet.modulate(labels))

        set_steps(self.scheduler, options["steps"], device)
        sampler = FactorisedSampler(self.scheduler, predict_mask, predict_image, generator=generator)
        for number, t in enumerate(self.progress_bar(sampler.timesteps)):
            step = sampler.step(state, t)
            state = step.state
            if callback is not None:
                tensors = {"mask": state.mask, "image": state.image}
                tensors |= {"mask_estimate": step.estimate.mask, "image_estimate": step.estimate.image}
                tensors |= callback(self, number, t, dict(tensors)) or {}
                state = Pair(tensors["mask"], tensors["image"])
        if mask_alone:
            return interpolated(state.mask, factor), crops.ct_hu.to(device)
        decoded = self.vae.decode(unstandardise(state.image, config)).sample.float().clamp(-1, 1)
        level = interpolated(state.mask, factor) if self.config["has_mask"] else torch.full_like(decoded, -1.0)
        return level, to_hu(decoded, config["window_width"], config["window_level"])

    def _steerings(
        self,
        crops: Crops,
        diameters: Sequence[float],
        options: dict[str, Any],
        draw_appearance: bool,
        generator: Generators,
    ) -> tuple[Steering, Steering]:
        """What each network receives: requests, the diameter, and the appearance of a drawn real lesion."""
        device = self._execution_device
        diameter_mm = torch.tensor(list(diameters), device=device, dtype=torch.float32)
        received: list[Tensor] = []
        for network, requested in zip((self.mask_unet, self.unet), options["received"], strict=True):
            received.append(requested.to(device))
            if "diameter_mm" in network.config["attributes"]:
                received[-1][:, list(network.config["attributes"]).index("diameter_mm")] = diameter_mm
        names = tuple(self.unet.config["attributes"])
        if draw_appearance and self.population is not None and bool(diameter_mm.isfinite().all()):
            masks = [mask.to(device) for mask in (crops.paint_mask, crops.valid_mask)]
            around_hu = surroundings_hu(crops.ct_hu.to(device).float(), *masks)
            normal = randn_tensor((len(crops), 1), generator=generator, device=device)
            uniform = torch.special.ndtr(normal[:, 0])
            received[1] = self.population.completed(received[1], names, diameter_mm, around_hu, uniform)
        scales, shifts = options["cfg_scales"], (0.0, options["time_shift"])
        mask, image = (
            Steering(own if own.shape[1] else None, scale, None, None, None, self.vae, shift)
            for own, scale, shift in zip(received, scales, shifts, strict=True)
        )
        return mask, image


def _at_volume(level: Tensor, paint_mask: Tensor, diameters: Sequence[float], spacing_mm: float) -> Tensor:
    """The images of masks, moved so that at 0 each has the volume of a sphere of its diameter; (B, 1, D, H, W)."""
    moved = []
    for image, painted, diameter in zip(
        level[:, 0].cpu().numpy(), paint_mask[:, 0].cpu().numpy(), diameters, strict=True
    ):
        above = np.where(painted > 0, image - image.min(), 0.0)
        inside = of_volume(above, round(np.pi / 6 * (diameter / spacing_mm) ** 3))
        moved.append(np.where(inside | (image < image[inside].min()), image - image[inside].min() + 1e-4, -1e-4))
    return torch.from_numpy(np.stack(moved)[:, None]).to(level)


def _ball_image(image: "sitk.Image", center_zyx: Sequence[float], radius_mm: float) -> "sitk.Image":
    """A ball on the grid of an image, uint8. Raises ValueError where its centre lies outside the image."""
    import SimpleITK

    size, spacing = image.GetSize()[::-1], image.GetSpacing()[::-1]
    if not all(0 <= at <= edge - 1 for at, edge in zip(center_zyx, size, strict=True)):
        raise ValueError(f"center {tuple(center_zyx)} (z, y, x) lies outside the scan of {size} voxels; check it")
    axes = [((np.arange(edge) - at) * mm) ** 2 for edge, at, mm in zip(size, center_zyx, spacing, strict=True)]
    inside = np.add.outer(np.add.outer(axes[0], axes[1]), axes[2]) <= radius_mm**2
    made = SimpleITK.GetImageFromArray(inside.astype(np.uint8))
    made.CopyInformation(image)
    return made


def _on_scan(level: Tensor, mask: Tensor, crops: Any, ct: Any) -> "sitk.Image":
    """The mask on the scan's grid: where its smooth image, sampled there, is above 0; uint8."""
    import SimpleITK

    smooth = torch.where(mask > 0, level, level.clamp(max=0))[0, 0].cpu().numpy().astype(np.float32)
    image = SimpleITK.GetImageFromArray(smooth)
    image.CopyInformation(crops.grid)
    sampled = SimpleITK.Resample(image, ct, SimpleITK.Transform(), SimpleITK.sitkLinear, -1.0)
    return SimpleITK.Cast(sampled > 0, SimpleITK.sitkUInt8)
