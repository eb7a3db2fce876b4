"""The diffusion objective: what the U-Net is asked to predict, and the loss on it.

`alphas_cumprod` ᾱ_t comes from the Diffusers scheduler; t = 0 is clean. x_t = √ᾱ_t x0 + √(1-ᾱ_t) ε.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

TARGETS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}  # our words -> Diffusers' prediction_type


def training_scheduler(target: str, schedule: str = "squaredcos_cap_v2", steps: int = 1000) -> DDPMScheduler:
    """The noise schedule of training; saved with the pipeline, where any Diffusers scheduler can replace it.

    Args:
        target: "epsilon", "v" or "x0".
        schedule: Diffusers' `beta_schedule`, for example "squaredcos_cap_v2", "scaled_linear", "linear".
        steps: Number of timesteps T.
    Raises: ValueError: If the target is unknown.
    """
    if target not in TARGETS:
        raise ValueError(f'target "{target}" is unknown; choose one of {", ".join(TARGETS)}')
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_schedule=schedule,
        prediction_type=TARGETS[target],
        clip_sample=False,
        timestep_spacing="trailing",  # sampling starts at the last, noisiest step it was trained on
    )


def target_of(scheduler: Any, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """ε, v = √ᾱ ε - √(1-ᾱ) x0 (Salimans & Ho 2022) or x0, as the scheduler's `prediction_type` says."""
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(x0, noise, timesteps)
    return x0


def predicted_x0(scheduler: Any, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """x̂0 from the U-Net's output: (x_t - √(1-ᾱ) ε̂)/√ᾱ, √ᾱ x_t - √(1-ᾱ) v̂, or the output itself.

    Args:
        output, noisy: (B, C, d, h, w).
        timesteps: (B,), integer.
    """
    alpha_bar = scheduler.alphas_cumprod.to(noisy.device)[timesteps].view(-1, 1, 1, 1, 1).to(noisy.dtype)
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return (noisy - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    if kind == "v_prediction":
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * output
    return output


def x0_slope(scheduler: Any, timesteps: Tensor) -> Tensor:
    """dx̂0 / d output of :func:`predicted_x0`, (B,): -√(1-ᾱ)/√ᾱ for ε, -√(1-ᾱ) for v, 1 for x0."""
    alpha_bar = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return -((1 - alpha_bar) / alpha_bar).sqrt()
    return -(1 - alpha_bar).sqrt() if kind == "v_prediction" else torch.ones_like(alpha_bar)


def diffusion_loss(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error, normalised per sample, averaged over the batch.

    Args:
        output, target: (B, C, d, h, w).
        weight: Non-negative, (B, 1, d, h, w): 1 where the lesion is, less on the background, 0 on padding.
    Returns: (B,), so that a policy over t can weigh the samples.
    Raises: ValueError: If the shapes differ.
    """
    if output.shape != target.shape or weight.shape != (output.shape[0], 1, *output.shape[2:]):
        raise ValueError(f"shapes: output {tuple(output.shape)}, target {tuple(target.shape)}, {tuple(weight.shape)}")
    weighted = (output.float() - target.float()).square().mean(dim=1, keepdim=True) * weight
    return weighted.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(torch.finfo(torch.float32).tiny)


def guided_output(scheduler: Any, output: Tensor, timestep: Tensor, gradient: Tensor) -> Tensor:
    """Move the U-Net's output along the gradient of log p(y | x_t), as if it had predicted the guided noise.

    Dhariwal & Nichol 2021, algorithm 2: ε̂ ← ε - σ_t ∇ log p(y | x_t), σ_t = √(1-ᾱ_t); it holds for any sampler. At
    fixed x_t this is v̂ ← v - σ_t/√ᾱ_t ∇ and x̂0 ← x0 + σ_t²/√ᾱ_t ∇.

    Args:
        scheduler: Any Diffusers scheduler with `alphas_cumprod`.
        output, gradient: (B, C, d, h, w); the gradient already multiplied by the guidance scale.
        timestep: Scalar.
    """
    alpha_bar = scheduler.alphas_cumprod.to(output.device)[timestep.long()].to(output.dtype)
    sigma = (1 - alpha_bar).sqrt()
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return output - sigma * gradient
    if kind == "v_prediction":
        return output - sigma / alpha_bar.sqrt() * gradient
    return output + sigma**2 / alpha_bar.sqrt() * gradient
