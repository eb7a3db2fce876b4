"""Torch datasets over the prepared and the encoded dataset, indexed by (row, draw number) of `training.draws`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from autoencoder.latent_dataset import MASKS, load_latents
from foundation.draws import generator
from imaging.dataset.nodules import crop_size_of, load_nodules, read_nodule
from imaging.dataset.rows import RowReader
from imaging.dataset.scan_volumes import open_scans
from imaging.window import to_norm

LATENTS = ("latent_mean", "latent_std", "blanked_latent", "spacing_mm")


class NodulePatches(Dataset):
    """Random patches for stage 1, flipped at random along each axis: of nodule crops, and of whole scans beside them.

    Half of a crop's patches are centred as near to the lesion as the crop allows, the others to a voxel drawn from the
    valid ones. A scan's patches lie anywhere in its body; scans are drawn by the size of their bodies.

    Args:
        path: Prepared dataset.
        split: "train" or "test".
        patch_size: Edge in voxels; the crop's own edge gives whole crops.
        window: (width, level) in HU.
        seed: Of the run.
        scans: Folder of prepared scans (scripts/prepare_scans.py); None for crops alone.
        scan_fraction: Share of the draws that take a scan in place of the crop.
    Raises: ValueError: If a patch is larger than the crops or than a scan's body.
    """

    def __init__(
        self,
        path: Path,
        split: str,
        patch_size: int,
        window: tuple[float, float],
        seed: int,
        scans: Path | None = None,
        scan_fraction: float = 0.5,
    ) -> None:
        self.nodules = load_nodules(path, split)
        crop_size = crop_size_of(self.nodules)
        if not 0 < patch_size <= crop_size:
            raise ValueError(
                f"patch_size {patch_size}: the crops of {path} have {crop_size} voxels; choose at most that"
            )
        if not 0 <= scan_fraction <= 1:
            raise ValueError(f"scan_fraction {scan_fraction}: expected a share of the draws, from 0 to 1")
        self.patch_size, self.window, self.seed = patch_size, window, seed
        self.scans = open_scans(scans) if scans is not None else []
        self.scan_fraction = scan_fraction if self.scans else 0.0
        bodies = [[last - first for first, last in entry.body] for entry, _ in self.scans]
        for (entry, _), body in zip(self.scans, bodies, strict=True):
            if min(body) < patch_size:
                raise ValueError(f"{scans}: body of {entry.name} has {body} voxels, a patch {patch_size}; leave it out")
        volumes = np.array([float(np.prod(body)) for body in bodies])
        self.scan_shares = volumes / volumes.sum() if len(volumes) else volumes

    def __len__(self) -> int:
        return len(self.nodules)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """`ct_norm`, `valid_mask`, `lesion_mask` float32, (1, P, P, P), and the draw number."""
        index, draw = item
        random = generator(self.seed, "augmentation", draw)
        if self.scan_fraction > 0 and random.random() < self.scan_fraction:
            volumes = self._scan_patch(random)
        else:
            volumes = self._crop_patch(index, random)
        flipped = tuple(axis for axis in range(3) if random.random() < 0.5)
        ct_hu, valid_mask, lesion_mask = (np.flip(volume, flipped).astype(np.float32) for volume in volumes)
        return {
            "ct_norm": torch.from_numpy(to_norm(ct_hu, *self.window).copy())[None],
            "valid_mask": torch.from_numpy(valid_mask)[None],
            "lesion_mask": torch.from_numpy(lesion_mask)[None],
            "draw": draw,
        }

    def _crop_patch(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        nodule = read_nodule(self.nodules, index)
        room = np.array(nodule["ct_hu"].shape) - self.patch_size
        if random.random() < 0.5:
            centre = np.argwhere(nodule["lesion_mask"]).mean(axis=0)
        else:
            centre = random.choice(np.argwhere(nodule["valid_mask"]))
        start = np.clip(np.rint(centre - self.patch_size / 2).astype(int), 0, room)
        window = tuple(slice(s, s + self.patch_size) for s in start)
        return tuple(nodule[name][window] for name in ("ct_hu", "valid_mask", "lesion_mask"))

    def _scan_patch(self, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        entry, volume = self.scans[int(random.choice(len(self.scans), p=self.scan_shares))]
        start = [int(random.integers(first, last - self.patch_size + 1)) for first, last in entry.body]
        ct_hu = np.array(volume[tuple(slice(s, s + self.patch_size) for s in start)])
        return ct_hu, np.ones_like(ct_hu), np.zeros_like(ct_hu)


class LatentNodules(Dataset):
    """Encoded nodules for stage 2 and the classifiers: standardised posterior, blanked CT, masks, spacing, ratings.

    Args:
        path: Encoded dataset, from scripts/encode_latents.py.
        split: "train" or "validation".
        ratings: Names of the ratings to give along (NaN where a nodule is not rated).
        window: (width, level) in HU to give `ct_norm` along, which losses on the decoded image need; None leaves it.
        attributes: Columns to give along as one vector, `attributes` (A,), NaN where unknown.
    """

    def __init__(
        self,
        path: Path,
        split: str,
        ratings: tuple[str, ...] = (),
        window: tuple[float, float] | None = None,
        attributes: tuple[str, ...] = (),
    ) -> None:
        self.latents = load_latents(path, split)
        self.ratings, self.window, self.attributes = ratings, window, attributes
        columns = [
            *LATENTS,
            *MASKS,
            *dict.fromkeys((*ratings, *attributes)),
            *(["ct_hu"] if window is not None else []),
        ]
        self._read = RowReader(self.latents.select_columns(columns))  # a row's other arrays stay on disk

    def keep(self, indices: Sequence[int]) -> None:
        """From now on these rows alone, numbered anew."""
        self.latents, self._read = self.latents.select(indices), RowReader(self._read.dataset.select(indices))

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Latents (C, d, h, w), masks and map (1, D, H, W), `spacing_mm` (3,), ratings, draw number."""
        index, draw = item
        row = self._read[index]
        batch: dict[str, Any] = {name: torch.from_numpy(row[name]).float() for name in LATENTS}
        batch |= {name: torch.from_numpy(row[name])[None] for name in MASKS}
        if self.window is not None:
            batch["ct_norm"] = torch.from_numpy(to_norm(row["ct_hu"].astype(np.float32), *self.window))[None]
        batch |= {name: torch.tensor(row[name], dtype=torch.float32) for name in self.ratings}
        if self.attributes:
            batch["attributes"] = torch.tensor([row[name] for name in self.attributes], dtype=torch.float32)
        return batch | {"draw": draw}
