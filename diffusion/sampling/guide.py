"""The interface between the pipeline and a classifier guide, and the scale of each attribute."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from diffusion.option_types import Attributes, Scales
from diffusion.sampling.request import is_finite


class Plan(Protocol):
    """How a guide steers one call."""

    def covers(self, share: float) -> bool:
        """Whether timestep t = share · T is guided."""
        ...


class Guide(Protocol):
    """A classifier guide, as the pipeline uses it.

    Attributes:
        attributes: Names of the attributes that can be requested.
    """

    attributes: tuple[str, ...]

    def plan(
        self,
        attributes: Attributes,
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
