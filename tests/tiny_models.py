"""Tiny crops, models with weights that are not zero, an exact denoiser and a recording guide, shared by these tests."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from autoencoder.identity import IdentityAutoencoder
from diffusion.process import is_flow, target_of, training_scheduler
from diffusion.sampling.pipeline import LesionInpaintPipeline
from diffusion.unet import SPADEUNet3D

SHAPE = (2, 1, 4, 6, 8)  # of the crops below


def crops() -> tuple[Tensor, Tensor]:
    """CT, float32 HU with values beyond the window and off the integers, and two masks."""
    ct_hu = 1600 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) - 1200
    lesion_mask = torch.zeros(SHAPE, dtype=torch.uint8)
    lesion_mask[0, 0, 1:3, 1:5, 2:6] = 1
    lesion_mask[1, 0, :2, 2:6, 3:] = 1
    return ct_hu, lesion_mask


def uniform_crops(batch: int = 2) -> tuple[Tensor, Tensor]:
    """CT of -700 HU throughout, and a mask of 4 voxels along every axis."""
    lesion_mask = torch.zeros((batch, 1, 8, 8, 8), dtype=torch.uint8)
    lesion_mask[:, :, 2:6, 2:6, 2:6] = 1
    return torch.full(lesion_mask.shape, -700.0), lesion_mask


def seeds(*numbers: int) -> list[torch.Generator]:
    """A generator for each volume."""
    return [torch.Generator().manual_seed(number) for number in numbers]


def randomised(module: nn.Module, seed: int = 0) -> Any:
    """Replace all-zero parameters, with which a fresh network ignores its blocks."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def tiny_unet(**settings: Any) -> SPADEUNet3D:
    """Two levels and 2 + 12 channels in; a map twice as fine, unless `settings` say otherwise."""
    torch.manual_seed(0)
    defaults = {"latent_channels": 2, "condition_channels": 12, "map_factor": 2, "map_channels": 4, "channels": (4, 8)}
    return randomised(SPADEUNet3D(**{**defaults, "blocks_per_level": 1, **settings}))


def pixel_unet() -> SPADEUNet3D:
    return tiny_unet(latent_channels=1, condition_channels=4, map_factor=1)


def pixel_autoencoder() -> IdentityAutoencoder:
    return IdentityAutoencoder(latents_mean=[-0.2], latents_std=[0.5])


def pixel_pipeline(
    unet: Any = None, scheduler: Any = None, guide: Any = None, **settings: Any
) -> LesionInpaintPipeline:
    """Diffusion on the voxels themselves; nothing is painted around the lesion unless `settings` say so."""
    settings = {"paint_margin_mm": 0.0, **settings}
    scheduler = scheduler or training_scheduler("v")
    pipe = LesionInpaintPipeline(pixel_autoencoder(), unet or pixel_unet(), scheduler, guide, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Oracle(nn.Module):
    """A denoiser that knows the clean latent: its output is the exact target at whatever noise it is shown."""

    size_multiple, dtype, device = 2, torch.float32, torch.device("cpu")
    config = {"num_labels": 2, "attributes": ()}  # noqa: RUF012 - as a model has it

    def __init__(self, x0: Tensor, scheduler: Any) -> None:
        super().__init__()
        self.x0, self.scheduler = x0, scheduler if is_flow(scheduler) else DDPMScheduler.from_config(scheduler.config)

    def modulate(self, semantic_map: Tensor) -> list:
        return []

    def forward(self, sample: Tensor, timestep: Tensor, modulation: list, attributes: None = None) -> SimpleNamespace:
        noisy = sample[:, : self.x0.shape[1]].double()
        if is_flow(self.scheduler):
            sigma = (timestep / 1000).double()
            return SimpleNamespace(sample=((noisy - self.x0) / sigma).float())
        t = timestep.long().expand(len(sample))
        alpha_bar = self.scheduler.alphas_cumprod[t].double().view(-1, 1, 1, 1, 1)
        noise = (noisy - alpha_bar.sqrt() * self.x0) / (1 - alpha_bar).sqrt()
        return SimpleNamespace(sample=target_of(self.scheduler, self.x0.double(), noise, t).float())


class RecordingGuide:
    """Pulls everything up by `strength`, and notes what it was requested."""

    attributes = ("malignancy",)

    def __init__(self, strength: float = 0.0) -> None:
        self.strength, self.planned, self.requested = strength, [], []

    def plan(self, attributes: Any, lesion_mask: Tensor, vae: Any, guidance_scale: Any, guidance_range: Any) -> Any:
        self.planned.append((attributes, lesion_mask, guidance_scale, guidance_range))
        return SimpleNamespace(covers=lambda share: True, scale=guidance_scale)

    def gradient(self, noisy_latent: Tensor, timestep: Tensor, noise_level: Tensor, plan: Any, vae: Any) -> Tensor:
        self.requested.append((noisy_latent.clone(), timestep, float(noise_level)))
        return torch.full_like(noisy_latent, self.strength * plan.scale)
