"""Train paired generation: a network for the mask beside stage 2, so that mask and lesion are made together.

uv run scripts/train_pig.py --config configs/pig.yaml --data data/latents --initial runs/ldm/pipeline --out runs/pig
The same command continues an interrupted run. The pipeline is saved in <out>/pipeline (docs/methods/pig.md).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from diffusion.option_types import MaskKind, PairedParts, Target
from foundation.config import SHIPPED_PIPELINE, ExistingFolder, ModelSource, launch, read_arguments
from training.config import TrainingConfig


@dataclass(frozen=True)
class MaskUNetConfig:
    """The mask's network, a `SPADEUNet3D` without a semantic map.

    Attributes:
        channels: Width of each level.
        blocks_per_level: Residual blocks at each level of either half.
        attention: Whether the lowest level attends over all its voxels.
        attributes: What can be requested of a shape; zoom and elastic say how a training image was changed.
        scaled_input: As of the U-Net in `scripts/train_ldm.py`.
    """

    channels: tuple[int, ...] = (32, 64, 96)
    blocks_per_level: int = 1
    attention: bool = True
    attributes: tuple[str, ...] = ("diameter_mm", "lobulation", "spiculation", "sphericity", "texture", "malignancy")
    scaled_input: bool = False


@dataclass(frozen=True)
class PigConfig(TrainingConfig):
    """Paired generation.

    Attributes:
        initial: Pipeline of a trained stage 2: its U-Net becomes model_y, its autoencoder made the latents.
        mask_initial: Paired pipeline whose mask network is taken over, whatever image of masks it made; null starts
            from random weights.
        mask_model: The mask's network, model_x.
        mask: "distance", the signed distance to the border, or "coverage", the share of voxels inside.
        reach_mm: Where the distance is clipped.
        parts: "both" networks are trained, the "mask" network alone, or the "image" network alone and without any mask:
            the unconditional diffusion that PIG is compared with.
        fresh: Train model_y from random weights, as another noise schedule or target than that of `initial` needs.
        target: "epsilon", "v" or "x0", of both networks.
        noise_schedule: Diffusers' beta_schedule, of both diffusions.
        timesteps: Of the schedule.
        mask_rate: Peak learning rate of the mask's network.
        true_mask_share: Share of the samples in which model_y sees the true mask in place of the estimate.
        image_hidden: Share of the samples in which model_x does not see the image; it can then make masks alone.
        whole_share: Share of the samples whose whole crop is painted, so that pairs can be made from nothing.
        forget_all: Share of the samples for which the networks receive no attribute.
        background_weight: Weight of both losses outside the painted region.
        evaluate_crops: Held-out crops in which every evaluation makes a pair.
        evaluate_steps: Denoising steps of those.
    """

    initial: ModelSource = SHIPPED_PIPELINE
    mask_initial: ExistingFolder | None = None
    mask_model: MaskUNetConfig = field(default_factory=MaskUNetConfig)
    mask: MaskKind = "distance"
    reach_mm: float = 2.0
    parts: PairedParts = "both"
    fresh: bool = False
    target: Target = "v"
    noise_schedule: str = "squaredcos_cap_v2"
    timesteps: int = 1000
    mask_rate: float = 8e-4
    true_mask_share: float = 0.2
    image_hidden: float = 0.3
    whole_share: float = 0.15
    forget_all: float = 0.1
    background_weight: float = 0.2
    evaluate_crops: int = 6
    evaluate_steps: int = 16

    def __post_init__(self) -> None:
        for name in ("true_mask_share", "image_hidden", "whole_share", "forget_all"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected a share from 0 to 1")
        if not self.reach_mm > 0 or not self.mask_rate > 0:
            raise ValueError(f"reach_mm {self.reach_mm}, mask_rate {self.mask_rate}: expected numbers above 0")
        if self.target == "flow":
            raise ValueError('target "flow": paired generation takes "epsilon", "v" or "x0"')


ARGUMENTS = read_arguments(PigConfig, __name__)

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import default_collate

from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.latents import standardise
from diffusion import LesionInpaintPipeline, SPADEUNet3D
from diffusion.attributes import forgotten
from diffusion.conditioning import BLANK
from diffusion.mask_latents import mask_channels, mask_latent
from diffusion.paired import Pair, PairedDiffusion, mask_conditions, region_batch
from diffusion.process import alphas_of, training_scheduler
from diffusion.sampling.paired_pipeline import PairedLesionPipeline
from diffusion.sampling.samplers import check_fits, usual_sampler
from evaluation.reports.slices import save_slices
from imaging.window import to_norm
from training.data import LatentNodules
from training.draws import diffusion_draw, normal, uniform
from training.run import TrainingRun


def main(config: PigConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    initial = LesionInpaintPipeline.from_pretrained(config.initial)
    vae = initial.vae
    names = tuple(dict.fromkeys([*initial.unet.config["attributes"], *config.mask_model.attributes]))
    window = (vae.config["window_width"], vae.config["window_level"])
    latents = LatentNodules(config.data, "train", window=window, attributes=names)
    row = read_latent(latents.latents, 0)
    check_grid(row, initial, config.data)
    scheduler = training_scheduler(config.target, config.noise_schedule, config.timesteps)
    unet = image_unet(config, initial, scheduler)
    mask_unet = mask_unet_of(config, vae)
    for network in (unet, mask_unet):
        if network.input_scale is not None:
            network.input_scale.copy_(alphas_of(scheduler).sqrt())

    run = TrainingRun(config)
    model = PairedDiffusion(mask_unet, unet, names, config.background_weight, config.parts)
    run.prepare(model, {"mask_unet": config.mask_rate})
    vae.to(run.device).requires_grad_(False)
    empty = blank_latent(vae, row["ct_hu"].shape) if config.whole_share else None
    for batch in run.batches(latents):
        with run.accelerator.autocast():  # half of a step is the encoding of what is left of the CT
            inputs = drawn(config, batch, vae, names, empty, run.device)
        loss, losses = run.model(vae, scheduler, *inputs)
        run.update(loss, {f"{name}_loss": value.mean() for name, value in losses.items()} if run.log_due() else None)
        if run.evaluation_due():
            with run.averaged() as averaged:
                pipeline = pipeline_of(config, initial, averaged, scheduler)
                held_out = validation_loss(config, averaged, vae, scheduler, names)
                run.log(held_out | evaluate(pipeline, config, config.out / "samples" / f"step_{run.step:06d}.png"))
    if run.finished:
        run.save("pipeline", lambda averaged: pipeline_of(config, initial, averaged, scheduler))


def drawn(
    config: PigConfig,
    batch: dict[str, Tensor],
    vae,
    names: tuple[str, ...],
    empty: Tensor | None,
    device: torch.device,
) -> tuple[dict[str, Tensor], Pair, Pair, Tensor, Tensor, Tensor]:
    """What a step draws: batch with regions, clean pair, noise, times, where the true mask is shown, image hidden."""
    number = batch["draw"]
    image, image_noise, t = diffusion_draw(batch, config.timesteps, config.seed, device)
    mask = mask_latent(batch["lesion_mask"], vae.factor, config.mask, config.reach_mm, float(batch["spacing_mm"][0, 0]))
    mask_noise = normal(mask.shape[1:], config.seed, "mask noise", number, device)
    draws = uniform(7, config.seed, "region", number)
    with torch.no_grad():
        batch = region_batch(batch, vae, draws, config.whole_share if empty is not None else 0.0, empty)
    of_attributes = uniform(2 + len(names), config.seed, "attributes", number)
    batch["attributes"] = forgotten(batch["attributes"], of_attributes, config.forget_all, names)
    given = (draws[:, 5] < config.true_mask_share).to(device)
    hidden = (draws[:, 6] < config.image_hidden).to(device)
    return batch, Pair(mask, image), Pair(mask_noise, image_noise), t, given, hidden


def check_grid(row: dict, initial: LesionInpaintPipeline, path: Path) -> None:
    """Raise ValueError unless the encoded crops are on the pipeline's grid."""
    found = (row["ct_hu"].shape[0], row["latent_mean"].shape[0], [round(float(mm), 3) for mm in row["spacing_mm"]])
    expected = (
        initial.config["crop_size"],
        initial.vae.config["latent_channels"],
        3 * [round(initial.config["spacing_mm"], 3)],
    )
    if found != expected:
        raise ValueError(
            f"{path}: crop size, latent channels and spacing are {found}, those of the pipeline {expected}; encode the "
            "dataset with the pipeline's autoencoder and on its grid"
        )


