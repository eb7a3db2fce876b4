"""SynDiff's few large steps (docs/references.md) as a Diffusers scheduler."""

import math

import torch
from diffusers import DDPMScheduler, SchedulerMixin  # Diffusers looks for the mixin in a component's module
from torch import Tensor

BETA_MIN, BETA_MAX = 0.1, 20.0  # of eq. 10


def syndiff_signal(count: int) -> Tensor:
    """ᾱ at the ends of `count` equal steps of SynDiff's process, noisiest first, (count,).

    Its eq. 10 in continuous time: ᾱ(s) = exp(-β̄_min s - (β̄_max - β̄_min) s²/2), s = 1, (count-1)/count, ..., 1/count.
    """
    share = torch.arange(count, 0, -1, dtype=torch.float64) / count
    return torch.exp(-BETA_MIN * share - (BETA_MAX - BETA_MIN) * share.square() / 2)


def syndiff_rows(alphas: Tensor, count: int) -> list[int]:
    """Timesteps of a schedule whose ᾱ lie nearest, in log signal-to-noise ratio, to those of :func:`syndiff_signal`.

    So a network that was trained on another schedule keeps the meaning of its times.

    Args:
        alphas: ᾱ of each timestep, (T,), falling.
        count: Network calls.
    Returns: `count` timesteps, noisiest first.
    Raises: ValueError: If two calls would fall on one timestep.
    """
    distance = torch.logit(syndiff_signal(count), eps=1e-9)[:, None] - torch.logit(alphas.double(), eps=1e-9)[None]
    rows = distance.abs().argmin(1).tolist()
    if len(set(rows)) < count:
        raise ValueError(f"{count} network calls: expected at most a few tens, as timesteps coincide")
    return rows


class SynDiffScheduler(DDPMScheduler, SchedulerMixin):
    """Large steps with the exact posterior of the forward process, for a network that was trained adversarially.

    The network predicts x̃0, and x_{t-k} is drawn from q(x_{t-k} | x_t, x̃0) (eq. 14-15), which Diffusers' DDPM step
    computes for any distance. At the last step the prediction is the result. Only the steps are SynDiff's:
    :func:`syndiff_rows`.
    """

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Spread the network calls over the schedule; with `timesteps` at those, as Diffusers' DDPM does."""
        if timesteps is None and num_inference_steps is not None:
            timesteps = syndiff_rows(self.alphas_cumprod, num_inference_steps)
        super().set_timesteps(device=device, timesteps=timesteps)


def posterior(alpha_t: float, alpha_before: float) -> tuple[float, float, float]:
    """q(x_{t-k} | x_t, x0) between two signal levels ᾱ: factors of x0 and x_t in its mean, and its standard deviation.

    SynDiff eq. 14-15 with the large step's ᾱ_t/ᾱ_{t-k} in place of 1 - β.
    """
    step = alpha_t / alpha_before
    of_x0 = math.sqrt(alpha_before) * (1 - step) / (1 - alpha_t)
    of_noisy = math.sqrt(step) * (1 - alpha_before) / (1 - alpha_t)
    return of_x0, of_noisy, math.sqrt((1 - alpha_before) / (1 - alpha_t) * (1 - step))
