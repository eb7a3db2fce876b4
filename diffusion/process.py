"""The noising process, the targets of the U-Net, and how guidance changes its output.

There are two processes. *Diffusion*: x_t = √ᾱ_t x0 + √(1-ᾱ_t) ε, ᾱ_t from the Diffusers scheduler, t = 0 clean.
*Rectified flow* (Liu et al. 2022, Lipman et al. 2022): x_t = (1-σ_t) x0 + σ_t ε, and the network predicts the velocity
ε - x0. Divided by √((1-σ)² + σ²), a flow's x_t is that of a diffusion with ᾱ = (1-σ)² / ((1-σ)² + σ²). Time policies
use this ᾱ.

A row is a whole number from 0 (clean) to T - 1. The time that the network receives is the row, or 1000 σ for a flow.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

TARGETS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample", "flow": "flow_prediction"}  # ours -> Diffusers'


def training_scheduler(
    target: str, schedule: str = "squaredcos_cap_v2", steps: int = 1000, zero_terminal_snr: bool = False
) -> Any:
    """The noise schedule of training; saved with the pipeline, where another Diffusers scheduler can replace it.

    Args:
        target: "epsilon", "v", "x0" or "flow".
        schedule: Diffusers' `beta_schedule`, for example "squaredcos_cap_v2", "scaled_linear", "linear"; a flow has
            σ = 1/T, 2/T, ..., 1 and none.
        steps: Number of timesteps T.
        zero_terminal_snr: Rescale the schedule so that the last step is noise alone (Lin et al. 2023, algorithm 1).
    Raises: ValueError: If the target is unknown, or cannot be predicted at a signal of zero.
    """
    if target not in TARGETS:
        raise ValueError(f'target "{target}" is unknown; choose one of {", ".join(TARGETS)}')
    if target == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps)
    if zero_terminal_snr and target == "epsilon":
        raise ValueError('zero_terminal_snr: noise alone says nothing of x0 through its own ε; take target "v" or "x0"')
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_schedule=schedule,
        prediction_type=TARGETS[target],
        clip_sample=False,
        timestep_spacing="trailing",  # sampling starts at the last, noisiest step it was trained on
        rescale_betas_zero_snr=zero_terminal_snr,
    )


def is_flow(scheduler: Any) -> bool:
    """Whether a Diffusers scheduler integrates a rectified flow."""
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or bool(scheduler.config.get("use_flow_sigmas"))


def alphas_of(scheduler: Any) -> Tensor:
    """ᾱ of each row, (T,); a flow's by its equal signal-to-noise ratio."""
    if not is_flow(scheduler):
        return scheduler.alphas_cumprod
    sigma = _flow_sigmas(scheduler)
    return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)


def network_times(scheduler: Any, rows: Tensor) -> Tensor:
    """The time that the network is given for these rows, (B,)."""
    if not is_flow(scheduler):
        return rows
    return _flow_sigmas(scheduler).to(rows.device)[rows] * scheduler.config["num_train_timesteps"]


