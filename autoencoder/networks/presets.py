"""Named sizes of the autoencoders, and what else a config says of them; imports no torch.

What each size costs: `benchmarks/speed/autoencoder_presets.py`.
"""

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["tiny", "base", "large"]
Stem = Literal["haar", "conv"]
Norm = Literal["voxel_rms", "group"]

TILE_CELLS = 32  # latent cells of a tile's middle, along each axis: 128 voxels at factor 4


@dataclass(frozen=True)
class Preset:
    """Widths and depth.

    Attributes:
        channels: Width of each level at 1/2, 1/4, ... of the resolution: factor 4, the agreed one.
        blocks_per_level: Residual blocks at each level.
    """

    channels: tuple[int, ...]
    blocks_per_level: int


PRESETS: dict[PresetName, Preset] = {
    "tiny": Preset((32, 96), 1),  # trains on a CPU within the hour
    "base": Preset((64, 192), 2),  # one GPU
    "large": Preset((128, 384), 3),  # many scans and several GPUs
}
