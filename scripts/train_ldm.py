"""Train stage 2, the latent diffusion model, and save it with the autoencoder as a pipeline.

uv run scripts/train_ldm.py --config configs/ldm.yaml --data data/latents --vae runs/vae/model --out runs/ldm
The same command continues an interrupted run. The pipeline is saved in <out>/pipeline.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoencoder.losses.settings import PlaneReduction
from diffusion.settings import Balance, Target, TimePolicy
from foundation.config import ExistingFolder, ModelSource, launch, read_arguments
from training.config import TrainingConfig


@dataclass(frozen=True)
class UNetConfig:
    """Arguments of `SPADEUNet3D` that are free to choose; the others follow from the autoencoder.

    Attributes:
        channels: Width of each level.
        blocks_per_level: Residual blocks at each level of either half.
        map_channels: Width of the embedded semantic map.
        attention: Whether the lowest level attends over all its voxels.
    """

    channels: tuple[int, ...] = (64, 128, 192)
    blocks_per_level: int = 2
    map_channels: int = 32
    attention: bool = True


@dataclass(frozen=True)
class TextureConfig:
    """Texture losses on the decoded lesion in the late steps; a weight of 0 leaves a loss out.

    Attributes:
        gabor: Weight of the Gabor loss (eq. 6).
        cooccurrence: Weight of the co-occurrence loss (eq. 7-9).
        wavelet: Weight of the wavelet loss (eq. 10-11).
        dog: Weight of the difference-of-Gaussians loss.
        gate: They are computed for t < gate * T; 1 computes them at every t.
        time_policy: How the losses' weights change over t; see `diffusion.time_weights`.
        balance: "none", "norm", "project" or "norm_project"; see `diffusion.gradient_balance`.
        plane_reduction: How the Gabor loss joins its three planes: "mean", "max" or "softmax".
    """

    gabor: float = 0.0
    cooccurrence: float = 0.0
    wavelet: float = 0.0
    dog: float = 0.0
    gate: float = 0.3
    time_policy: TimePolicy = "constant"
    balance: Balance = "none"
    plane_reduction: PlaneReduction = "mean"


@dataclass(frozen=True)
class LdmConfig(TrainingConfig):
    """Stage 2.

    Attributes:
        vae: Folder or repository of the autoencoder whose latents these are.
        model: The U-Net.
        initial: Pipeline folder whose U-Net's weights training starts from; none starts at random.
        target: "epsilon", "v" or "x0".
        noise_schedule: Diffusers' beta_schedule.
        texture: Texture losses.
        background_weight: Weight of the loss away from the lesion; its own neighbourhood counts 1.
        evaluate_crops: Held-out lesions that every evaluation inpaints.
        evaluate_steps: Denoising steps of those.
    """

    vae: ModelSource = "runs/vae/model"
    model: UNetConfig = field(default_factory=UNetConfig)
    initial: ExistingFolder | None = None
    target: Target = "v"
    noise_schedule: str = "squaredcos_cap_v2"
    texture: TextureConfig = field(default_factory=TextureConfig)
    background_weight: float = 0.2
    evaluate_crops: int = 6
    evaluate_steps: int = 25


ARGUMENTS = read_arguments(LdmConfig, __name__)

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset
from torch import Tensor

from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.loading import load_autoencoder
from autoencoder.losses.cooccurrence import cooccurrence_loss
from autoencoder.losses.dog import dog_loss
from autoencoder.losses.gabor import GaborBank, gabor_loss
from autoencoder.losses.wavelet import wavelet_texture_loss
from diffusion import LesionInpaintPipeline, SPADEUNet3D
from diffusion.objective import TARGETS, training_scheduler
from diffusion.stage_two import StageTwo, TextureLoss
from diffusion.time_weights import TIME_POLICIES, weights_over_time
from evaluation.image_quality import mse
from evaluation.reports.slices import save_slices
from imaging.dataset.nodules import spacing_mm_of
from imaging.window import to_norm
from training.data import LatentNodules
from training.draws import diffusion_draw
from training.run import TrainingRun


def main(config: LdmConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    vae = load_autoencoder(config.vae)
    window = (vae.config["window_width"], vae.config["window_level"])
    latents = LatentNodules(config.data, "train", window=window)
    check_spacing(latents.latents, config.data)
    row = read_latent(latents.latents, 0)
    unet = SPADEUNet3D(
        latent_channels=row["latent_mean"].shape[0],
        condition_channels=row["blanked_latent"].shape[0] + 1,
        map_factor=vae.factor,
        **asdict(config.model),
    )
    if config.initial is not None:
        load_initial(unet, config.initial)
    scheduler = training_scheduler(config.target, config.noise_schedule)

    run = TrainingRun(config)
    run.prepare(stage_two_of(unet, config))
    vae.to(run.device).requires_grad_(False)
    for batch in run.batches(latents):
        x0, noise, t = diffusion_draw(batch, len(scheduler.alphas_cumprod), config.seed, run.device)
        logging = run.log_due()
        loss, losses, gradients = run.model(vae, scheduler, batch, x0, noise, t, statistics=logging)
        run.update(loss, logged(run, losses, t, scheduler) | gradients if logging else None)

        if run.evaluation_due():
            with run.averaged() as averaged:
                pipeline = pipeline_of(vae, averaged.unet, scheduler, row)
                picture = config.out / "samples" / f"step_{run.step:06d}.png"
                run.log(evaluate(pipeline, config, picture))
    if run.finished:
        run.save("pipeline", lambda averaged: pipeline_of(vae, averaged.unet, scheduler, row))


def check_spacing(latents: Dataset, path: Path) -> None:
    """Raise ValueError unless all crops have one isotropic spacing: the model learns textures in voxels."""
    spacing_mm = spacing_mm_of(latents)
    if spacing_mm is None or max(spacing_mm) > 1.001 * min(spacing_mm):
        found = "differs between its crops" if spacing_mm is None else f"is {spacing_mm} mm (z, y, x)"
        raise ValueError(
            f"{path}: spacing {found}, expected one isotropic spacing; prepare the nodules again with --spacing-mm 1"
        )


def load_initial(unet: SPADEUNet3D, folder: Path) -> None:
    """Take over the U-Net of a saved pipeline. Raises ValueError where the architectures differ."""
    trained = LesionInpaintPipeline.from_pretrained(folder).unet
    try:
        unet.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise ValueError(f"{folder}: its U-Net differs from this config's model ({error})") from error


def stage_two_of(unet: SPADEUNet3D, config: LdmConfig) -> StageTwo:
    """The U-Net with its losses: the one place where a texture loss is named."""
    settings = config.texture
    bank = GaborBank()
    losses: dict[str, TextureLoss] = {
        "gabor": lambda x, y, mask, spacing: gabor_loss(
            x, y, mask, bank, settings.plane_reduction, spacing_mm=spacing, reduction="none"
        ),
        "cooccurrence": lambda x, y, mask, spacing: cooccurrence_loss(x, y, mask, reduction="none"),
        "wavelet": lambda x, y, mask, spacing: wavelet_texture_loss(x, y, mask, reduction="none"),
        "dog": lambda x, y, mask, spacing: dog_loss(x, y, mask, spacing_mm=spacing, reduction="none"),
    }
    weights = {name: getattr(settings, name) for name in losses if getattr(settings, name) > 0}
    options: dict[str, Any] = {"gate": settings.gate, "background_weight": config.background_weight}
    if settings.time_policy == "min_snr":
        options["prediction_type"] = TARGETS[config.target]
    policy = TIME_POLICIES[settings.time_policy](tuple(weights), **options)
    texture = {name: losses[name] for name in weights}
    learned = [bank] if "gabor" in weights else []
    return StageTwo(unet, policy, texture, weights, learned, settings.balance)


def logged(run: TrainingRun, losses: dict[str, Tensor], t: Tensor, scheduler) -> dict[str, Tensor]:
    """Mean structure loss of the noisier and the cleaner half of t, mean texture losses where on, learned weights."""
    structure, count = losses["structure"], len(scheduler.alphas_cumprod)
    parts = {"structure_noisy_half": structure[t >= count // 2], "structure_clean_half": structure[t < count // 2]}
    parts |= {name: loss[loss > 0] for name, loss in losses.items() if name != "structure"}
    values = {name: part.mean() for name, part in parts.items() if len(part)}
    policy = run.accelerator.unwrap_model(run.model).policy
    if any(True for _ in policy.parameters()):
        over_time = weights_over_time(policy, scheduler.alphas_cumprod, points=3)
        values |= {f"weight_{name}/{i}": w for name, ws in over_time.items() for i, w in enumerate(ws)}
    return values


def pipeline_of(vae, unet, scheduler, row: dict) -> LesionInpaintPipeline:
    """The pipeline on the grid of the encoded dataset."""
    size, spacing_mm = row["ct_hu"].shape[0], float(row["spacing_mm"][0])
    return LesionInpaintPipeline(vae, unet, scheduler, crop_size=size, spacing_mm=spacing_mm)


def evaluate(pipeline: LesionInpaintPipeline, config: LdmConfig, picture: Path) -> dict[str, float]:
    """Inpaint held-out lesions from a fixed seed: error inside the masks, and a picture beside the real ones."""
    held_out = load_latents(config.data, "validation")
    rows = [read_latent(held_out, index) for index in range(min(config.evaluate_crops, len(held_out)))]
    ct_hu = torch.from_numpy(np.stack([row["ct_hu"] for row in rows]))[:, None]
    lesion_mask = torch.from_numpy(np.stack([row["lesion_mask"] for row in rows]))[:, None]
    generators = [torch.Generator().manual_seed(index) for index in range(len(rows))]
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(ct_hu, lesion_mask, num_inference_steps=config.evaluate_steps, generator=generators).ct
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    real, painted = to_norm(ct_hu.float(), *window), to_norm(result.float(), *window)
    blanked = torch.where(lesion_mask > 0, -1.0, real)
    columns = zip(real[:, 0], blanked[:, 0], painted[:, 0], (painted - real)[:, 0], strict=True)
    save_slices(picture, list(columns), ["real", "given", "inpainted", "difference"])
    hu_bias = ((result - ct_hu).float() * lesion_mask).sum() / lesion_mask.sum()
    return {"lesion_mse": float(mse(painted, real, lesion_mask).mean()), "lesion_hu_bias": float(hu_bias)}


if __name__ == "__main__":
    launch(main, ARGUMENTS)
