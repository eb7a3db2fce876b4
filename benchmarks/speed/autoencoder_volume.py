"""A whole scan through the autoencoder in tiles: seconds and peak memory.

    uv run benchmarks/speed/autoencoder_volume.py                       # 512 x 512 x 300, preset tiny
    uv run benchmarks/speed/autoencoder_volume.py --tile-cells 48 --preset base
    uv run benchmarks/speed/autoencoder_volume.py --in-one-piece true --shape 96,256,256

Peak memory is that of the whole process, libraries included (VmHWM of /proc/self/status: Linux). The volume is noise
and the weights are random: neither changes time or memory.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from autoencoder import AutoencoderKL3D
from autoencoder.networks.presets import PRESETS, PresetName
from autoencoder.tiling import TILE_CELLS, decode_volume, encode_volume
from foundation.config import launch, parse_config


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        shape: Voxels along z, y, x.
        preset: Size of the autoencoder.
        tile_cells: Latent cells of a tile's middle.
        in_one_piece: Without tiles, for comparison.
        threads: CPU threads; 0 takes PyTorch's choice.
    """

    shape: tuple[int, int, int] = (300, 512, 512)
    preset: PresetName = "tiny"
    tile_cells: int = TILE_CELLS
    in_one_piece: bool = False
    threads: int = 0


@torch.no_grad()
def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    vae = AutoencoderKL3D(**vars(PRESETS[config.preset])).eval()
    loaded = peak_gib()
    ct_norm = torch.rand(1, 1, *config.shape) * 2 - 1
    start = time.perf_counter()
    latent = (
        vae.encode(ct_norm).latent_dist.mode()
        if config.in_one_piece
        else encode_volume(vae, ct_norm, config.tile_cells)
    )
    encoded = time.perf_counter()
    made = vae.decode(latent).sample if config.in_one_piece else decode_volume(vae, latent, config.tile_cells)
    decoded = time.perf_counter()
    how = "in one piece" if config.in_one_piece else f"tiles of {config.tile_cells} cells, margin {vae.decoder_margin}"
    print(f"{tuple(made.shape[2:])}, {config.preset}, {how}, {torch.get_num_threads()} threads")
    print(f"encode {encoded - start:.0f} s, decode {decoded - encoded:.0f} s")
    print(f"peak {peak_gib():.2f} GiB, of which {loaded:.2f} before the volume")


def peak_gib() -> float:
    """Highest resident memory of this process so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 2**20


if __name__ == "__main__":
    launch(main, parse_config(Config))
