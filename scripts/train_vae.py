"""Train stage 1, the autoencoder.

uv run scripts/train_vae.py --config configs/vae_kl.yaml --data data/nodules --out runs/vae
The same command continues an interrupted run. The averaged weights and the statistics of the latents are saved in
<out>/model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autoencoder.losses.weights import LossWeights
from autoencoder.networks.presets import PRESETS, Norm, PresetName, Stem
from foundation.config import ExistingFolder, ModelSource, WeightsSource, launch, read_arguments
from training.config import TrainingConfig


@dataclass(frozen=True)
class ModelConfig:
    """The autoencoder.

    Attributes:
        kind: "kl" or "vq".
        preset: "tiny", "base" or "large"; see `autoencoder.networks.presets`.
        channels: Width of each level, instead of the preset's. The factor is 2 to the power of their number.
        blocks_per_level: Residual blocks at each level, instead of the preset's.
        latent_channels: Channels of the latent.
        codebook_size: Codes of the VQ autoencoder.
        stem: "haar" or "conv".
        norm: "voxel_rms" or "group".
        mid_attention: Self-attention at the lowest level. Windows and tiles are then no longer exact.
        window_width: Width of the HU window.
        window_level: Centre of the HU window.
    """

    kind: Literal["kl", "vq"] = "kl"
    preset: PresetName = "tiny"
    channels: tuple[int, ...] | None = None
    blocks_per_level: int | None = None
    latent_channels: int = 4
    codebook_size: int = 1024
    stem: Stem = "haar"
    norm: Norm = "voxel_rms"
    mid_attention: bool = False
    window_width: float = 1500.0
    window_level: float = -400.0


@dataclass(frozen=True)
class VaeConfig(TrainingConfig):
    """Stage 1.

    Attributes:
        model: The autoencoder.
        initial: Folder or repository of an autoencoder of the same shape whose weights the training starts from; null
            starts at random.
        freeze_encoder: Train the decoder only, so that encoded latents stay valid.
        latent_noise: Noise added to the latent before decoding, in standard deviations; the decoder learns to tolerate
            small errors of stage 2.
        losses: Weights of the losses; L1 counts 1.
        scans: Folder of prepared scans; patches of them are added to the crops. null uses crops only.
        scan_fraction: Share of patches from scans.
        patch_size: Edge of the training patches in voxels.
        discriminator_channels: Width of the patch discriminator at half and at a quarter of the resolution.
        discriminator_learning_rate: Peak of its schedule.
        lpips_backbone: AlexNet weights for LPIPS: a local file, or "torchvision" to download them.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a quarter more time for
            small models.
        evaluate_crops: Held-out crops that every evaluation reconstructs.
        statistics_crops: At most this many training crops are used to measure the latents' mean and standard deviation.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    initial: ModelSource | None = None
    freeze_encoder: bool = False
    latent_noise: float = 0.0
    losses: LossWeights = field(default_factory=LossWeights)
    scans: ExistingFolder | None = None
    scan_fraction: float = 0.5
    patch_size: int = 32
    discriminator_channels: tuple[int, int] = (32, 64)
    discriminator_learning_rate: float = 3e-4
    lpips_backbone: WeightsSource = "torchvision"
    gradient_checkpointing: bool = False
    evaluate_crops: int = 16
    statistics_crops: int = 1000

    def __post_init__(self) -> None:
        if self.freeze_encoder and self.initial is None:
            raise ValueError("freeze_encoder: expected --initial, a trained autoencoder whose encoder is kept")
        if not 0 <= self.latent_noise < 10:
            raise ValueError(f"latent_noise {self.latent_noise}: expected standard deviations from 0 to 10")


ARGUMENTS = read_arguments(VaeConfig, __name__)

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset
from tqdm import tqdm

from autoencoder import AutoencoderKL3D, VQAutoencoder3D
from autoencoder.latents import measured_statistics
from autoencoder.loading import load_autoencoder
from autoencoder.networks.discriminator import PatchDiscriminator3D
from autoencoder.stage_one import StageOne
from evaluation.autoencoders.reconstruction import reconstruct, reconstruction_figures
from evaluation.networks.inception import load_lpips
from evaluation.reports.slices import save_slices
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.window import to_norm
from training.data import NodulePatches
from training.draws import normal, uniform
from training.run import TrainingRun

LOGGED_FIGURES = ("psnr_db", "ssim", "hu_mae_lesion", "hu_bias_lesion", "noise_power_ratio_finest")
PICTURED_CROPS = 6


