"""Draw the loss weights of every time policy over t, beside the noise schedule.

    uv run scripts/plot_time_weights.py --out time_weights.png --gate 0.3 --gamma 5

The learned policies are drawn with example parameters, which their titles give: FiLM with an untrained network whose
last layer is set to a constant gamma and beta, uncertainty with two example variances.
"""

from dataclasses import dataclass
from pathlib import Path

from diffusion.option_types import Target
from foundation.config import OutputFile, launch, read_arguments


@dataclass(frozen=True)
class Config:
    """What to draw.

    Attributes:
        out: Picture to write (png, pdf or svg).
        schedule: Diffusers' beta_schedule.
        steps: Number of timesteps T.
        target: What the model predicts (epsilon, v or x0); min-SNR's structure weight depends on it.
        gate: Share of the steps, from the clean end, in which the constant policy computes texture losses.
        gamma: Where min-SNR cuts the SNR.
        film: Constant gamma and beta of the FiLM example.
        variances: Variances of the structure and the texture loss in the uncertainty example.
        erosion: Voxels that the step-aware mask removes from a ball of 10 voxels.
    """

    out: OutputFile = Path("time_weights.png")
    schedule: str = "squaredcos_cap_v2"
    steps: int = 1000
    target: Target = "v"
    gate: float = 0.3
    gamma: float = 5.0
    film: tuple[float, float] = (-10.0, 3.0)
    variances: tuple[float, float] = (0.25, 1.0)
    erosion: int = 1


ARGUMENTS = read_arguments(Config, __name__)

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusion.losses.time_weights import (
    TIME_POLICIES,
    ConstantWeights,
    FilmWeights,
    MinSnrWeights,
    StepAwareMask,
    UncertaintyWeights,
    signal_to_noise,
    weights_over_time,
)
from diffusion.process import TARGETS, training_scheduler


def main(config: Config) -> None:
    """Draw and write."""
    config.out.parent.mkdir(parents=True, exist_ok=True)
    figure_of(config).savefig(config.out, dpi=120)
    print(f"wrote {config.out}")


def figure_of(config: Config) -> Figure:
    """The schedule and a panel for each policy."""
    scheduler = training_scheduler(config.target, config.schedule, config.steps)
    alphas_cumprod = scheduler.alphas_cumprod
    figure = Figure(figsize=(16, 7), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True)
    draw_schedule(axes.flat[0], alphas_cumprod, config)
    axes.flat[-1].set_axis_off()
    for axis, name in zip(axes.flat[1:-1], TIME_POLICIES, strict=True):
        policy, title = example_policy(name, config)
        for loss, weight in weights_over_time(policy, alphas_cumprod).items():
            axis.plot(weight, label=f"w {loss}", linestyle="-" if loss == "structure" else "--")
        if isinstance(policy, StepAwareMask):
            axis.plot(share_of_ball(policy, alphas_cumprod), label="share of the mask supervised", linestyle=":")
        axis.set(title=title, ylim=(-0.05, None))
        axis.legend(fontsize="small")
    for axis in axes[1]:
        axis.set_xlabel("t  (0 = clean)")
    return figure


def example_policy(name: str, config: Config) -> tuple[torch.nn.Module, str]:
    """A policy by its name, and the title of its panel."""
    if name == "constant":
        return ConstantWeights(gate=config.gate), f"constant, gate at {config.gate:g} T"
    if name == "min_snr":
        kind = TARGETS[config.target]
        return MinSnrWeights(gamma=config.gamma, prediction_type=kind), f"min-SNR, γ = {config.gamma:g}, {kind}"
    if name == "film":
        policy = FilmWeights()
        with torch.no_grad():
            policy.g[2].bias.copy_(torch.tensor(config.film))
        return policy, "FiLM (eq. 3–4), γ = {:g}, β = {:g}".format(*config.film)
    if name == "uncertainty":
        uncertain = UncertaintyWeights()
        with torch.no_grad():
            uncertain.log_variance.copy_(torch.tensor(config.variances).log())
        return uncertain, "uncertainty (eq. 5), σ² = {:g} and {:g}".format(*config.variances)
    if name == "step_aware":
        return StepAwareMask(erosion=config.erosion), f"step-aware mask, erosion {config.erosion}"
    return TIME_POLICIES[name](), {"snr": "SNR (eq. 1–2)"}[name]


def draw_schedule(axis: Axes, alphas_cumprod: torch.Tensor, config: Config) -> None:
    """The schedule itself: ᾱ, and log10 SNR on a second scale."""
    axis.plot(alphas_cumprod, color="black")
    axis.set(title=f"schedule {config.schedule}", ylabel="ᾱ (black)")
    snr = signal_to_noise(torch.arange(len(alphas_cumprod)), alphas_cumprod, 1e-8)
    twin = axis.twinx()
    twin.plot(snr.clamp(min=1e-8).log10(), color="tab:red")
    twin.set_ylabel("log10 SNR (red)")


def share_of_ball(policy: StepAwareMask, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Share of a ball's voxels (10 across) that the structure loss sees at each t, (T,)."""
    steps = torch.arange(12) - 5.5
    ball = (steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2 <= 25).float()[None, None]
    timesteps = torch.arange(len(alphas_cumprod))
    at_ends = policy.supervised_mask(ball.expand(2, -1, -1, -1, -1), timesteps[[0, -1]], alphas_cumprod)
    clean, noisy = at_ends.flatten(1).sum(1) / ball.sum()
    return torch.where(timesteps < len(alphas_cumprod) / 2, clean, noisy)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
