"""Train stage 2, the latent diffusion model, and save it with the autoencoder as a pipeline.

uv run scripts/train_ldm.py --config configs/ldm.yaml --data data/latents --vae runs/vae/model --out runs/ldm
The same command continues an interrupted run. The pipeline is saved in <out>/pipeline.
"""

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from diffusion.option_types import AdversarialConfig, Target, TextureConfig
from foundation.config import ExistingFolder, ModelSource, launch, read_arguments
from training.config import TrainingConfig


@dataclass(frozen=True)
class UNetConfig:
    """Arguments of `SPADEUNet3D` that are free to choose; the others follow from the autoencoder.

    Attributes:
        channels: Width of each level.
        blocks_per_level: Residual blocks at each level of either half.
        num_labels: Labels that SPADE knows: 2, background and lesion, or 8, those of `imaging.semantic_map`.
        map_channels: Width of the embedded map; 0 replaces SPADE by plain normalisation, and only the concatenated
            masks say where the lesion is.
        attention: Whether the lowest level attends over all its voxels.
        attributes: What can be requested: ratings (malignancy, lobulation, spiculation, texture) and measured values
            (diameter_mm, mean_hu, p10_hu, p50_hu, p90_hu). Also zoom, density_shift, sharpness and elastic: how a
            training image was changed; these cannot be requested.
        scaled_input: Whether the noisy latent is multiplied by the signal level √ᾱ before the first convolution, so
            that at the noisiest steps no noise reaches the prediction.
    """

    channels: tuple[int, ...] = (64, 128, 192)
    blocks_per_level: int = 2
    num_labels: Literal[2, 8] = 2
    map_channels: int = 32
    attention: bool = True
    attributes: tuple[str, ...] = ()
    scaled_input: bool = False


@dataclass(frozen=True)
class LdmConfig(TrainingConfig):
    """Stage 2.

    Attributes:
        vae: Folder or repository of the autoencoder whose latents these are.
        model: The U-Net.
        initial: Pipeline folder from whose U-Net the training starts; null starts from random weights.
        objective: "diffusion"; "adversarial", which teaches the trained U-Net of `initial` to take few large steps; or
            "gan", a baseline: the U-Net is a one-step generator trained against a discriminator; needs target "x0", and
            samples in one step.
        adversarial: Steps and losses of that objective.
        target: "epsilon", "v", "x0" or "flow" (rectified flow).
        noise_schedule: Diffusers' beta_schedule; a flow has none.
        zero_terminal_snr: Whether the noisiest step is noise alone.
        whole_share: Share of the samples whose whole crop is painted, with the encoded semantic map in the place of
            the CT, so that the pipeline can also make crops from their map alone; needs model.num_labels 8. With 1 it
            learns nothing else.
        density: Extra weight of the structure loss's error along the latent direction that changes density.
        decoded: Extra weight of the structure loss's error as the decoder shows it.
        texture: Texture losses.
        forget_all: Share of the samples for which the U-Net receives no attribute, as in a call without a request.
            For the others it receives a random subset, from one attribute to all.
        background_weight: Weight of the loss away from the lesion; its own neighbourhood counts 1.
        evaluate_crops: Held-out lesions that every evaluation inpaints.
        evaluate_steps: Denoising steps of those.
    """

    vae: ModelSource = "runs/vae/model"
    model: UNetConfig = field(default_factory=UNetConfig)
    initial: ExistingFolder | None = None
    objective: Literal["diffusion", "adversarial", "gan"] = "diffusion"
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    target: Target = "v"
    noise_schedule: str = "squaredcos_cap_v2"
    zero_terminal_snr: bool = False
    whole_share: float = 0.0
    density: float = 0.0
    decoded: float = 0.0
    texture: TextureConfig = field(default_factory=TextureConfig)
    forget_all: float = 0.15
    background_weight: float = 0.2
    evaluate_crops: int = 6
    evaluate_steps: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.whole_share <= 1 or (self.whole_share > 0 and self.model.num_labels == 2):
            raise ValueError(
                f"whole_share {self.whole_share}, model.num_labels {self.model.num_labels}: expected a share from 0 to "
                "1, and 8 labels where it is above 0"
            )
        if not 0 <= self.forget_all <= 1:
            raise ValueError(f"forget_all {self.forget_all}: expected a share from 0 to 1")
        if self.density < 0 or self.decoded < 0:
            raise ValueError(f"density {self.density}, decoded {self.decoded}: expected weights of at least 0")
        if self.objective == "adversarial" and (self.initial is None or self.target == "flow"):
            raise ValueError(
                'objective "adversarial": expected initial, the pipeline of a trained stage 2, and a target other than '
                '"flow"'
            )
        others = self.texture.losses or self.density or self.decoded
        if self.objective == "gan" and (self.target != "x0" or others):
            raise ValueError('objective "gan": expected target "x0", and no density, decoded and texture losses')