def main(config: VaeConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    window = (config.model.window_width, config.model.window_level)
    patches = NodulePatches(
        config.data, "train", config.patch_size, window, config.seed, config.scans, config.scan_fraction
    )
    held_out = load_nodules(config.data, "validation")
    autoencoder = autoencoder_of(config.model)
    if config.patch_size % autoencoder.factor:
        raise ValueError(f"patch_size {config.patch_size}: expected a multiple of the factor {autoencoder.factor}")
    if config.initial is not None:
        load_initial(autoencoder, config.initial)
    if config.freeze_encoder:
        autoencoder.encoder.requires_grad_(False)
    if config.gradient_checkpointing:
        autoencoder.enable_gradient_checkpointing()
    lpips = load_lpips(config.lpips_backbone) if config.losses.lpips > 0 else None
    discriminator = None
    if config.losses.adversarial > 0:
        discriminator = PatchDiscriminator3D(config.discriminator_channels, conditions=1)

    run = TrainingRun(config)
    stage = StageOne(autoencoder, config.losses, discriminator, config.latent_noise)
    if discriminator is None:
        run.prepare(stage)
    else:  # each of the two follows the other, so the gradients of some steps ago count little
        run.prepare(stage, {"discriminator": config.discriminator_learning_rate}, betas=(0.5, 0.99))
    lpips = lpips.to(run.device) if lpips is not None else None
    for batch in run.batches(patches):
        latent_shape, draws = autoencoder.latent_shape(batch["ct_norm"].shape)[1:], batch["draw"]
        noise = normal(latent_shape, config.seed, "posterior", draws, run.device)
        positions = uniform(3, config.seed, "slices", draws)
        loss, logs = run.model(batch, noise, run.step, lpips, positions, statistics=run.log_due())
        run.update(loss, logs)

        if run.evaluation_due():
            with run.averaged() as averaged:
                picture = config.out / "samples" / f"step_{run.step:06d}.png"
                indices = range(min(config.evaluate_crops, len(held_out)))
                run.log(evaluate(averaged.autoencoder, held_out, indices, picture))
    if run.finished:
        run.save("model", lambda averaged: with_statistics(averaged.autoencoder, patches.nodules, config))


def autoencoder_of(config: ModelConfig) -> AutoencoderKL3D | VQAutoencoder3D:
    """The model that a config describes."""
    preset = PRESETS[config.preset]
    settings: dict[str, Any] = {
        "channels": config.channels or preset.channels,
        "blocks_per_level": config.blocks_per_level or preset.blocks_per_level,
        "latent_channels": config.latent_channels,
        "stem": config.stem,
        "norm": config.norm,
        "mid_attention": config.mid_attention,
        "window_width": config.window_width,
        "window_level": config.window_level,
    }
    if config.kind == "vq":
        return VQAutoencoder3D(codebook_size=config.codebook_size, **settings)
    return AutoencoderKL3D(**settings)


def load_initial(autoencoder: AutoencoderKL3D | VQAutoencoder3D, source: str) -> None:
    """Take over trained weights. Raises ValueError where the architectures differ."""
    try:
        autoencoder.load_state_dict(load_autoencoder(source).state_dict())
    except RuntimeError as error:
        raise ValueError(f"{source}: its architecture differs from this config's model ({error})") from error


def evaluate(autoencoder: Any, nodules: Dataset, indices: Sequence[int], picture: Path) -> dict[str, float]:
    """Mean figures of reconstructed held-out crops; the first of them drawn beside their originals."""
    rows, shown = [], []
    window = (autoencoder.config["window_width"], autoencoder.config["window_level"])
    for index in indices:
        crop = crop_of(nodules, index, autoencoder.factor, window)
        made = reconstruct(autoencoder, crop["ct_norm"])
        spacing_mm = tuple(float(mm) for mm in crop["spacing_mm"])
        figures = reconstruction_figures(
            crop["ct_norm"], made, crop["valid_mask"], crop["lesion_mask"], window, spacing_mm
        )
        rows.append(figures)
        if len(shown) < PICTURED_CROPS:
            shown.append([crop["ct_norm"], made, made - crop["ct_norm"]])
    save_slices(picture, shown, ["CT", "reconstruction", "difference"])
    measured = {name: [row[name] for row in rows if name in row] for name in LOGGED_FIGURES}
    return {f"held_out/{name}": float(np.mean(values)) for name, values in measured.items() if values}


def crop_of(nodules: Dataset, index: int, factor: int, window: tuple[float, float]) -> dict[str, Any]:
    """One nodule, cut to a multiple of the factor: `ct_norm` float32, `valid_mask`, `lesion_mask`, `spacing_mm`."""
    nodule = read_nodule(nodules, index)
    size = tuple(slice(0, edge // factor * factor) for edge in nodule["ct_hu"].shape)
    return {
        "ct_norm": to_norm(nodule["ct_hu"][size].astype(np.float32), *window),
        **{name: nodule[name][size] for name in ("valid_mask", "lesion_mask")},
        "spacing_mm": nodule["spacing_mm"],
    }


def with_statistics(autoencoder: Any, nodules: Dataset, config: VaeConfig) -> Any:
    """The autoencoder with its latents' statistics in its config: measured on training crops, or its encoder's own."""
    if config.freeze_encoder:
        known = load_autoencoder(config.initial).config
        if known.get("latents_mean") is not None:
            autoencoder.register_to_config(latents_mean=known["latents_mean"], latents_std=known["latents_std"])
            return autoencoder
    window = (config.model.window_width, config.model.window_level)
    indices = np.linspace(0, len(nodules) - 1, min(config.statistics_crops, len(nodules))).astype(int)
    crops = (
        torch.from_numpy(crop_of(nodules, int(index), autoencoder.factor, window)["ct_norm"])[None, None]
        for index in tqdm(indices, desc="latent statistics")
    )
    mean, std = measured_statistics(autoencoder, crops)
    autoencoder.register_to_config(latents_mean=mean, latents_std=std)
    print(f"latents_mean {np.round(mean, 3)} latents_std {np.round(std, 3)}")
    return autoencoder


if __name__ == "__main__":
    launch(main, ARGUMENTS)
