"""Torch datasets over the prepared and the encoded dataset, indexed by (row, draw number) of `training.draws`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autoencoder.latent_dataset import load_latents, read_latent
from imaging.nodule_dataset import crop_size_of, load_nodules, read_nodule
from imaging.window import to_norm
from training.draws import generator


class NodulePatches(Dataset):
    """Random patches of nodule crops for stage 1, flipped at random along each axis.

    Half of the patches are centred as near to the lesion as the crop allows, the others anywhere in the crop.

    Args:
        path: Prepared dataset.
        split: "train" or "test".
        patch_size: Edge in voxels; the crop's own edge gives whole crops.
        window: (width, level) in HU.
        seed: Of the run.
    Raises: ValueError: If a patch is larger than the crops.
    """

    def __init__(self, path: Path, split: str, patch_size: int, window: tuple[float, float], seed: int) -> None:
        self.nodules = load_nodules(path, split)
        crop_size = crop_size_of(self.nodules)
        if not 0 < patch_size <= crop_size:
            raise ValueError(
                f"patch_size {patch_size}: the crops of {path} have {crop_size} voxels; choose at most that"
            )
        self.patch_size, self.window, self.seed = patch_size, window, seed

    def __len__(self) -> int:
        return len(self.nodules)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """`ct_norm` float32 and `valid_mask` float32, (1, P, P, P), and the draw number."""
        index, draw = item
        nodule = read_nodule(self.nodules, index)
        random = generator(self.seed, "augmentation", draw)
        room = np.array(nodule["ct_hu"].shape) - self.patch_size
        if random.random() < 0.5:
            centre = np.argwhere(nodule["lesion_mask"]).mean(axis=0)
            start = np.clip(np.rint(centre - self.patch_size / 2).astype(int), 0, room)
        else:
            start = random.integers(room + 1)
        window = tuple(slice(s, s + self.patch_size) for s in start)
        flipped = tuple(axis for axis in range(3) if random.random() < 0.5)
        ct_norm = to_norm(np.flip(nodule["ct_hu"][window], flipped).astype(np.float32), *self.window)
        valid_mask = np.flip(nodule["valid_mask"][window], flipped).astype(np.float32)
        return {
            "ct_norm": torch.from_numpy(ct_norm.copy())[None],
            "valid_mask": torch.from_numpy(valid_mask)[None],
            "draw": draw,
        }


class LatentNodules(Dataset):
    """Encoded nodules for stage 2 and the classifiers: standardised posterior, blanked CT, mask, spacing, ratings.

    Args:
        path: Encoded dataset, from scripts/encode_latents.py.
        split: "train" or "test".
        ratings: Names of the ratings to give along (NaN where a nodule is not rated).
        window: (width, level) in HU to give `ct_norm` along, which losses on the decoded image need; None leaves it.
    """

    def __init__(
        self,
        path: Path,
        split: str,
        ratings: tuple[str, ...] = (),
        window: tuple[float, float] | None = None,
    ) -> None:
        self.latents = load_latents(path, split)
        self.ratings, self.window = ratings, window

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Latents (C, d, h, w), `lesion_mask`, `valid_mask` (1, D, H, W), `spacing_mm` (3,), ratings, draw number."""
        index, draw = item
        row = read_latent(self.latents, index)
        batch: dict[str, Any] = {
            name: torch.from_numpy(row[name]) for name in ("latent_mean", "latent_std", "blanked_latent", "spacing_mm")
        }
        for name in ("lesion_mask", "valid_mask"):
            batch[name] = torch.from_numpy(row[name])[None]
        if self.window is not None:
            batch["ct_norm"] = torch.from_numpy(to_norm(row["ct_hu"].astype(np.float32), *self.window))[None]
        batch |= {name: torch.tensor(row[name], dtype=torch.float32) for name in self.ratings}
        return batch | {"draw": draw}


def drawn_latent(batch: dict[str, Tensor], noise: Tensor) -> Tensor:
    """A draw from the posterior, mean + std * noise; (B, C, d, h, w), standardised."""
    return batch["latent_mean"] + batch["latent_std"] * noise
