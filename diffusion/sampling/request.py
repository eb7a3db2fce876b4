"""What one call of the pipeline may request: every option with its meaning and its checks, once; imports no torch."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from diffusion.option_types import Attributes, AttributeValue, Scales

STEPS = 16  # within 2 % of 32 in every texture distance (benchmarks/choices/few_steps.md)


@dataclass(frozen=True, kw_only=True)
class InpaintRequest:
    """What a call requests of the lesion, and how it is sampled.

    Attributes:
        attributes: Requested character, for example `--attributes.malignancy malignant --attributes.mean_hu -450`, or
            in Python `{"malignancy": "malignant", "mean_hu": -450}`. Known names are `unet.config.attributes` and
            `guide.attributes`; an attribute that both know is requested of both. One value for all volumes, or a list
            with one for each and None where nothing is requested.
        guidance_scale: Scale s of the guide, the gradient of its classifiers: one number, or one for each attribute by
            name, `{malignancy: 2, spiculation: 0.5}`, 1 where it has none; 0 switches the guide off.
        guidance_range: (low, high), the timesteps that are guided, as shares of all with 0 clean and 1 noise; null
            takes the guide's own.
        cfg_scale: Scale w of classifier-free guidance on the U-Net's own attributes, ε̂ = ε(∅) + w (ε(a) - ε(∅)) (Ho &
            Salimans 2022). 1 is the plain conditional network; any other value doubles the cost of a step.
        hu_scale: Share of the missing HU that each guided step adds where HU are requested (mean_hu, p10_hu, p50_hu,
            p90_hu; see `MeasuredGuidance`); 0 leaves requested HU to the U-Net.
        time_shift: δ. The U-Net receives (1 + δ) t instead of t, so it trusts its input less; a constant shift inspired
            by Li et al. 2024. Null takes the pipeline's; 0 is no shift.
        draw_appearance: Whether a lesion without any request gets texture and HU of a real one of its size, drawn from
            the pipeline's `population`. The U-Net receives all of it, and its mean HU is met.
        steps: Denoising steps. Each is one call of the U-Net.
        paint_margin_mm: Width of the region painted around the lesion; null takes the margin of the training.
        blend_mm: Depth over which the change is blended in, from the border of the painted region inwards. Null takes
            the margin, so that the lesion itself is all the model's.
        finish: Whether the decoded lesion gets an even solid core, a sharp rim and the label's border
            (`diffusion.sampling.finishing`); null takes the pipeline's.
        match_noise: Whether the painted region gets noise like that of the CT around it (`imaging.noise.noise_like`).
        mixed_precision: Type that the steps are computed in by autocast; "no" is that of the weights. "bf16" is faster
            on a CPU or GPU that has it, and changes a lesion by some HU. The decoder keeps the type of its weights.
    Raises: ValueError: If a number is not finite or out of range; the message names it.
    """

    attributes: Attributes = field(default_factory=dict)
    guidance_scale: Scales = 1.0
    guidance_range: Sequence[float] | None = None
    cfg_scale: float = 1.0
    hu_scale: float = 1.0
    time_shift: float | None = None
    draw_appearance: bool = True
    steps: int = STEPS
    paint_margin_mm: float | None = None
    blend_mm: float | None = None
    finish: bool | None = None
    match_noise: bool = True
    mixed_precision: Literal["no", "bf16"] = "no"

    def __post_init__(self) -> None:
        steps = self.steps
        if not isinstance(steps, numbers.Integral) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"num_inference_steps {steps!r}, expected a whole number of at least 1")
        scales: Mapping[str, Any] = {"guidance_scale": self.guidance_scale}
        if isinstance(self.guidance_scale, Mapping):
            scales = {f'guidance_scale of "{name}"': scale for name, scale in self.guidance_scale.items()}
        for name, value in (*scales.items(), ("cfg_scale", self.cfg_scale)):
            if not is_finite(value):
                raise ValueError(f"{name} {value!r}, expected a finite number")
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(f'mixed_precision {self.mixed_precision!r}, expected "no" or "bf16"')
        if self.cfg_scale < 0:
            raise ValueError(
                f"cfg_scale {self.cfg_scale!r}, expected at least 0: below it the lesion turns away from what is "
                "requested; pass 1 for the plain network, or another attribute"
            )
        for name in ("hu_scale", "time_shift", "paint_margin_mm", "blend_mm"):
            value = getattr(self, name)
            if value is not None and not (is_finite(value) and value >= 0):
                raise ValueError(f"{name} {value!r}, expected a finite number of at least 0")
        if self.guidance_range is not None:
            check_range(self.guidance_range)

    def options(self) -> dict[str, Any]:
        """Every option of a request by its name; of a class made from this one, these alone."""
        return {name: getattr(self, name) for name in InpaintRequest.__dataclass_fields__}

    def resolved(self, paint_margin_mm: float, time_shift: float, finish: bool) -> "ResolvedRequest":
        """The request with a pipeline's own values where it names none."""
        margin_mm = paint_margin_mm if self.paint_margin_mm is None else self.paint_margin_mm
        own = {"time_shift": time_shift, "paint_margin_mm": margin_mm, "blend_mm": margin_mm, "finish": finish}
        options = self.options()
        options |= {name: value for name, value in own.items() if options[name] is None}
        return ResolvedRequest(**options)


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest(InpaintRequest):
    """A request in which nothing is left to the pipeline; what :meth:`InpaintRequest.resolved` returns."""

    time_shift: float = 0.0
    paint_margin_mm: float = 0.0
    blend_mm: float = 0.0
    finish: bool = False

    def repeated(self, count: int) -> "ResolvedRequest":
        """The request for `count` versions of each volume, one after the other in the batch."""
        return replace(self, attributes={name: _repeated(value, count) for name, value in self.attributes.items()})


def check_range(guidance_range: Sequence[float]) -> tuple[float, float]:
    """(low, high) as floats. Raises ValueError unless 0 <= low < high <= 1."""
    bounds = tuple(guidance_range) if isinstance(guidance_range, Sequence) else ()
    if len(bounds) != 2 or not all(map(is_finite, bounds)) or not 0 <= bounds[0] < bounds[1] <= 1:
        raise ValueError(
            f"guidance_range {guidance_range!r}, expected (low, high), shares of the timesteps with 0 clean and 1 "
            "noise, 0 <= low < high <= 1"
        )
    return float(bounds[0]), float(bounds[1])


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number (a bool is none)."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _repeated(value: AttributeValue, count: int) -> AttributeValue:
    """A list with one value per volume, each `count` times; one value for all volumes stays."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return [one for one in value for _ in range(count)]
