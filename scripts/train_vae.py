"""Train stage 1, the autoencoder.

accelerate launch scripts/train_vae.py --config configs/vae_kl.yaml --data data/nodules --out runs/vae
The same command continues an interrupted run. The averaged weights are saved in <out>/model.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor

from autoencoder import AutoencoderKL3D
from autoencoder.losses import kl_loss, l1_loss
from evaluation.image_quality import psnr
from evaluation.pictures import save_slices
from imaging.nodule_dataset import load_nodules, read_nodule
from imaging.window import to_norm
from training.config import launch
from training.data import NodulePatches
from training.draws import normal
from training.run import TrainingConfig, TrainingRun


@dataclass(frozen=True)
class ModelConfig:
    """Arguments of `AutoencoderKL3D`.

    Attributes:
        channels: Width of each level; the factor is 2 to the power of their number.
        blocks_per_level: Residual blocks at each level.
        latent_channels: Channels of the latent.
        stem: "haar" or "conv".
        window_width: Of the HU window.
        window_level: Centre of the HU window.
    """

    channels: tuple[int, ...] = (32, 96)
    blocks_per_level: int = 2
    latent_channels: int = 4
    stem: str = "haar"
    window_width: float = 1500.0
    window_level: float = -400.0


@dataclass(frozen=True)
class VaeConfig(TrainingConfig):
    """Stage 1.

    Attributes:
        model: The autoencoder.
        patch_size: Edge of the training patches in voxels.
        kl_weight: Weight of the KL divergence per voxel.
        evaluate_crops: Held-out crops that every evaluation reconstructs.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    patch_size: int = 32
    kl_weight: float = 1e-6
    evaluate_crops: int = 16


def main(config: VaeConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    window = (config.model.window_width, config.model.window_level)
    patches = NodulePatches(config.data, "train", config.patch_size, window, config.seed)
    held_out = load_nodules(config.data, "test")
    model = AutoencoderKL3D(**asdict(config.model))
    if config.patch_size % model.factor:
        raise ValueError(f"patch_size {config.patch_size}: expected a multiple of the factor {model.factor}")

    run = TrainingRun(config)
    run.prepare(model)
    for batch in run.batches(patches):
        ct_norm, valid_mask = batch["ct_norm"], batch["valid_mask"]
        latent_shape = model.latent_shape(ct_norm.shape)[1:]
        noise = normal(latent_shape, config.seed, "posterior", batch["draw"], run.device)
        reconstruction, mean, logvar = run.model(ct_norm, noise)
        l1 = l1_loss(reconstruction, ct_norm, valid_mask)
        kl = kl_loss(mean, logvar) / ct_norm[0].numel()  # nats per voxel: the weight does not depend on the patch
        run.update(l1 + config.kl_weight * kl, {"l1": l1, "kl_per_voxel": kl})

        if run.evaluation_due():
            with run.averaged() as averaged:
                crops = evaluation_crops(held_out, config.evaluate_crops, averaged.factor, window)
                picture = config.out / "samples" / f"step_{run.step:06d}.png"
                run.log({"held_out_psnr_db": evaluate(averaged, crops, picture, run.device)})
    if run.finished:
        print(f"autoencoder: {run.save_model()}")


def evaluation_crops(nodules, count: int, factor: int, window: tuple[float, float]) -> Iterator[tuple[Tensor, Tensor]]:
    """(ct_norm, valid_mask), each (1, 1, S, S, S), of the first held-out nodules, cut to a multiple of the factor."""
    for index in range(min(count, len(nodules))):
        nodule = read_nodule(nodules, index)
        size = tuple(slice(0, edge // factor * factor) for edge in nodule["ct_hu"].shape)
        ct_norm = to_norm(nodule["ct_hu"][size].astype(np.float32), *window)
        valid_mask = nodule["valid_mask"][size].astype(np.float32)
        yield torch.from_numpy(ct_norm)[None, None], torch.from_numpy(valid_mask)[None, None]


@torch.no_grad()
def evaluate(model: AutoencoderKL3D, crops, picture: Path, device: torch.device) -> float:
    """Mean PSNR in dB of the reconstructed held-out crops; the first ones drawn beside their originals."""
    values, shown = [], []
    for ct_norm, valid_mask in crops:
        reconstruction = model(ct_norm.to(device))[0].clamp(-1, 1).cpu()
        values.append(psnr(reconstruction, ct_norm, data_range=2.0, valid_mask=valid_mask).item())
        if len(shown) < 6:
            shown.append([ct_norm[0, 0], reconstruction[0, 0], (reconstruction - ct_norm)[0, 0]])
    save_slices(picture, shown, ["CT", "reconstruction", "difference"])
    return float(np.mean(values))


if __name__ == "__main__":
    launch(main, VaeConfig)