def image_unet(config: PigConfig, initial: LesionInpaintPipeline, scheduler) -> SPADEUNet3D:
    """model_y: the U-Net of stage 2, or a fresh one. Raises ValueError where the trained one knows another schedule."""
    if config.fresh:
        return SPADEUNet3D.from_config({**initial.unet.config, "scaled_input": config.mask_model.scaled_input})
    try:
        check_fits(initial.scheduler, scheduler)
    except ValueError as error:
        raise ValueError(f"{error}; or pass --fresh true to train model_y from random weights") from error
    return initial.unet


def mask_unet_of(config: PigConfig, vae) -> SPADEUNet3D:
    """model_x, fresh or taken over. Raises ValueError where the one to take over differs from this config's."""
    channels = vae.config["latent_channels"]
    made = SPADEUNet3D(
        latent_channels=mask_channels(vae.factor),
        condition_channels=mask_conditions(channels),
        map_factor=vae.factor,
        map_channels=0,
        **asdict(config.mask_model),
    )
    if config.mask_initial is not None:
        trained = PairedLesionPipeline.from_pretrained(config.mask_initial)
        try:
            made.load_state_dict(trained.mask_unet.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{config.mask_initial}: its mask network differs from mask_model ({error})") from error
    return made


@torch.no_grad()
def blank_latent(vae, crop_shape: tuple[int, ...]) -> Tensor:
    """Standardised latent of a crop that is blanked altogether, (1, C, d, h, w)."""
    nothing = torch.full((1, 1, *crop_shape), BLANK, device=vae.device)
    return standardise(vae.encode(nothing).latent_dist.mode(), vae.config)


def pipeline_of(config: PigConfig, initial: LesionInpaintPipeline, model, scheduler) -> PairedLesionPipeline:
    """The paired pipeline on the grid of stage 2, with its population."""
    kept = {name: initial.config[name] for name in ("crop_size", "spacing_mm", "detailed_map")}
    return PairedLesionPipeline(
        initial.vae,
        model.mask_unet,
        model.unet,
        usual_sampler(scheduler),
        population=initial.population,
        mask=config.mask,
        reach_mm=config.reach_mm,
        has_mask=config.parts != "image",
        masks_alone=config.parts != "image" and config.image_hidden > 0,
        **kept,
    )


@torch.no_grad()
def validation_loss(config: PigConfig, model, vae, scheduler, names: tuple[str, ...]) -> dict[str, float]:
    """Both losses on held-out patients with the same draws at every evaluation."""
    window = (vae.config["window_width"], vae.config["window_level"])
    held_out = LatentNodules(config.data, "validation", window=window, attributes=names)
    losses: dict[str, list[Tensor]] = {}
    for start in range(0, len(held_out), config.batch_size):
        rows = [held_out[index, index] for index in range(start, min(start + config.batch_size, len(held_out)))]
        batch = {name: value.to(vae.device) for name, value in default_collate(rows).items()}
        for name, value in model(vae, scheduler, *drawn(config, batch, vae, names, None, vae.device))[1].items():
            losses.setdefault(f"validation_{name}_loss", []).append(value)
    return {name: float(torch.cat(values).mean()) for name, values in losses.items()}


def evaluate(pipeline: PairedLesionPipeline, config: PigConfig, picture: Path) -> dict[str, float]:
    """Pairs in held-out crops, asked for the diameter of the nodule that was there, and pairs from nothing."""
    pipeline.set_progress_bar_config(disable=True)
    held_out = load_latents(config.data, "validation")
    indices = np.linspace(0, len(held_out) - 1, min(config.evaluate_crops, len(held_out))).astype(int)
    rows = [read_latent(held_out, int(index)) for index in indices]
    columns = ("ct_hu", "valid_mask", "lesion_mask")
    ct_hu, valid, real_mask = (torch.from_numpy(np.stack([row[name] for row in rows]))[:, None] for name in columns)
    seeds = [torch.Generator().manual_seed(index) for index in range(len(rows))]
    centers = [np.argwhere(row["lesion_mask"]).mean(0).tolist() for row in rows]
    diameter_mm = [float(np.clip(row["diameter_mm"], *pipeline.diameters_mm)) for row in rows]
    request = {"diameter_mm": diameter_mm, "num_inference_steps": config.evaluate_steps, "generator": seeds}
    made = pipeline(ct_hu, center=centers, valid_mask=valid, **request)
    alone = pipeline.generate(2, num_inference_steps=config.evaluate_steps, generator=torch.Generator().manual_seed(0))
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    real, painted, free = (to_norm(image.float(), *window) for image in (ct_hu, made.ct, alone.ct))

    def shown(mask: Tensor) -> Tensor:
        return 2 * mask.float() - 1

    shown_rows = [*zip(real, shown(real_mask), painted, shown(made.lesion_mask), strict=True)]
    shown_rows += [(one, mask, one, mask) for one, mask in zip(free, shown(alone.lesion_mask), strict=True)]
    pictures = [tuple(volume[0] for volume in volumes) for volumes in shown_rows]
    save_slices(picture, pictures, ["real", "its mask", "made", "its mask"])
    if config.parts == "image":
        return {}
    voxels = made.lesion_mask.flatten(1).sum(1).float()
    return {"diameter_ratio": float((voxels / real_mask.flatten(1).sum(1)).pow(1 / 3).mean())}


if __name__ == "__main__":
    launch(main, ARGUMENTS)
