"""A pool of lesions without a network, and a chest to put them into."""

import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from diffusion.transforms.insertion import PooledLesion
from diffusion.transforms.making import lesion_bytes
from diffusion.transforms.pool import LesionPool, shard_path
from foundation.claimed_folder import SETTINGS

LUNG_HU, WALL_HU = -860.0, 40.0


def ball(radius_mm: float, opacity: float = 1.0) -> PooledLesion:
    """A ball of soft tissue with a blurred rim."""
    axis = np.arange(-int(radius_mm) - 4, int(radius_mm) + 5)
    inside = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) <= radius_mm
    soft = opacity * ndimage.gaussian_filter(inside.astype(np.float32), 0.7)
    tissue = np.full(inside.shape, 60)
    return PooledLesion(soft.astype(np.float16), tissue.astype(np.float16), inside.astype(np.uint8))


def small_pool(folder: Path) -> LesionPool:
    """Three balls of 8 to 12 mm."""
    folder.mkdir()
    (folder / SETTINGS).write_text(json.dumps({"lesions": 3}))
    shard_path(folder, 0).write_bytes(lesion_bytes([ball(radius) for radius in (4, 5, 6)]))
    return LesionPool(folder)


def chest(shape=(72, 64, 48), spacing_mm=(1.0, 1.0, 1.5), noise_hu=25.0, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """CT in HU, axes x, y, z: wall on the low side of x, then lung with a vessel along y; and where the lung is."""
    x, _, z = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(shape, spacing_mm, strict=True)), indexing="ij")
    lung = x >= 18
    ct_hu = np.where(lung & (np.hypot(x - 50, z - 36) > 2.5), LUNG_HU, WALL_HU)
    ct_hu = ct_hu + np.random.default_rng(seed).normal(0, noise_hu, shape)
    return ct_hu.astype(np.float32), lung
