"""Samplers by name: which Diffusers scheduler takes the steps, and where on the schedule it calls the network.

Every sampler here calls the network once a step. All but "ddpm" are deterministic: they follow one ordinary
differential equation from the first noise to the lesion, so that more steps of any of them end in the same lesion.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from diffusion.option_types import SamplerName
from diffusion.process import alphas_of, is_flow
from diffusion.syndiff_scheduler import SynDiffScheduler

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
    "syndiff": (SynDiffScheduler, DIFFUSION | {"clip_sample": False}),  # for a network trained by adversarial diffusion
    "unipc": (UniPCMultistepScheduler, MULTISTEP | {"solver_order": 2, "solver_type": "bh2"}),
}
FLOW_SAMPLERS: dict[SamplerName, tuple[Any, dict[str, Any]]] = {"flow-euler": (FlowMatchEulerDiscreteScheduler, {})}
# Diffusers' classes that end at the lesion which the training's own steps lead to. Heun's second call of a step and the
# interpolated times of others are at no noise level that the network has seen under that time.
DIFFUSION_CLASSES = (
    DDPMScheduler,
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    SynDiffScheduler,
    UniPCMultistepScheduler,
)
FLOW_CLASSES = (FlowMatchEulerDiscreteScheduler,)
CHANGES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "thresholding", "clip_sample")


def check_fits(scheduler: Any, trained: Any) -> None:
    """Refuse a scheduler that would take other steps than those the network has learnt, and end in another lesion.

    Args:
        scheduler: That is to be used, any Diffusers scheduler.
        trained: That of the training, or one that was built from its config.
    Raises: ValueError: If it is of another class than those that fit the process, its timesteps are no whole steps of
        the training, or its schedule or prediction is another than the training's.
    """
    flow = is_flow(trained)
    fitting = FLOW_CLASSES if flow else DIFFUSION_CLASSES
    name, config = type(scheduler).__name__, scheduler.config
    if not isinstance(scheduler, fitting):
        fault = "takes steps that this network was not trained for"
    elif is_flow(scheduler) != flow:
        fault = f"is of a {'diffusion' if flow else 'rectified flow'}, the training of the other process"
    elif config["num_train_timesteps"] != trained.config["num_train_timesteps"]:
        fault = f"has {config['num_train_timesteps']} timesteps, the training {trained.config['num_train_timesteps']}"
    elif not flow and config["prediction_type"] != trained.config["prediction_type"]:
        fault = f"reads {config['prediction_type']}, the network predicts {trained.config['prediction_type']}"
    elif not flow and not _same_schedule(scheduler, trained):
        fault = "has another noise schedule than the training"
    elif changed := [key for key in CHANGES if config.get(key) and not trained.config.get(key)]:
        fault = f"has {changed[0]}, so that its timesteps are not the training's or x0 is clipped"
    else:
        return
    raise ValueError(
        f"scheduler {name} does not fit this pipeline: it {fault}; take one of "
        f"{', '.join(kind.__name__ for kind in fitting)} made by from_config(pipeline.scheduler.config)"
    )


def saved_scheduler(folder: Path) -> Any:
    """The scheduler that lies in a pipeline's folder, whatever was loaded in its place.

    Raises: ValueError: If it is of no class that fits.
    """
    name = FlowMatchEulerDiscreteScheduler.load_config(folder, subfolder="scheduler").get("_class_name")
    known = {kind.__name__: kind for kind in (*DIFFUSION_CLASSES, *FLOW_CLASSES)}
    if name not in known:
        raise ValueError(f"{folder}/scheduler: of class {name}, expected one of {', '.join(known)}")
    return known[name].from_pretrained(folder, subfolder="scheduler")


def _same_schedule(scheduler: Any, trained: Any) -> bool:
    """Whether ᾱ of each row is the same; a last row of no signal is stored by some as one of next to none."""
    return torch.allclose(alphas_of(scheduler), alphas_of(trained), rtol=1e-3, atol=1e-6)


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
    """What a training leaves in its pipeline: the sampler that needs fewest calls (benchmarks/choices/few_steps.md)."""
    return scheduler if is_flow(scheduler) else sampler_of("dpm-solver++", scheduler)


def check_steps(scheduler: Any, count: int) -> None:
    """Raise ValueError for more steps than the training's timesteps: some would be called twice."""
    most = scheduler.config["num_train_timesteps"]
    if count > most:
        raise ValueError(
            f"num_inference_steps {count}, expected at most {most}, the timesteps of the training; pass --steps 16, "
            "or 250 for the most accurate result"
        )


def set_steps(scheduler: Any, count: int, device: torch.device | str | None = None) -> None:
    """Spread `count` network calls over the schedule.

    Args:
        scheduler: Any Diffusers scheduler. A flow's calls are at σ = 1, (N-1)/N, ..., 1/N, as Diffusers' own flow
            pipelines have them; its scheduler alone would end with a call at σ = 1/T that changes next to nothing.
        count: Steps N.
        device: Of the timesteps.
    Raises: ValueError: As :func:`check_steps`.
    """
    check_steps(scheduler, count)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / count, count).tolist(), device=device)
    else:
        scheduler.set_timesteps(count, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else a step is found by its timestep, and spacings in σ have equal ones
