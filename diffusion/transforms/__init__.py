"""Lesions in the training of a detector: transforms for MONAI and TorchIO.

- for_monai: `RandInsertNoduled`; for_torchio: `RandomInsertNodule`
- pool, making: the pool of lesions that they take from, and how it is made
- insertion: a pooled lesion into an array
"""

from typing import TYPE_CHECKING

from foundation.lazy import lazy_exports

if TYPE_CHECKING:
    from diffusion.transforms.for_monai import RandInsertNoduled
    from diffusion.transforms.for_torchio import InsertNodule, RandomInsertNodule
    from diffusion.transforms.pool import LesionPool, PoolSettings, lesion_pool
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "RandInsertNoduled": "diffusion.transforms.for_monai",
            "InsertNodule": "diffusion.transforms.for_torchio",
            "RandomInsertNodule": "diffusion.transforms.for_torchio",
            "LesionPool": "diffusion.transforms.pool",
            "PoolSettings": "diffusion.transforms.pool",
            "lesion_pool": "diffusion.transforms.pool",
        },
    )


__all__ = ["InsertNodule", "LesionPool", "PoolSettings", "RandInsertNoduled", "RandomInsertNodule", "lesion_pool"]
