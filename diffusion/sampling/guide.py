"""What the pipeline and its guide agree on: the guide's interface, scales by attribute, the range of timesteps."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from diffusion.attributes import AttributeValue

Scales = float | Mapping[str, float]  # of all attributes, or by name


class Plan(Protocol):
    """What a guide has made of one call's requests."""

    def covers(self, share: float) -> bool:
        """Whether timestep t = share · T is guided."""
        ...


class Guide(Protocol):
    """What a pipeline asks of its guide.

    Attributes:
        attributes: Names of what can be requested.
    """

    attributes: tuple[str, ...]

    def plan(
        self,
        attributes: Mapping[str, AttributeValue],
        lesion_mask: Tensor,
        vae: Any,
        guidance_scale: Scales,
        guidance_range: Sequence[float] | None,
    ) -> Plan | None:
        """Check a call's requests; None if nothing is left to be guided. Raises ValueError on what does not fit."""
        ...

    def gradient(self, noisy_latent: Tensor, timestep: Tensor, noise_level: Tensor, plan: Any, vae: Any) -> Tensor:
        """Gradient of the scaled log-likelihood of the requests with respect to x_t, (B, C, d, h, w)."""
        ...


def attribute_scales(scale: Scales, known: Sequence[str]) -> dict[str, float]:
    """The scale of each attribute; one that a mapping does not name has 1.

    Raises: ValueError: If a scale is no finite number, or a name is unknown.
    """
    given = scale if isinstance(scale, Mapping) else dict.fromkeys(known, scale)
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f'guidance_scale: attribute "{name}" is unknown to the guide; known: {", ".join(known) or "none"}'
            )
        if not is_finite(value):
            raise ValueError(f'guidance_scale of "{name}" {value!r}, expected a finite number')
    return {name: float(given.get(name, 1.0)) for name in known}


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