ARGUMENTS = read_arguments(LdmConfig, __name__)

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset
from torch import Tensor
from torch.utils.data import default_collate

from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.latents import decoded_gains, density_direction
from autoencoder.loading import load_autoencoder
from autoencoder.networks.discriminator import PatchDiscriminator3D
from diffusion import LesionInpaintPipeline, SPADEUNet3D
from diffusion.adversarial import AdversarialDiffusion
from diffusion.attributes import forgotten
from diffusion.conditioning import blank, condition_channels, lesion_neighbourhood, map_as_hu, show_map
from diffusion.losses.time_weights import weights_over_time
from diffusion.one_step_gan import OneStepGAN
from diffusion.population import APPEARANCE, CHARACTER, LesionPopulation, equivalent_diameter_mm
from diffusion.process import alphas_of, training_scheduler
from diffusion.sampling.samplers import sampler_of, usual_sampler
from diffusion.stage_two import stage_two_of
from evaluation.image_quality import mse
from evaluation.reports.slices import save_slices
from imaging.dataset.nodules import spacing_mm_of
from imaging.dataset.rows import RowReader
from imaging.lesions.measured_attributes import MEASURED, measured_attributes
from imaging.window import to_norm
from training.data import LatentNodules
from training.draws import diffusion_draw, uniform
from training.run import TrainingRun