def add_noise(scheduler: Any, x0: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
    """x_t of x0 and noise, (B, C, d, h, w), at these rows, (B,)."""
    signal, sigma = _levels(scheduler, rows, x0)
    return signal * x0 + sigma * noise


def target_of(scheduler: Any, x0: Tensor, noise: Tensor, rows: Tensor) -> Tensor:
    """ε, v = √ᾱ ε - √(1-ᾱ) x0 (Salimans & Ho 2022), x0, or a flow's ε - x0, as the scheduler says."""
    if is_flow(scheduler):
        return noise - x0
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    signal, sigma = _levels(scheduler, rows, x0)
    return signal * noise - sigma * x0 if kind == "v_prediction" else x0


def predicted_x0(scheduler: Any, output: Tensor, noisy: Tensor, rows: Tensor) -> Tensor:
    """x̂0 from the U-Net's output: (x_t - √(1-ᾱ) ε̂)/√ᾱ, √ᾱ x_t - √(1-ᾱ) v̂, the output itself, or x_t - σ v̂ (flow).

    Args:
        output, noisy: (B, C, d, h, w).
        rows: (B,), integer.
    """
    signal, sigma = _levels(scheduler, rows, noisy)
    if is_flow(scheduler):
        return noisy - sigma * output
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return (noisy - sigma * output) / signal
    return signal * noisy - sigma * output if kind == "v_prediction" else output


def x0_slope(scheduler: Any, rows: Tensor) -> Tensor:
    """dx̂0 / d output of :func:`predicted_x0`, (B,): -√(1-ᾱ)/√ᾱ for ε, -√(1-ᾱ) for v, 1 for x0, -σ for a flow."""
    alpha_bar = alphas_of(scheduler).to(rows.device)[rows]
    if is_flow(scheduler):
        return -_flow_sigmas(scheduler).to(rows.device)[rows]
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return -((1 - alpha_bar) / alpha_bar).sqrt()
    return -(1 - alpha_bar).sqrt() if kind == "v_prediction" else torch.ones_like(alpha_bar)


def output_of_changed_x0(scheduler: Any, output: Tensor, change: Tensor, rows: Tensor) -> Tensor:
    """The U-Net's output whose :func:`predicted_x0` is that of `output` and this change; (B, C, d, h, w)."""
    slope = x0_slope(scheduler, rows).view(-1, 1, 1, 1, 1)
    return output + (change / slope).to(output.dtype)


def sampling_rows(scheduler: Any, timestep: Tensor, batch: int) -> Tensor:
    """The rows, (batch,), of a timestep as the scheduler gives it; the nearest where a flow's lies between two."""
    row = timestep.round().long() - 1 if is_flow(scheduler) else timestep.long()
    return row.clamp_min(0).expand(batch)


def _flow_sigmas(scheduler: Any) -> Tensor:
    """σ of each row of a flow's training schedule, (T,)."""
    T = scheduler.config["num_train_timesteps"]
    return torch.arange(1, T + 1) / T


def _levels(scheduler: Any, rows: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of x0 and ε in x_t, each (B, 1, 1, 1, 1)."""
    if is_flow(scheduler):
        sigma = _flow_sigmas(scheduler).to(like.device)[rows].view(-1, 1, 1, 1, 1).to(like.dtype)
        return 1 - sigma, sigma
    alpha_bar = scheduler.alphas_cumprod.to(like.device)[rows].view(-1, 1, 1, 1, 1).to(like.dtype)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def shifted_rows(scheduler: Any, rows: Tensor, time_shift: float) -> Tensor:
    """Rows of 1 + δ times the time, no later than the last, (B,)."""
    if is_flow(scheduler):  # its times are rows + 1
        rows = rows + 1
    shifted = (rows * (1 + time_shift)).round().long() - int(is_flow(scheduler))
    return shifted.clamp(max=scheduler.config["num_train_timesteps"] - 1)


def noise_level(scheduler: Any, timestep: Tensor) -> Tensor:
    """σ_t of x_t at a timestep as the scheduler gives it, scalar: √(1-ᾱ_t), or a flow's σ."""
    if is_flow(scheduler):
        return timestep / scheduler.config["num_train_timesteps"]
    return (1 - scheduler.alphas_cumprod.to(timestep.device)[timestep.long()]).sqrt()


def guided_output(scheduler: Any, output: Tensor, timestep: Tensor, gradient: Tensor) -> Tensor:
    """Move the U-Net's output along the gradient of log p(y | x_t), as if it had predicted the guided noise.

    Dhariwal & Nichol 2021, algorithm 2: ε̂ ← ε - σ_t ∇ log p(y | x_t), σ_t = √(1-ᾱ_t); it holds for any sampler. At
    fixed x_t this is v̂ ← v - σ_t/√ᾱ_t ∇ and x̂0 ← x0 + σ_t²/√ᾱ_t ∇; for a flow v̂ ← v - σ_t/(1-σ_t) ∇, as there
    x_t - (1-σ_t) x0 = σ_t ε, and at σ_t = 1, where x_t says nothing of x0, the output stays.

    Args:
        scheduler: Any Diffusers scheduler of the training's process.
        output, gradient: (B, C, d, h, w); the gradient already multiplied by the guidance scale.
        timestep: Scalar, as the scheduler gives it.
    """
    if is_flow(scheduler):
        sigma = (timestep / scheduler.config["num_train_timesteps"]).to(output.device, output.dtype)
        return output - sigma / (1 - sigma) * gradient if sigma < 1 else output
    alpha_bar = scheduler.alphas_cumprod.to(output.device)[timestep.long()].to(output.dtype)
    sigma = (1 - alpha_bar).sqrt()
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return output - sigma * gradient
    if kind == "v_prediction":
        return output - sigma / alpha_bar.sqrt() * gradient
    return output + sigma**2 / alpha_bar.sqrt() * gradient
