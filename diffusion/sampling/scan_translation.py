"""Translates a whole scan, tile by tile: the tiles agree at their borders, because noise and filter are of the scan.

The generators are local operators. Each call runs over all tiles before the next begins, with a margin as wide as one
call sees. So the result does not depend on the tiles, and nothing has to be blended.
"""

from itertools import product

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from diffusion.translation_networks import LOCAL_MEAN, UNIT_HU, TranslationGenerator
from diffusion.translator import Direction, Translator
from imaging.geometry import paste_difference, point_of_index, sample_grid
from imaging.window import AIR_HU

TILE = 128  # voxels of a tile's middle along each axis


def translate_scan(
    translator: Translator,
    ct: sitk.Image,
    direction: Direction,
    seed: int = 0,
    samples: int = 1,
    tile: int = TILE,
    progress: bool = True,
) -> sitk.Image:
    """A scan as the other kind, on its own grid.

    It is translated on the translator's grid, and the difference is added to the scan. Detail of the scan that is too
    fine for that grid stays as it is.

    Args:
        translator: In eval mode, on any device.
        ct: 3D scalar image, HU. A scanner's padding, below air, keeps every bit.
        direction: "a_to_b" or "b_to_a".
        seed: Of the noise.
        samples: How many samples the result is the mean of; several have less noise than the wanted kind has.
        tile: Edge of a tile without its margin, even. Smaller tiles need less memory and more time.
        progress: Show a progress bar.
    Returns: A new image of the scan's type and geometry.
    Raises: ValueError: If an option is out of range, or the scan has no voxel of air or denser.
    """
    inside = sitk.Cast(ct >= AIR_HU, sitk.sitkUInt8)
    if not sitk.GetArrayViewFromImage(inside).any():
        raise ValueError(f"the scan has no voxel from {AIR_HU} HU on, expected a CT in Hounsfield units")
    spacing = translator.config["spacing_mm"]
    extent, own = np.array(ct.GetSize()[::-1]), np.array(ct.GetSpacing()[::-1])
    size = np.ceil((extent - 1) * own / spacing - 1e-6).astype(int) + 2  # covers the scan
    ct_hu, _, grid = sample_grid(ct, point_of_index(ct, ((extent - 1) / 2).tolist()), size.tolist(), spacing)
    difference = change_of(translator, torch.from_numpy(ct_hu)[None, None], direction, seed, samples, tile, progress)
    return paste_difference(ct, grid, difference[0, 0].numpy(), inside)


def change_of(
    translator: Translator,
    ct_hu: Tensor,
    direction: Direction,
    seed: int = 0,
    samples: int = 1,
    tile: int = TILE,
    progress: bool = True,
) -> Tensor:
    """What a translation adds to a volume on the translator's grid; further arguments as of `translate_scan`.

    Args:
        ct_hu: (B, 1, D, H, W), float, HU, on the CPU.
    Returns: HU, same shape; the samples' mean.
    """
    if tile < 2 or tile % 2:
        raise ValueError(f"tile {tile}: expected an even number of voxels from 2")
    if samples < 1:
        raise ValueError(f"samples {samples}: expected at least 1")
    shape = ct_hu.shape[2:]
    if min(shape) < 2 * LOCAL_MEAN:
        raise ValueError(f"scan of {tuple(shape)} voxels, expected at least {2 * LOCAL_MEAN} along each axis")
    ends = [size % 2 for size in shape]
    padded = F.pad(ct_hu.float(), (0, ends[2], 0, ends[1], 0, ends[0]), mode="replicate")
    source = translator.to_units(padded)
    starts = list(product(*[range(0, size, tile) for size in source.shape[2:]]))
    calls = samples * max(len(translator.signal()), 1)
    bar = tqdm(total=calls * len(starts), desc="tiles", disable=not progress)

    def in_tiles(generator: TranslationGenerator, source: Tensor, *inputs: Tensor | None) -> Tensor:
        made = torch.empty_like(source)
        for start in starts:
            made[_box(start, tile, 0)] = _tile(generator, start, tile, (source, *inputs))
            bar.update()
        return made

    residual = torch.zeros_like(source)
    for sample in range(samples):
        random = torch.Generator().manual_seed(seed + 1_000_003 * sample)
        residual += translator.residual(source, direction, random, in_tiles)
    bar.close()
    change = translator.base(source, direction) + residual / samples - source
    return UNIT_HU * change[..., : shape[0], : shape[1], : shape[2]]


def _tile(
    generator: TranslationGenerator, start: tuple[int, ...], tile: int, inputs: tuple[Tensor | None, ...]
) -> Tensor:
    """A generator's output in the middle of a tile, from volumes and, last, ᾱ, which is no volume."""
    margin, device = generator.margin, next(generator.parameters()).device
    windows = [
        None if one is None else (one[_box(start, tile, margin)] if one.ndim == 5 else one).to(device) for one in inputs
    ]
    first = [min(at, margin) for at in start]
    made = generator(*windows).cpu()
    return made[(..., *[slice(at, at + tile) for at in first])]


def _box(start: tuple[int, ...], tile: int, margin: int) -> tuple:
    return (..., *[slice(max(at - margin, 0), at + tile + margin) for at in start])
