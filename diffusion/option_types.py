"""Types of the options of stage 2, as configs name them; imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Literal

AttributeValue = str | float | Sequence[str | float]  # of one attribute: a value for all volumes, or one for each
Attributes = Mapping[str, AttributeValue]
Scales = float | Mapping[str, float]  # guidance scale of all attributes, or by name
Target = Literal["epsilon", "v", "x0", "flow"]  # what the U-Net predicts, see `diffusion.process`
# how the losses' weights change over t, see `diffusion.losses.time_weights`
TimePolicy = Literal["constant", "snr", "min_snr", "film", "uncertainty", "step_aware"]
Balance = Literal["none", "norm", "project", "norm_project"]  # see `diffusion.losses.gradient_balance`
# which Diffusers scheduler takes the steps, see `diffusion.sampling.samplers`
SamplerName = Literal["default", "ddpm", "ddim", "dpm-solver++", "dpm-solver++-lu", "unipc", "flow-euler"]
PlaneReduction = Literal["mean", "max", "softmax"]  # how a loss joins its three planes, see `diffusion.losses.gabor`
