"""Unpaired patches of two sets of prepared scans, indexed by (row, draw number) of `training.draws`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion.option_types import Difference
from diffusion.spectral_filters import Filters, filters, power_of
from foundation.draws import generator
from imaging.dataset.scan_volumes import ScanEntry, open_scans
from imaging.window import AIR_HU

MOST_HU = 400  # bone above it is clipped before spectra are taken
Scans = list[tuple[ScanEntry, np.ndarray]]


class UnpairedPatches(Dataset):
    """A random patch of each of two kinds of CT, flipped at random along each axis, y and x exchanged at random.

    Scans are drawn by the size of their bodies, and a patch lies anywhere in its scan's body, or as near to it as it
    fits.

    Args:
        kind_a, kind_b: Folders of prepared scans (scripts/prepare_scans.py), without a common scan.
        patch_size: Edge in voxels, divisible by 4.
        seed: Of the run.
    Raises: ValueError: If the two have another spacing or a scan in common, or a scan is smaller than a patch.
    """

    def __init__(self, kind_a: Path, kind_b: Path, patch_size: int, seed: int) -> None:
        if patch_size < 12 or patch_size % 4:
            raise ValueError(f"patch_size {patch_size}: expected a multiple of 4 from 12")
        self.patch_size, self.seed = patch_size, seed
        self.sets = [open_scans(kind_a), open_scans(kind_b)]
        spacings = sorted({entry.spacing_mm for scans in self.sets for entry, _ in scans})
        if len(spacings) > 1:
            raise ValueError(f"{kind_a}, {kind_b}: spacings {spacings} mm, expected one; prepare both with the same")
        self.spacing_mm = spacings[0]
        shared = {entry.name for entry, _ in self.sets[0]} & {entry.name for entry, _ in self.sets[1]}
        if shared:
            raise ValueError(f"{min(shared)} is in {kind_a} and in {kind_b}; expected other patients in each")
        for folder, scans in zip((kind_a, kind_b), self.sets, strict=True):
            for entry, volume in scans:
                if min(volume.shape) < patch_size:
                    raise ValueError(
                        f"{folder}: {entry.name} has {volume.shape} voxels, a patch {patch_size}; leave it out, or "
                        "pass a smaller --patch_size"
                    )
        sizes = [[np.prod([float(last - first) for first, last in entry.body]) for entry, _ in s] for s in self.sets]
        self.shares = [np.array(size) / np.sum(size) for size in sizes]

    def __len__(self) -> int:
        return max(len(scans) for scans in self.sets)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """`a` and `b`, HU, float32 (1, P, P, P)."""
        random = generator(self.seed, "augmentation", item[1])
        drawn = [self._patch(scans, shares, random) for scans, shares in zip(self.sets, self.shares, strict=True)]
        return {"a": drawn[0], "b": drawn[1]}

    def _patch(self, scans: Scans, shares: np.ndarray, random: np.random.Generator) -> Tensor:
        entry, volume = scans[int(random.choice(len(scans), p=shares))]
        starts = []
        for (first, last), size in zip(entry.body, volume.shape, strict=True):
            first = min(first, size - self.patch_size)
            starts.append(int(random.integers(first, max(last - self.patch_size, first) + 1)))
        patch = np.array(volume[tuple(slice(start, start + self.patch_size) for start in starts)], np.float32)
        patch = np.flip(patch, tuple(axis for axis in range(3) if random.random() < 0.5))
        patch = patch.transpose(0, 2, 1) if random.random() < 0.5 else patch
        return torch.from_numpy(patch.copy())[None]


def fitted_filters(sets: Sequence[Scans], difference: Difference) -> dict[str, Filters]:
    """The filters of both directions, "a_to_b" and "b_to_a", from the spectra of two sets of scans.

    Args:
        sets: The scans of kind A and of kind B, as `UnpairedPatches.sets` are.
        difference: Of the two kinds.
    """
    clipped = [[np.clip(volume, AIR_HU, MOST_HU).astype(np.float32) for _, volume in scans] for scans in sets]
    flat = [power_of(scans, difference) for scans in clipped]
    whole = [power_of(scans, difference, share=1.0) for scans in clipped]
    return {
        "a_to_b": filters(flat[0], flat[1], difference, signal=whole[1]),
        "b_to_a": filters(flat[1], flat[0], difference, signal=whole[0]),
    }
