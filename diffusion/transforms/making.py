"""Makes the lesions of a pool: `python -m diffusion.transforms.making FOLDER DEVICE` goes on with one in a folder."""

import sys
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from filelock import Timeout
from safetensors.numpy import save
from tqdm.auto import tqdm

from diffusion.attributes import requestable
from diffusion.sampling.pipeline import LesionInpaintPipeline
from diffusion.sampling.request import STEPS
from diffusion.shapes import met_by_shape, shapes_for
from diffusion.transforms.insertion import PooledLesion, pooled_lesion
from diffusion.transforms.pool import SHARD, PoolSettings, complete, drawn_request, settings_in, shard_path
from foundation.atomic import write_atomically
from foundation.claimed_folder import folder_lock
from foundation.device import torch_device
from imaging.files.ct import read_ct
from imaging.files.scan_folder import find_scans
from imaging.geometry import sample_grid
from imaging.lesions.sites import FreeLung, free_lung, free_lung_sites
from imaging.phantom.anatomy import draw_anatomy, grid_mm, lung_surface
from imaging.phantom.chest import render

ATTEMPTS = 4  # for a lesion that does not show
AROUND_MM = 5.0  # lung around a lesion, so that nothing but lung is below it
CHEST_MM = (130.0, 105.0, 140.0)  # half of the phantom's box, z, y, x
PER_PATIENT = 4  # lesions in one phantom's lung


def fill_pool(folder: Path, device: str = "auto") -> None:
    """Make the files of a pool that are not there; several processes divide the work.

    Args:
        folder: With its settings.
        device: Where the pipeline runs.
    Raises: ValueError: If the pipeline cannot be requested an attribute, or a scan cannot be read.
    """
    settings = settings_in(folder)
    pipeline = LesionInpaintPipeline.from_pretrained(settings.pipeline).to(torch_device(device))
    pipeline.set_progress_bar_config(disable=True)
    backgrounds = _phantoms(pipeline, settings) if settings.scans is None else _scans(pipeline, settings)
    missing = [number for number in range(settings.shards) if not shard_path(folder, number).exists()]
    for number in tqdm(missing, desc="pool of lesions", unit=f"{SHARD} lesions"):
        try:
            with folder_lock(folder, f"{number:04d}", timeout_s=0):
                path = shard_path(folder, number)
                if not path.exists():
                    content = lesion_bytes(_made(pipeline, settings, number, backgrounds))
                    write_atomically(path, partial(Path.write_bytes, data=content))
        except Timeout:
            continue  # in another process's hands
    for number in range(settings.shards):  # until the others are done
        with folder_lock(folder, f"{number:04d}"):
            pass
    if not complete(folder, settings.shards):
        raise ValueError(f"{folder}: another process stopped before its lesions were made; run the same again")


Background = Any  # a function: lesion number, diameter -> (D, H, W) HU


def _made(pipeline: Any, settings: PoolSettings, shard: int, background: Background) -> list[PooledLesion]:
    """The lesions of a file; one that never shows is left out."""
    numbers = list(range(shard * SHARD, min((shard + 1) * SHARD, settings.lesions)))
    found: dict[int, PooledLesion] = {}
    edge = pipeline.config["crop_size"]
    of_unet = requestable(pipeline.unet.config.get("attributes") or ())
    of_guide = pipeline.guide.attributes if pipeline.guide is not None else ()
    known = list(dict.fromkeys([*of_unet, *of_guide, *met_by_shape(shapes_for(pipeline, "real"))]))
    for attempt in range(ATTEMPTS):
        missing = [number for number in numbers if number not in found]
        if not missing:
            break
        draws = [np.random.default_rng([settings.seed, number, attempt]) for number in missing]
        diameters = [float(rng.uniform(*settings.diameter_mm)) for rng in draws]
        requests = {
            name: [drawn_request(value, name, known, rng) for rng in draws]
            for name, value in settings.attributes.items()
        }
        crops = np.stack(
            [background(number, mm, rng) for number, mm, rng in zip(missing, diameters, draws, strict=True)]
        )
        made = pipeline(
            crops[:, None],
            center=3 * ((edge - 1) / 2,),
            diameter_mm=diameters,
            attributes=requests,
            num_inference_steps=settings.steps or STEPS,
            generator=[torch.Generator().manual_seed(int(rng.integers(2**62))) for rng in draws],
            match_noise=False,  # each scan keeps its own
            output_type="np",
        )
        for number, painted, given, mask in zip(missing, made.ct, crops, made.lesion_mask, strict=True):
            lesion = pooled_lesion(painted[0], given, mask[0], pipeline.config["spacing_mm"])
            if lesion is not None:
                found[number] = lesion
    return [found[number] for number in numbers if number in found]


def _phantoms(pipeline: Any, settings: PoolSettings) -> Background:
    """Lung of chest phantoms."""
    size, spacing = (pipeline.config["crop_size"],) * 3, (pipeline.config["spacing_mm"],) * 3

    def background(number: int, diameter_mm: float, rng: np.random.Generator) -> np.ndarray:
        anatomy = draw_anatomy(settings.seed * 100_003 + number // PER_PATIENT)
        points = rng.uniform(-1, 1, (4096, 3)) * CHEST_MM
        depth_mm = -lung_surface(anatomy, tuple(points.astype(np.float32).T))
        deep = points[np.argsort(-depth_mm)[:256]]
        fits = points[depth_mm > diameter_mm / 2 + AROUND_MM]
        z, y, x = rng.choice(fits if len(fits) else deep).tolist()
        return render(anatomy, [], grid_mm(size, spacing, (z, y, x)), spacing, rng)[0].astype(np.float32)

    return background


def _scans(pipeline: Any, settings: PoolSettings) -> Background:
    """Free lung of a folder's scans, one after the other: each scan is read once."""
    paths = find_scans(Path(str(settings.scans)))

    @lru_cache(maxsize=1)
    def read(path: Path) -> tuple[sitk.Image, FreeLung]:
        ct = read_ct(path)
        try:
            return ct, free_lung(ct)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def background(number: int, diameter_mm: float, rng: np.random.Generator) -> np.ndarray:
        ct, lung = read(paths[number * len(paths) // settings.lesions])
        (site,) = free_lung_sites(lung, diameter_mm, 1, rng, AROUND_MM)
        return sample_grid(ct, site, pipeline.config["crop_size"], pipeline.config["spacing_mm"])[0]

    return background


def lesion_bytes(lesions: list[PooledLesion]) -> bytes:
    """The content of a file of a pool, safetensors."""

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for number, lesion in enumerate(lesions):
            for name in ("opacity", "tissue_hu", "mask"):
                yield f"{number}.{name}", np.ascontiguousarray(getattr(lesion, name))
            yield f"{number}.spacing_mm", np.array([lesion.spacing_mm])

    return save(dict(arrays()))


if __name__ == "__main__":
    fill_pool(Path(sys.argv[1]), sys.argv[2])
