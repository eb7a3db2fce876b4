"""Samplers by name: which Diffusers scheduler takes the steps, and where on the schedule it calls the network.

Every sampler here calls the network once a step. All but "ddpm" are deterministic: they follow one ordinary
differential equation from the first noise to the lesion, so that more steps of any of them end in the same lesion.
"""

from typing import Any

import numpy as np
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from diffusion.objective import is_flow
from diffusion.settings import SamplerName

DIFFUSION = {"timestep_spacing": "trailing", "thresholding": False}  # starts at the noisiest step that was trained
MULTISTEP = DIFFUSION | {"lower_order_final": True, "final_sigmas_type": "zero", "use_karras_sigmas": False}
DPM = MULTISTEP | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
DIFFUSION_SAMPLERS: dict[SamplerName, tuple[Any, dict[str, Any]]] = {
    # ancestral (Ho et al. 2020): new noise at every step, and so many steps
    "ddpm": (DDPMScheduler, DIFFUSION | {"clip_sample": False}),
    # DDIM (Song et al. 2021) is DPM-Solver++ of order 1 (Lu et al. 2022). Diffusers' DDIMScheduler steps by ⌊T/N⌋ where
    # timesteps are T/N apart: unless N divides T, noise is left over at every step.
    "ddim": (DPMSolverMultistepScheduler, DPM | {"solver_order": 1, "use_lu_lambdas": False}),
    "dpm-solver++": (DPMSolverMultistepScheduler, DPM | {"solver_order": 2, "use_lu_lambdas": False}),
    # the same with steps of equal log signal-to-noise ratio: more of them where fine texture is made
    "dpm-solver++-lu": (DPMSolverMultistepScheduler, DPM | {"solver_order": 2, "use_lu_lambdas": True}),
    "unipc": (UniPCMultistepScheduler, MULTISTEP | {"solver_order": 2, "solver_type": "bh2"}),
}
FLOW_SAMPLERS: dict[SamplerName, tuple[Any, dict[str, Any]]] = {"flow-euler": (FlowMatchEulerDiscreteScheduler, {})}


def fitting_samplers(scheduler: Any) -> dict[SamplerName, tuple[Any, dict[str, Any]]]:
    """The samplers of a pipeline's process, diffusion or rectified flow: name -> Diffusers class and its settings."""
    return FLOW_SAMPLERS if is_flow(scheduler) else DIFFUSION_SAMPLERS


def sampler_of(name: SamplerName, scheduler: Any) -> Any:
    """The scheduler that a name stands for, with the noise schedule and the target of a pipeline's own.

    Args:
        name: "default" is the pipeline's own scheduler.
        scheduler: The pipeline's, any Diffusers scheduler built from the training scheduler's config.
    Raises: ValueError: If the name is unknown or of the other process.
    """
    if name == "default":
        return scheduler
    fitting = fitting_samplers(scheduler)
    if name not in fitting:
        process = "a rectified flow" if is_flow(scheduler) else "a diffusion"
        raise ValueError(
            f'scheduler "{name}" does not fit this pipeline, which was trained on {process}; choose one of '
            f"{', '.join(('default', *fitting))}"
        )
    kind, settings = fitting[name]
    return kind.from_config(scheduler.config, **settings)


def usual_sampler(scheduler: Any) -> Any:
    """What a training leaves in its pipeline: the sampler that needs fewest calls (benchmarks/few_steps.md)."""
    return scheduler if is_flow(scheduler) else sampler_of("dpm-solver++", scheduler)


def set_steps(scheduler: Any, count: int, device: torch.device | str | None = None) -> None:
    """Spread `count` network calls over the schedule.

    Args:
        scheduler: Any Diffusers scheduler. A flow's calls are at σ = 1, (N-1)/N, ..., 1/N, as Diffusers' own flow
            pipelines have them; its scheduler alone would end with a call at σ = 1/T that changes next to nothing.
        count: Steps N.
        device: Of the timesteps.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / count, count).tolist(), device=device)
    else:
        scheduler.set_timesteps(count, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else a step is found by its timestep, and spacings in σ have equal ones
