"""What the transforms of both libraries are given."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from diffusion.transforms.insertion import insert_lesions
from diffusion.transforms.pool import LesionPool, PoolSettings, Request, lesion_pool

Labels = Literal["semantic", "instance"]
Pool = int | str | os.PathLike[str] | LesionPool


def pool_of(
    pool: Pool, pipeline: str, diameter_mm: tuple[float, float], attributes: Mapping[str, Request] | None, making: Any
) -> LesionPool:
    """A pool that there is, or one of so many lesions, which is made.

    Args:
        pool: As the transforms take it.
        pipeline, diameter_mm, attributes: As `PoolSettings`.
        making: `cache_dir`, `background`, `device`, `scans`, `steps` or `seed`.
    """
    if isinstance(pool, LesionPool):
        return pool
    if isinstance(pool, str | os.PathLike):
        return LesionPool(pool)
    how = {name: making.pop(name) for name in ("cache_dir", "background", "device") if name in making}
    try:
        settings = PoolSettings(
            pipeline=str(pipeline),
            diameter_mm=(float(diameter_mm[0]), float(diameter_mm[1])),
            attributes=dict(attributes or {}),
            lesions=pool,
            **making,
        )
    except TypeError as error:
        raise ValueError(f"{error}; known besides: cache_dir, background, device, scans, steps, seed") from error
    return lesion_pool(settings, **how)


def check_how(lesions: tuple[int, int], labels: Labels, label_value: int) -> tuple[int, int]:
    """The number of lesions as (least, most). Raises ValueError for what is out of range."""
    least, most = (lesions, lesions) if isinstance(lesions, int) else lesions
    if not 1 <= least <= most:
        raise ValueError(f"lesions {lesions}, expected (least, most), at least 1")
    if labels not in ("semantic", "instance"):
        raise ValueError(f"labels {labels!r}, expected semantic or instance")
    if label_value < 1:
        raise ValueError(f"label_value {label_value}, expected at least 1")
    return int(least), int(most)


def inserted(
    ct_hu: np.ndarray,
    labels: np.ndarray | None,
    affine: np.ndarray,
    pool: LesionPool,
    lesions: tuple[int, int],
    label_value: int | None,
    seed: int,
) -> int:
    """`insert_lesions` of lesions drawn from a pool, all a function of the seed; in place."""
    rng = np.random.default_rng(seed)
    drawn = [pool.draw(rng) for _ in range(int(rng.integers(lesions[0], lesions[1] + 1)))]
    return insert_lesions(ct_hu, labels, np.asarray(affine, float)[:3, :3], drawn, rng, label_value)
