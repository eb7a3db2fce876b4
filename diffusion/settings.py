"""What a config says of stage 2 in words; imports no torch."""

from typing import Literal

Target = Literal["epsilon", "v", "x0", "flow"]  # what the U-Net predicts, see `diffusion.objective`
TimePolicy = Literal["constant", "snr", "min_snr", "film", "uncertainty", "step_aware"]  # see `diffusion.time_weights`
Balance = Literal["none", "norm", "project", "norm_project"]  # see `diffusion.gradient_balance`
# which Diffusers scheduler takes the steps, see `diffusion.samplers`
SamplerName = Literal["default", "ddpm", "ddim", "dpm-solver++", "dpm-solver++-lu", "unipc", "flow-euler"]
