"""Train stage 2, the latent diffusion model, and save it with the autoencoder as a pipeline.

accelerate launch scripts/train_ldm.py --config configs/ldm.yaml --data data/latents --vae runs/vae/model --out runs/ldm
The same command continues an interrupted run. The pipeline is saved in <out>/pipeline.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.nn import functional as F

from autoencoder import AutoencoderKL3D
from autoencoder.latent_dataset import load_latents, read_latent
from diffusion import LesionInpaintPipeline, SPADEUNet3D
from diffusion.conditioning import lesion_neighbourhood, unet_input
from diffusion.objective import diffusion_loss, target_of, training_scheduler
from evaluation.image_quality import mse
from evaluation.pictures import save_slices
from imaging.window import to_norm
from training.checkpoint import write_atomically
from training.config import launch
from training.data import LatentNodules, drawn_latent
from training.draws import normal, timesteps
from training.run import TrainingConfig, TrainingRun


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
class LdmConfig(TrainingConfig):
    """Stage 2.

    Attributes:
        vae: Folder of the autoencoder whose latents these are.
        model: The U-Net.
        target: "epsilon", "v" or "x0".
        noise_schedule: Diffusers' beta_schedule.
        background_weight: Weight of the loss away from the lesion; its own neighbourhood counts 1.
        evaluate_crops: Held-out lesions that every evaluation inpaints.
        evaluate_steps: Denoising steps of those.
    """

    vae: Path = Path("runs/vae/model")
    model: UNetConfig = field(default_factory=UNetConfig)
    target: str = "v"
    noise_schedule: str = "squaredcos_cap_v2"
    background_weight: float = 0.2
    evaluate_crops: int = 6
    evaluate_steps: int = 25


def main(config: LdmConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    latents = LatentNodules(config.data, "train")
    vae = AutoencoderKL3D.from_pretrained(config.vae).eval()
    row = read_latent(latents.latents, 0)
    unet = SPADEUNet3D(
        latent_channels=row["latent_mean"].shape[0],
        condition_channels=row["blanked_latent"].shape[0] + 1,
        map_factor=vae.factor,
        **asdict(config.model),
    )
    scheduler = training_scheduler(config.target, config.noise_schedule)

    run = TrainingRun(config)
    run.prepare(unet)
    vae.to(run.device)
    for batch in run.batches(latents):
        shape, draws = batch["latent_mean"].shape[1:], batch["draw"]
        x0 = drawn_latent(batch, normal(shape, config.seed, "posterior", draws, run.device))
        noise = normal(shape, config.seed, "noise", draws, run.device)
        t = timesteps(len(scheduler.alphas_cumprod), config.seed, draws, run.device)
        noisy = scheduler.add_noise(x0, noise, t)
        sample = unet_input(noisy, batch["blanked_latent"], batch["lesion_mask"], vae.factor)
        output = run.model(sample, t, batch["lesion_mask"], batch["spacing_mm"]).sample
        weight = loss_weight(batch["lesion_mask"], batch["valid_mask"], vae.factor, config.background_weight)
        per_sample = diffusion_loss(output, target_of(scheduler, x0, noise, t), weight)
        run.update(per_sample.mean(), halves(per_sample, t, len(scheduler.alphas_cumprod)))

        if run.evaluation_due():
            with run.averaged() as averaged:
                pipeline = pipeline_of(vae, averaged, scheduler, row)
                picture = config.out / "samples" / f"step_{run.step:06d}.png"
                run.log(evaluate(pipeline, config, picture))
    if run.finished:
        save_pipeline(run, vae, unet, scheduler, row)


def loss_weight(lesion_mask: Tensor, valid_mask: Tensor, factor: int, background_weight: float) -> Tensor:
    """Weight of each latent cell, (B, 1, d, h, w): 1 around the lesion, less elsewhere, 0 where a cell has padding."""
    near = lesion_neighbourhood(lesion_mask, factor)
    valid = (F.avg_pool3d(valid_mask.float(), factor) == 1).float()
    return (background_weight + (1 - background_weight) * near) * valid


def halves(per_sample: Tensor, t: Tensor, count: int) -> dict[str, Tensor]:
    """Mean loss of the noisier and of the cleaner half of the timesteps, each where the batch has one."""
    parts = {"loss_noisy_half": per_sample[t >= count // 2], "loss_clean_half": per_sample[t < count // 2]}
    return {name: values.detach().mean() for name, values in parts.items() if len(values)}


def pipeline_of(vae, unet, scheduler, row: dict) -> LesionInpaintPipeline:
    """The pipeline on the grid of the encoded dataset."""
    size, spacing_mm = row["ct_hu"].shape[0], float(np.mean(row["spacing_mm"]))
    return LesionInpaintPipeline(vae, unet, scheduler, crop_size=size, spacing_mm=spacing_mm)


def evaluate(pipeline: LesionInpaintPipeline, config: LdmConfig, picture: Path) -> dict[str, float]:
    """Inpaint held-out lesions from a fixed seed: error inside the masks, and a picture beside the real ones."""
    held_out = load_latents(config.data, "test")
    rows = [read_latent(held_out, index) for index in range(min(config.evaluate_crops, len(held_out)))]
    ct_hu = torch.from_numpy(np.stack([row["ct_hu"] for row in rows]))[:, None]
    lesion_mask = torch.from_numpy(np.stack([row["lesion_mask"] for row in rows]))[:, None]
    generators = [torch.Generator().manual_seed(index) for index in range(len(rows))]
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(ct_hu, lesion_mask, num_inference_steps=config.evaluate_steps, generator=generators).ct
    real, painted = to_norm(ct_hu.float()), to_norm(result.float())
    blanked = torch.where(lesion_mask > 0, -1.0, real)
    columns = zip(real[:, 0], blanked[:, 0], painted[:, 0], (painted - real)[:, 0], strict=True)
    save_slices(picture, list(columns), ["real", "given", "inpainted", "difference"])
    hu_bias = ((result - ct_hu).float() * lesion_mask).sum() / lesion_mask.sum()
    return {"lesion_mse": float(mse(painted, real, lesion_mask).mean()), "lesion_hu_bias": float(hu_bias)}


def save_pipeline(run: TrainingRun, vae, unet, scheduler, row: dict) -> None:
    """Save autoencoder, averaged U-Net and scheduler as one pipeline folder."""
    folder = run.config.out / "pipeline"
    if run.accelerator.is_main_process:
        with run.averaged() as averaged:
            pipeline = pipeline_of(vae, averaged, scheduler, row)
            write_atomically(folder, lambda temporary: pipeline.save_pretrained(temporary))
        print(f"pipeline: {folder}")
    run.accelerator.wait_for_everyone()


if __name__ == "__main__":
    launch(main, LdmConfig)