def main(config: LdmConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    vae = load_autoencoder(config.vae)
    window = (vae.config["window_width"], vae.config["window_level"])
    attributes = config.model.attributes
    decoder_learns = config.objective == "adversarial" and config.adversarial.reconstruction > 0
    with_ct = decoder_learns or config.texture.losses
    latents = LatentNodules(config.data, "train", window=window if with_ct else None, attributes=attributes)
    check_spacing(latents.latents, config.data)
    row = read_latent(latents.latents, 0)
    unet = SPADEUNet3D(
        latent_channels=row["latent_mean"].shape[0],
        condition_channels=condition_channels(row["blanked_latent"].shape[0], vae.factor),
        map_factor=vae.factor,
        **asdict(config.model),
    )
    if config.initial is not None:
        load_initial(unet, config.initial)
    scheduler = training_scheduler(config.target, config.noise_schedule, zero_terminal_snr=config.zero_terminal_snr)
    T = scheduler.config["num_train_timesteps"]
    if unet.input_scale is not None:
        unet.input_scale.copy_(alphas_of(scheduler).sqrt())
    samplers = {"gan": lambda it: it, "adversarial": partial(sampler_of, "syndiff"), "diffusion": usual_sampler}
    sampler = samplers[config.objective](scheduler)

    population = population_of(latents.latents, attributes, window) if config.objective != "gan" else None
    run = TrainingRun(config)
    vae.requires_grad_(False)
    if config.objective == "gan":
        discriminator = PatchDiscriminator3D((16, 32))
        run.prepare(OneStepGAN(unet, discriminator), {"discriminator": config.learning_rate})
    elif config.objective == "adversarial":
        directions = directions_of(vae, latents, config)
        learning = vae if decoder_learns else None
        model = AdversarialDiffusion(
            *(unet, config.adversarial, vae.factor, config.background_weight, directions, learning, config.texture)
        )
        rates = {"discriminators": config.adversarial.discriminator_rate}
        rates |= {"autoencoder": config.learning_rate} if decoder_learns else {}
        run.prepare(model, rates, betas=(0.5, 0.9))
    else:
        directions = directions_of(vae, latents, config)
        run.prepare(stage_two_of(unet, config.texture, config.target, config.background_weight, directions))
    vae.to(run.device)
    for batch in run.batches(latents):
        x0, noise, t = diffusion_draw(batch, T, config.seed, run.device)
        if config.whole_share:
            whole = uniform(1, config.seed, "whole", batch["draw"])[:, 0] < config.whole_share
            with run.accelerator.autocast():
                batch = show_map(batch, whole.to(run.device), vae)
        if attributes:
            draws = uniform(2 + len(attributes), config.seed, "attributes", batch["draw"])
            batch["attributes"] = forgotten(batch["attributes"], draws, config.forget_all, attributes)
        logging = run.log_due()
        loss, losses, gradients = run.model(vae, scheduler, batch, x0, noise, t, statistics=logging)
        run.update(loss, logged(run, losses, t, scheduler) | gradients if logging else None)

        if run.evaluation_due():
            with run.averaged() as averaged:
                pipeline = pipeline_of(vae, averaged.unet, sampler, row, None, config)
                picture = config.out / "samples" / f"step_{run.step:06d}.png"
                run.log(validation_loss(vae, averaged.unet, scheduler, config) | evaluate(pipeline, config, picture))
    if run.finished:
        run.save("pipeline", lambda averaged: pipeline_of(vae, averaged.unet, sampler, row, population, config))


def directions_of(vae: Any, latents: LatentNodules, config: LdmConfig, crops: int = 8) -> Tensor | None:
    """Directions of the latent whose errors count extra, (K, C), or None; `decoded_gains` in some training lesions."""
    directions = []
    if config.density:
        directions.append(config.density**0.5 * density_direction(vae)[None])
    if config.decoded:
        indices = np.linspace(0, len(latents) - 1, min(crops, len(latents))).astype(int)
        rows = default_collate([latents[int(index), 0] for index in indices])
        cells = lesion_neighbourhood(rows["lesion_mask"], vae.factor, cells=0)
        gains = decoded_gains(vae, rows["latent_mean"], cells)
        directions.append((config.decoded / len(gains)) ** 0.5 * gains)
    return torch.cat(directions) if directions else None


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
    trained = LesionInpaintPipeline.from_pretrained(folder).unet.state_dict()
    scale = {name: value for name, value in unet.state_dict().items() if name == "input_scale"}  # set by training
    try:
        unet.load_state_dict({**trained, **scale})
    except RuntimeError as error:
        raise ValueError(f"{folder}: its U-Net differs from this config's model ({error})") from error


def logged(run: TrainingRun, losses: dict[str, Tensor], t: Tensor, scheduler) -> dict[str, Tensor]:
    """Mean structure loss of the noisier and the cleaner half of t, mean texture losses where on, learned weights."""
    structure, count = losses["structure"], scheduler.config["num_train_timesteps"]
    parts = {"structure_noisy_half": structure[t >= count // 2], "structure_clean_half": structure[t < count // 2]}
    parts = {name: loss[loss > 0] for name, loss in parts.items()}  # 0 where a sample does not have this loss
    parts |= {name: loss[loss > 0] for name, loss in losses.items() if name != "structure"}
    values = {name: part.mean() for name, part in parts.items() if len(part)}
    policy = getattr(run.accelerator.unwrap_model(run.model), "policy", None)
    if policy is not None and any(True for _ in policy.parameters()):
        over_time = weights_over_time(policy, alphas_of(scheduler), points=3)
        values |= {f"weight_{name}/{i}": w for name, ws in over_time.items() for i, w in enumerate(ws)}
    return values


def pipeline_of(
    vae, unet, sampler, row: dict, population: LesionPopulation | None, config: LdmConfig
) -> LesionInpaintPipeline:
    """The pipeline on the grid of the encoded dataset."""
    grid = {"crop_size": row["ct_hu"].shape[0], "spacing_mm": float(row["spacing_mm"][0])}
    grid |= {"paint_margin_mm": float(row["paint_margin_mm"]), "detailed_map": bool(row.get("detailed_map", False))}
    encoded_map = config.whole_share > 0
    return LesionInpaintPipeline(vae, unet, sampler, population=population, encoded_map=encoded_map, **grid)


def population_of(
    latents: Dataset, attributes: tuple[str, ...], window: tuple[float, float]
) -> LesionPopulation | None:
    """Size and appearance of the training lesions, one row each; HU as measured in the clipped window.

    A calcified lesion reaches above the window, and can be painted as far as that. None if the U-Net is told no
    appearance.
    """
    names = [name for name in attributes if name in (*APPEARANCE, *CHARACTER)]
    if not set(names) & set(APPEARANCE):
        return None
    width, level = window
    known = latents.select(np.unique(latents["nodule_id"][:], return_index=True)[1])  # one of each lesion's variants
    appearance = np.array([known[name][:] for name in names], float).T
    read, diameter_mm = RowReader(known.select_columns(["ct_hu", "lesion_mask", "spacing_mm"])), []
    for index in range(len(known)):
        row = read[index]
        lesion_mask = torch.from_numpy(row["lesion_mask"])[None, None]
        diameter_mm.append(equivalent_diameter_mm(lesion_mask, float(row["spacing_mm"][0])))
        shown_hu = np.clip(row["ct_hu"], level - width / 2, level + width / 2)
        measured = measured_attributes(shown_hu, row["lesion_mask"])
        for name in set(names) & set(MEASURED):
            appearance[index, names.index(name)] = measured[name]
    return LesionPopulation.of(names, torch.cat(diameter_mm), torch.from_numpy(appearance))


@torch.no_grad()
def validation_loss(vae, unet: SPADEUNet3D, scheduler, config: LdmConfig) -> dict[str, float]:
    """Structure loss of the held-out patients, with the same timesteps and noise at every evaluation."""
    if config.objective == "gan":
        return {}
    held_out = LatentNodules(config.data, "validation", attributes=config.model.attributes)
    stage_two = stage_two_of(unet, TextureConfig(), config.target, config.background_weight).to(vae.device).eval()
    losses = []
    for start in range(0, len(held_out), config.batch_size):
        rows = [held_out[row, row] for row in range(start, min(start + config.batch_size, len(held_out)))]
        batch = {name: value.to(vae.device) for name, value in default_collate(rows).items()}
        if config.whole_share == 1:
            batch = show_map(batch, torch.ones(len(rows), dtype=torch.bool, device=vae.device), vae)
        draw = diffusion_draw(batch, scheduler.config["num_train_timesteps"], config.seed, vae.device)
        losses.append(stage_two(vae, scheduler, batch, *draw)[1]["structure"])
    return {"validation_loss": float(torch.cat(losses).mean())}


def evaluate(pipeline: LesionInpaintPipeline, config: LdmConfig, picture: Path) -> dict[str, float]:
    """Inpaint held-out lesions from a fixed seed: error inside the masks, and a picture beside the real ones.

    With `whole_share` 1 it makes whole crops.
    """
    pipeline.set_progress_bar_config(disable=True)
    held_out = load_latents(config.data, "validation")
    indices = np.linspace(0, len(held_out) - 1, min(config.evaluate_crops, len(held_out))).astype(int)
    rows = [read_latent(held_out, int(index)) for index in indices]
    names = ("ct_hu", "lesion_mask", "valid_mask", "semantic_map")
    ct_hu, lesion_mask, valid_mask, semantic_map = (
        torch.from_numpy(np.stack([row[name] for row in rows]))[:, None] for name in names
    )
    sampling = {
        "valid_mask": valid_mask,
        "num_inference_steps": config.adversarial.calls if config.objective == "adversarial" else config.evaluate_steps,
        "generator": [torch.Generator().manual_seed(index) for index in range(len(rows))],
    }
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    real = to_norm(ct_hu.float(), *window)
    if config.whole_share == 1:
        result = torch.from_numpy(pipeline.synthesize(semantic_map, **sampling))
        blanked = to_norm(map_as_hu(semantic_map), *window)
    else:
        made = pipeline(ct_hu, lesion_mask, **sampling)
        result, blanked = made.ct, blank(real, made.paint_mask)
    painted = to_norm(result.float(), *window)
    columns = zip(real[:, 0], blanked[:, 0], painted[:, 0], (painted - real)[:, 0], strict=True)
    save_slices(picture, list(columns), ["real", "given", "inpainted", "difference"])
    hu_bias = ((result - ct_hu).float() * lesion_mask).sum() / lesion_mask.sum()
    return {"lesion_mse": float(mse(painted, real, lesion_mask).mean()), "lesion_hu_bias": float(hu_bias)}


if __name__ == "__main__":
    launch(main, ARGUMENTS)
