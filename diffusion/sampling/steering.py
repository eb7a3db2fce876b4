"""How a call's request moves the U-Net's output at each step.

Four ways: the U-Net receives its own attributes, strengthened by classifier-free guidance; a guide adds the gradient of
its classifiers; requested HU are measured in the decoded lesion and met; and shifted time steps let the U-Net trust its
input less. Without any request, the appearance of a real lesion may take its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.attributes import requestable, requested_attributes
from diffusion.process import (
    guided_output,
    network_times,
    noise_level,
    output_of_changed_x0,
    predicted_x0,
    sampling_rows,
    shifted_rows,
)
from diffusion.sampling.guide import Plan, attribute_scales
from diffusion.sampling.measured_guidance import MeasuredGuidance, measured_guidance
from diffusion.sampling.request import ResolvedRequest

MET_OF_DRAWN = "mean_hu"  # of what is drawn: percentiles that do not suit a mask would tear holes into its lesion


@dataclass(frozen=True)
class Steering:
    """One call's request, ready for the steps.

    Attributes:
        attributes: What the U-Net receives, (B, its attributes), NaN where nothing is requested; None without any.
        cfg_scale: Of classifier-free guidance.
        guide, plan: Classifier guidance and what it made of its part; no plan, no guidance.
        measured: HU that are to be met; None where none are.
        vae: Autoencoder, for those who look at the decoded lesion.
        time_shift: δ; the U-Net receives (1 + δ) t, the time of more noise than there is.
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
        """The U-Net's output at one step, moved towards the request.

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
        received_time, received_rows = timestep, rows
        if self.time_shift:
            received_rows = shifted_rows(scheduler, rows, self.time_shift)
            received_time = network_times(scheduler, received_rows)
        output = unet(sample, received_time, modulation=modulation, attributes=self.attributes).sample.to(noisy.dtype)
        if self.attributes is not None and self.cfg_scale != 1 and bool(self.attributes.isfinite().any()):
            unconditional = unet(sample, received_time, modulation=modulation).sample.to(noisy.dtype)
            output = unconditional + self.cfg_scale * (output - unconditional)
        if self.time_shift:  # the output of this step that has the same x̂0
            x0_hat = predicted_x0(scheduler, output, noisy, received_rows)
            change = x0_hat - predicted_x0(scheduler, output, noisy, rows)
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
    pipeline: Any,
    request: ResolvedRequest,
    lesion_mask: Tensor,
    complete: Callable[[Tensor], Tensor] | None = None,
) -> Steering:
    """Check what a call requests, and hand each attribute to whoever knows it: U-Net, guide, or both.

    Args:
        pipeline: With `unet`, `vae` and `guide`, which may be None.
        request: Of the call.
        lesion_mask: (B, 1, D, H, W), 0 or 1, on the device of the call.
        complete: Requested attributes, (B, attributes of the U-Net), to those that the U-Net receives, such as
            `LesionPopulation.completed`; not used where an attribute is requested of the guide alone. A mean HU that it
            adds is met as if it were requested, unless the autoencoder is a service.
    Raises: ValueError: If an attribute is known to neither, or a value or scale does not fit.
    """
    unet, guide, vae, attributes = pipeline.unet, pipeline.guide, pipeline.vae, request.attributes
    of_unet = tuple(unet.config.get("attributes") or ())
    of_guide = tuple(guide.attributes) if guide is not None else ()
    attribute_scales(request.guidance_scale, of_guide)
    for name in attributes:
        if name not in (*requestable(of_unet), *of_guide):
            known = ", ".join(dict.fromkeys((*requestable(of_unet), *of_guide))) or "none"
            raise ValueError(
                f'attribute "{name}" is unknown to this pipeline; known: {known}; train others with '
                "train_ldm.py (model.attributes) or train_classifier.py"
            )
    received, measured, plan = None, None, None
    if of_unet:
        own = {name: value for name, value in attributes.items() if name in of_unet}
        requested = requested_attributes(own, of_unet, len(lesion_mask)).to(lesion_mask.device)
        completed = complete is not None and own.keys() == attributes.keys()
        received = complete(requested) if complete is not None and completed else requested
        to_meet = requested.clone()
        if MET_OF_DRAWN in of_unet and vae.gives_gradients:
            to_meet[:, of_unet.index(MET_OF_DRAWN)] = received[:, of_unet.index(MET_OF_DRAWN)]
        measured = measured_guidance(to_meet, of_unet, lesion_mask, vae, request.hu_scale)
    for_guide = {name: value for name, value in attributes.items() if name in of_guide}
    if for_guide:
        plan = guide.plan(for_guide, lesion_mask, vae, request.guidance_scale, request.guidance_range)
    return Steering(received, request.cfg_scale, guide, plan, measured, vae, request.time_shift)
