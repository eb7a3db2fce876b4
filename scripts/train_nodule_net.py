"""Train the 3D network behind the Fréchet distance in nodule space (2 minutes on one free CPU core).

    uv run scripts/train_nodule_net.py --dataset data/nodules --out evaluation/networks/nodule_net.safetensors

Only the training split is opened. A tenth of its patients is held out to show how well the network predicts each
target. Copy the hash that is printed at the end into `evaluation/networks/nodule_net.py`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from foundation.config import ExistingFolder, OutputFile, Seed, launch, read_arguments


@dataclass(frozen=True)
class TrainNoduleNetConfig:
    """What to train on, and for how long.

    Attributes:
        dataset: Prepared dataset at 1 mm; its training split is used.
        out: safetensors file to write.
        steps: Optimiser steps.
        batch_size: Nodules per step.
        learning_rate: Peak of the one-cycle schedule.
        seed: Seed of the weights, the order, the augmentation and the held-out patients.
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    dataset: ExistingFolder
    out: OutputFile
    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 4e-3
    seed: Seed = 0
    threads: int | None = None


ARGUMENTS = read_arguments(TrainNoduleNetConfig, __name__)

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.stats import spearmanr
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import trange

from evaluation.lesions.lesion_sets import lesion_cube, load_lesions
from evaluation.networks.nodule_net import RIM, NoduleNet
from imaging.dataset.nodules import load_nodules

RATED = ("subtlety", "sphericity", "margin", "lobulation", "spiculation", "texture", "malignancy")
TARGETS = (*RATED, "log diameter", "blur", "noise")
TRAINING_SIDE = 24  # voxels of 1 mm: holds all but the largest nodules at less than half of the 32 mm cube's cost
MAX_BLUR = 1.5  # σ in mm
MAX_NOISE = 0.15  # standard deviation in ct_norm, 110 HU


def main(config: TrainNoduleNetConfig) -> None:
    """Load, hold out patients, train, standardise the features, save."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    lesions, left_out = load_lesions(config.dataset, "train")
    print(f"{len(lesions)} training nodules; left out: {'; '.join(left_out) or 'none'}")
    fixed_targets = _fixed_targets(config.dataset, [lesion.name for lesion in lesions])
    cubes, masks = map(np.stack, zip(*(lesion_cube(lesion, TRAINING_SIDE) for lesion in lesions), strict=True))
    near = np.stack([binary_dilation(mask, iterations=RIM) for mask in masks])
    patients = np.array([lesion.patient_id for lesion in lesions])
    held_out = np.isin(patients, rng.permutation(np.unique(patients))[: len(np.unique(patients)) // 10])
    training = np.flatnonzero(~held_out)
    mean, std = np.nanmean(fixed_targets[training], axis=0), np.nanstd(fixed_targets[training], axis=0)
    fixed_targets = (fixed_targets - mean) / np.where(std > 0, std, 1)

    network = NoduleNet(targets=len(TARGETS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    schedule = OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=config.steps)
    progress = trange(config.steps)
    for _ in progress:
        chosen = rng.choice(training, config.batch_size)
        ct_norm, mask, target = _batch(cubes, masks, near, fixed_targets, chosen, rng)
        known = ~torch.isnan(target)
        loss = F.mse_loss(network(ct_norm, mask)[known], target[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")

    network.eval()
    _report(network, _batch(cubes, masks, near, fixed_targets, np.repeat(np.flatnonzero(held_out), 3), rng))
    clean = torch.from_numpy(np.where(near, cubes, np.float32(-1))).unsqueeze(1)[training]
    clean_masks = torch.from_numpy(masks).unsqueeze(1)[training]
    with torch.inference_mode():
        embedding = torch.cat(
            [network.embedding(c, m) for c, m in zip(clean.split(32), clean_masks.split(32), strict=True)]
        )
    network.mean.copy_(embedding.mean(0))
    network.std.copy_(embedding.std(0))
    content = save(network.state_dict())
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_bytes(content)
    print(f"{config.out}: {len(content) / 1024:.0f} KiB, SHA-256 {hashlib.sha256(content).hexdigest()}")


def _fixed_targets(dataset: Path, names: list[str]) -> np.ndarray:
    """(N, ratings + 1): the ratings (NaN where not given) and log diameter, in the order of `names`."""
    rows = load_nodules(dataset, "train").select_columns(["nodule_id", "diameter_mm", *RATED])
    by_name = {row["nodule_id"]: row for row in rows}
    table = [[*(by_name[name][rating] for rating in RATED), np.log(by_name[name]["diameter_mm"])] for name in names]
    return np.array(table, dtype=np.float32)  # None becomes NaN


def _batch(
    cubes: np.ndarray,
    masks: np.ndarray,
    near: np.ndarray,
    fixed: np.ndarray,
    chosen: np.ndarray,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nodules turned, mirrored, and half of them blurred and noised by a known amount, which is a target too."""
    views, view_masks, targets = [], [], []
    for index in chosen:
        blur = rng.uniform(0, MAX_BLUR) if rng.random() < 0.5 else 0.0
        noise = rng.uniform(0, MAX_NOISE) if rng.random() < 0.5 else 0.0
        axes, flips = rng.permutation(3), tuple(np.flatnonzero(rng.random(3) < 0.5))
        cube = np.flip(cubes[index].transpose(axes), flips)
        mask = np.flip(masks[index].transpose(axes), flips)
        cube = gaussian_filter(cube, blur) if blur else cube
        cube = np.clip(cube + noise * rng.standard_normal(cube.shape, np.float32), -1, 1)
        views.append(np.where(np.flip(near[index].transpose(axes), flips), cube, np.float32(-1)))
        view_masks.append(mask)
        degradation = [(blur / MAX_BLUR - 0.25) / 0.32, (noise / MAX_NOISE - 0.25) / 0.32]  # mean 0, deviation 1
        targets.append([*fixed[index], *degradation])
    return (
        torch.from_numpy(np.stack(views)).unsqueeze(1).float(),
        torch.from_numpy(np.stack(view_masks)).unsqueeze(1),
        torch.tensor(np.array(targets), dtype=torch.float32),
    )


def _report(network: NoduleNet, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """Rank correlation of each target with its prediction, on the held-out training patients."""
    ct_norm, mask, target = batch
    with torch.inference_mode():
        predicted = torch.cat([network(c, m) for c, m in zip(ct_norm.split(32), mask.split(32), strict=True)])
    for column, name in enumerate(TARGETS):
        known = ~torch.isnan(target[:, column])
        rho = spearmanr(target[known, column], predicted[known, column]).statistic
        print(f"held-out training patients, Spearman's rho of {name}: {rho:.2f}")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
