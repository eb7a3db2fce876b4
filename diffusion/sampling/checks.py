"""What a call of the pipeline refuses, in one sentence each, before anything is computed."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.sampling.guide import check_range, is_finite

SAME_SPACING = 0.01  # relative; the same grid to a hundredth
OUTPUT_TYPES = ("input", "pt", "np", "latent")
Generators = torch.Generator | list[torch.Generator] | None


def check_numbers(
    num_inference_steps: Any,
    guidance_scale: Any,
    cfg_scale: Any,
    blend_mm: Any,
    paint_margin_mm: Any,
    guidance_range: Any = None,
    hu_scale: Any = 1.0,
    time_shift: Any = 0.0,
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
        ("hu_scale", hu_scale, 0.0),
        ("time_shift", time_shift, 0.0),
        ("paint_margin_mm", paint_margin_mm, 0.0),
        ("blend_mm", blend_mm, 0.0),
    ):
        if not (is_finite(value) and value >= low):
            raise ValueError(f"{name} {value!r}, expected a finite number{' of at least 0' if low == 0 else ''}")
    if guidance_range is not None:
        check_range(guidance_range)


def check_crops(ct_hu: Tensor, lesion_mask: Tensor, multiple: int) -> None:
    """Raise ValueError unless these are (B, 1, D, H, W), edges a multiple of `multiple`, finite, and no mask empty."""
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


def check_spacing(spacing_mm: Any, own: float, batch: int) -> None:
    """Raise ValueError unless a spacing, (3,) or (B, 3), z, y, x, is that of the model, `own`, along every axis."""
    if spacing_mm is None:
        return
    spacing = torch.as_tensor(spacing_mm, dtype=torch.float64)
    if spacing.shape not in ((3,), (batch, 3)) or not (spacing > 0).all():
        raise ValueError(f"spacing_mm {spacing_mm}, expected three positive numbers (z, y, x), or three per volume")
    if not ((spacing / own - 1).abs() <= SAME_SPACING).all():
        raise ValueError(
            f"spacing_mm {spacing.tolist()}: the model has learnt {own:g} mm along every axis; resample the crop, "
            "or pass a SimpleITK.Image to have that done"
        )


def check_diffusers_options(
    output_type: Any, num_lesions_per_mask: Any, tensor_inputs: Sequence[str], known_inputs: Sequence[str]
) -> None:
    """Raise ValueError unless the output type is known, lesions are counted from 1, and callbacks get what there is."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type {output_type!r}, expected one of {', '.join(OUTPUT_TYPES)}")
    count = num_lesions_per_mask
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"num_lesions_per_mask {count!r}, expected a whole number of at least 1")
    unknown = [name for name in tensor_inputs if name not in known_inputs]
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs {unknown[0]!r} is not known; choose from {', '.join(known_inputs)}"
        )


def check_batch(generator: Generators, latents: Tensor | None, shape: Sequence[int]) -> None:
    """Raise ValueError unless there is one generator or as many as lesions, and the first noise, if any, has `shape`.

    Args:
        generator, latents: Of the call.
        shape: (B, C, d, h, w) of the latent.
    """
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for {shape[0]} volumes; give one, or one per volume")
    if latents is not None and tuple(latents.shape) != tuple(shape):
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}, expected {tuple(shape)}: (lesions, channels, d, h, w) of the "
            "model's latent"
        )
