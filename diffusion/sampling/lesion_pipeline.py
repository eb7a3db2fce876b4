"""What the pipelines that paint lesions share: how they are loaded, and the noise that what they paint gets."""

import json
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from autoencoder.pretrained import resolve_folder
from diffusion.sampling.components import import_component_modules
from diffusion.sampling.samplers import saved_scheduler
from imaging.noise import noise_like

PIPELINES = ("LesionInpaintPipeline", "PairedLesionPipeline")


class LesionPipeline(DiffusionPipeline):
    """A pipeline with an autoencoder `vae` and a `scheduler` that others of its process can replace."""

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load from a folder or from the Hugging Face Hub (snapshot first, then the folder; no code is executed).

        Args:
            repo_or_folder: What `save_pretrained` or `push_to_hub` wrote.
            revision: Branch, tag or commit of the repository.
            token, cache_dir, local_files_only, force_download: As `huggingface_hub.snapshot_download`.
            kwargs: Passed on to Diffusers, for example `torch_dtype` or a component to replace; `vae` may be any
                autoencoder, also a `RemoteAutoencoder(url)`.
        Raises: ValueError, OSError: As `autoencoder.pretrained.resolve_folder` says; or if another pipeline is there.
        """
        folder = resolve_folder(
            repo_or_folder,
            revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        import_component_modules(folder)
        found = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
        if found != cls.__name__ and found in PIPELINES:
            raise ValueError(f"{folder}: holds a {found}, expected a {cls.__name__}; pass the folder of one")
        if "custom_pipeline" in kwargs or kwargs.get("trust_remote_code"):
            raise ValueError("custom_pipeline and trust_remote_code would run code from the folder; leave them out")
        vae = kwargs.pop("vae", None)
        without = {} if vae is None else {"vae": None}  # Diffusers takes no component whose class it did not save
        pipeline = super().from_pretrained(folder, use_safetensors=True, local_files_only=True, **without, **kwargs)
        if vae is not None:
            pipeline.register_modules(vae=vae)
        if "scheduler" in kwargs:
            pipeline._trained_scheduler = saved_scheduler(folder)
        return pipeline

    def _noise(self, ct_norm: Tensor, known: Tensor, white: Tensor) -> Tensor:
        """Noise like what the autoencoder leaves of the CT where it is known, HU, (B, 1, D, H, W)."""
        latent = self.vae.encode(ct_norm).latent_dist.mode()
        residual = (ct_norm.clamp(-1, 1) - self.vae.decode(latent).sample).float()
        residual_hu = residual.cpu().numpy() * self.vae.config["window_width"] / 2
        volumes = zip(residual_hu[:, 0], known[:, 0].cpu().numpy(), white[:, 0].cpu().numpy(), strict=True)
        return torch.from_numpy(np.stack([noise_like(*volume) for volume in volumes])[:, None]).to(white)
