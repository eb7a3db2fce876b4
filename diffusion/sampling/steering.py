"""What one call asks for, and how each way of asking moves the U-Net's output at a step.

The U-Net is told its own attributes and listened to with classifier-free guidance; a guide adds the gradient of its
classifiers; HU, which the decoded lesion says itself, are measured and met. In place of no request, the appearance
of a real lesion may be requested.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoencoder.remote import RemoteAutoencoder
from diffusion.attributes import AttributeValue, requested_attributes
from diffusion.process import (
    guided_output,
    network_times,
    noise_level,
    output_of_changed_x0,
    predicted_x0,
    sampling_rows,
    shifted_rows,
)
from diffusion.sampling.guide import Plan, Scales, attribute_scales
from diffusion.sampling.measured_guidance import MeasuredGuidance, measured_guidance

Attributes = Mapping[str, AttributeValue]
MET_OF_DRAWN = "mean_hu"  # of what is drawn: percentiles that do not suit a mask would tear holes into its lesion


@dataclass(frozen=True)
class Steering:
    """One call's requests, ready for the steps.

    Attributes:
        attributes: What the U-Net is told, (B, its attributes), NaN where nothing; None where it has none.
        cfg_scale: Of classifier-free guidance.
        guide, plan: Classifier guidance and what it made of its part; no plan, no guidance.
        measured: HU that are to be met; None where none are.
        vae: Autoencoder, for those who look at the decoded lesion.
        time_shift: δ; the U-Net is told 1 + δ times the time, and so more noise than there is.
    """

    attributes: Tensor | None
    cfg_scale: float
    guide: Any
    plan: Plan | None
    measured: MeasuredGuidance | None
    vae: Any
    time_shift: float = 0.0

    def output(
        self, unet: Any, scheduler: Any, noisy: Tensor, condition: Tensor, timestep: Tensor, modulation: Any
    ) -> Tensor:
        """The U-Net's output at one step, moved towards what is requested.

        Args:
            unet: `SPADEUNet3D`.
            scheduler: Whose process and target the output is of.
            noisy: x_t as the U-Net reads it, (B, C, d, h, w).
            condition: From `conditioning.condition_of`.
            timestep: Scalar, as the scheduler gives it.
            modulation: From `unet.modulate`.
        """
        sample = torch.cat([noisy, condition], dim=1)
        rows = sampling_rows(scheduler, timestep, len(noisy))
        told, told_rows = timestep, rows
        if self.time_shift:
            told_rows = shifted_rows(scheduler, rows, self.time_shift)
            told = network_times(scheduler, told_rows)
        output = unet(sample, told, modulation=modulation, attributes=self.attributes).sample
        if self.attributes is not None and self.cfg_scale != 1 and bool(self.attributes.isfinite().any()):
            unconditional = unet(sample, told, modulation=modulation).sample
            output = unconditional + self.cfg_scale * (output - unconditional)
        if self.time_shift:  # the output of this step that has the same x̂0
            change = predicted_x0(scheduler, output, noisy, told_rows) - predicted_x0(scheduler, output, noisy, rows)
            output = output_of_changed_x0(scheduler, output, change, rows)
        share = float(timestep) / scheduler.config["num_train_timesteps"]
        if self.plan is not None and self.plan.covers(share):
            gradient = self.guide.gradient(noisy, timestep, noise_level(scheduler, timestep), self.plan, self.vae)
            output = guided_output(scheduler, output, timestep, gradient)
        last = bool(timestep == scheduler.timesteps[-1])
        if self.measured is not None and self.measured.covers(share, last):
            change = self.measured.correction(predicted_x0(scheduler, output, noisy, rows))
            output = output_of_changed_x0(scheduler, output, change, rows)
        return output


def steering_of(
    unet: Any,
    guide: Any,
    vae: Any,
    attributes: Attributes,
    lesion_mask: Tensor,
    cfg_scale: float,
    guidance_scale: Scales,
    guidance_range: Sequence[float] | None,
    hu_scale: float,
    time_shift: float,
    complete: Callable[[Tensor], Tensor] | None = None,
) -> Steering:
    """Check the requests of a call and hand each to whoever knows it: U-Net, guide, or both.

    Args:
        unet, guide, vae: The pipeline's; a guide may be None.
        attributes: As `LesionInpaintPipeline.__call__` takes them.
        lesion_mask: (B, 1, D, H, W), 0 or 1, on the device of the call.
        cfg_scale, guidance_scale, guidance_range, hu_scale, time_shift: As there.
        complete: Requests, (B, attributes), to the U-Net's attributes, such as `LesionPopulation.completed`;
            left out where the guide alone is requested something.
            A mean HU that it adds is met as if requested, unless the autoencoder is a service.
    Raises: ValueError: If an attribute is known to neither, or a value or scale does not fit.
    """
    of_unet = tuple(unet.config.get("attributes") or ())
    of_guide = tuple(guide.attributes) if guide is not None else ()
    attribute_scales(guidance_scale, of_guide)
    for name in attributes:
        if name not in (*of_unet, *of_guide):
            known = ", ".join(dict.fromkeys((*of_unet, *of_guide))) or "none"
            raise ValueError(
                f'attribute "{name}" is unknown to this pipeline; known: {known}; train others with '
                "train_ldm.py (model.attributes) or train_classifier.py"
            )
    requested, measured, plan = None, None, None
    if of_unet:
        own = {name: request for name, request in attributes.items() if name in of_unet}
        requests = requested_attributes(own, of_unet, len(lesion_mask)).to(lesion_mask.device)
        requested = complete(requests) if complete is not None and own.keys() == attributes.keys() else requests
        to_meet = requests.clone()
        if MET_OF_DRAWN in of_unet and not isinstance(vae, RemoteAutoencoder):
            to_meet[:, of_unet.index(MET_OF_DRAWN)] = requested[:, of_unet.index(MET_OF_DRAWN)]
        measured = measured_guidance(to_meet, of_unet, lesion_mask, vae, hu_scale)
    for_guide = {name: request for name, request in attributes.items() if name in of_guide}
    if for_guide:
        plan = guide.plan(for_guide, lesion_mask, vae, guidance_scale, guidance_range)
    return Steering(requested, cfg_scale, guide, plan, measured, vae, time_shift)
