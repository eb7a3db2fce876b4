"""Whole volumes in bounded memory: tiles with margins, equal to encoding and decoding in one piece.

The autoencoders are local operators (`is_local`), so the middle of a tile does not depend on what lies beyond its
margin; nothing is blended.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from autoencoder.networks.presets import TILE_CELLS


@torch.no_grad()
def encode_volume(vae: Any, ct_norm: Tensor, tile_cells: int = TILE_CELLS, progress: bool = True) -> Tensor:
    """Mode of the posterior of a whole volume, tile by tile.

    Args:
        vae: `AutoencoderKL3D` or `VQAutoencoder3D`, in eval mode, on any device.
        ct_norm: (1, 1, D, H, W), anywhere, also memory-mapped; D, H, W divisible by the factor.
        tile_cells: Latent cells of a tile's middle along each axis. Memory grows with its cube, the work that is
            done twice falls with it.
        progress: Show a progress bar.
    Returns: Latent, (1, C, D/f, H/f, W/f), on the CPU; equal to `vae.encode` of the whole up to float32 rounding.
    Raises: ValueError: If the autoencoder is no local operator, or a shape does not fit.
    """
    _check(vae, ct_norm, 1, "ct_norm")
    if any(size % vae.factor for size in ct_norm.shape[2:]):
        raise ValueError(
            f"ct_norm has shape {tuple(ct_norm.shape)}: expected D, H, W divisible by {vae.factor}; pad or crop it"
        )
    latent = torch.empty(vae.latent_shape(tuple(ct_norm.shape)))
    for tile in _tiles(tuple(latent.shape[2:]), tile_cells, vae.encoder_margin, "encoding", progress):
        window = ct_norm[_box(tile.outer, vae.factor)].to(vae.device, vae.dtype)
        made = vae.encode(window).latent_dist.mode()
        latent[_box(tile.middle)] = made[_box(tile.middle_in_outer)].float().cpu()
    return latent


@torch.no_grad()
def decode_volume(vae: Any, latent: Tensor, tile_cells: int = TILE_CELLS, progress: bool = True) -> Tensor:
    """Decode a whole latent volume tile by tile; arguments as in :func:`encode_volume`.

    Args:
        latent: (1, C, d, h, w), as `vae.decode` takes it.
    Returns: ct_norm, (1, 1, fd, fh, fw), on the CPU; equal to `vae.decode` of the whole up to float32 rounding.
    Raises: ValueError: If the autoencoder is no local operator, or the shape does not fit.
    """
    _check(vae, latent, vae.config["latent_channels"], "latent")
    f = vae.factor
    ct_norm = torch.empty((1, 1, *[size * f for size in latent.shape[2:]]))
    for tile in _tiles(tuple(latent.shape[2:]), tile_cells, vae.decoder_margin, "decoding", progress):
        made = vae.decode(latent[_box(tile.outer)].to(vae.device, vae.dtype)).sample
        ct_norm[_box(tile.middle, f)] = made[_box(tile.middle_in_outer, f)].float().cpu()
    return ct_norm


Range = tuple[int, int]


class _Tile:
    """A tile in latent cells along z, y, x: its middle, the middle with margins as far as the volume goes."""

    def __init__(self, starts: tuple[int, ...], shape: tuple[int, ...], cells: int, margin: int) -> None:
        self.middle = [(a, min(a + cells, n)) for a, n in zip(starts, shape, strict=True)]
        self.outer = [(max(a - margin, 0), min(b + margin, n)) for (a, b), n in zip(self.middle, shape, strict=True)]
        self.middle_in_outer = [(a - o, b - o) for (a, b), (o, _) in zip(self.middle, self.outer, strict=True)]


def _tiles(shape: tuple[int, ...], cells: int, margin: int, what: str, progress: bool) -> Iterator[_Tile]:
    if cells < 1:
        raise ValueError(f"tile_cells {cells}: expected at least 1")
    starts = list(product(*[range(0, size, cells) for size in shape]))
    for start in tqdm(starts, desc=f"{what} tiles", disable=not progress):
        yield _Tile(start, shape, cells, margin)


def _box(ranges: list[Range], factor: int = 1) -> tuple[slice, ...]:
    return (slice(None), slice(None), *[slice(factor * a, factor * b) for a, b in ranges])


def _check(vae: Any, volume: Tensor, channels: int, name: str) -> None:
    if not vae.is_local:
        raise ValueError(
            "this autoencoder has group norm or attention, whose tiles would disagree; train one with norm voxel_rms "
            "and without mid_attention"
        )
    if volume.ndim != 5 or volume.shape[0] != 1 or volume.shape[1] != channels:
        raise ValueError(f"{name} has shape {tuple(volume.shape)}, expected (1, {channels}, D, H, W)")
