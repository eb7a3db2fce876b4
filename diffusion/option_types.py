"""What a config says of stage 2 in words; imports no torch."""

from typing import Literal

Target = Literal["epsilon", "v", "x0", "flow"]  # what the U-Net predicts, see `diffusion.process`
TimePolicy = Literal[
    "constant", "snr", "min_snr", "film", "uncertainty", "step_aware"
]  # see `diffusion.losses.time_weights`
Balance = Literal["none", "norm", "project", "norm_project"]  # see `diffusion.losses.gradient_balance`
# which Diffusers scheduler takes the steps, see `diffusion.sampling.samplers`
SamplerName = Literal["default", "ddpm", "ddim", "dpm-solver++", "dpm-solver++-lu", "unipc", "flow-euler"]
PlaneReduction = Literal["mean", "max", "softmax"]  # how a loss joins its three planes, see `diffusion.losses.gabor`
