"""Encode a prepared dataset with a trained autoencoder.

uv run scripts/encode_latents.py --data data/nodules --vae runs/vae/model --out data/latents
uv run scripts/encode_latents.py --data data/nodules --vae http://127.0.0.1:8000 --out data/latents
uv run scripts/encode_latents.py --data data/nodules07 --vae runs/vae/model --out data/latents \
    --spacing-mm 1.0 --crop-size 48 --variants 16 --variants-in-context 16 --workers 4
Training nodules are encoded in several variants (imaging/dataset/variants.py): flipped and turned, with unknown
surroundings, with another painted region; from a dataset on a finer grid also zoomed, bent and more
(imaging/dataset/augmentation.py). The same command continues an interrupted run: finished rows are kept in OUT.partial.
"""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from foundation.config import ExistingFolder, ModelSource, OutputFolder, Seed, launch, read_arguments


@dataclass(frozen=True)
class EncodeConfig:
    """Encoding.

    Attributes:
        data: Prepared dataset.
        vae: Folder, repository or URL of the trained autoencoder. If a folder's config has no latents_mean and
            latents_std yet, they are measured on the training split and stored there.
        out: Encoded dataset to create.
        spacing_mm: Spacing of the model's grid; null takes the dataset's. On a coarser grid than the dataset's, every
            variant is resampled from there once, and zoomed, bent, tilted, sharpened and shifted in density at random.
        crop_size: Edge of the model's crops, voxels; null takes the dataset's.
        variants: Variants of each training nodule whose crop reaches outside its scan; the first is the nodule itself.
        variants_in_context: Variants of each training nodule whose crop lies inside its scan; null takes `variants`.
            They teach the surroundings; such nodules are rare in data sets of boxes around lesions.
        paint_margin_mm: Margin around the lesion that is blanked and painted.
        detailed_map: Whether the semantic map shows vessels, and what is dense in the painted margin.
        unspecified_share: Share of the variants whose semantic map does not say what the lesion is made of, because
            most users have no such map.
        seed: Seed of the variants.
        float16: Store latents in half the space.
        batch_size: Variants encoded at a time.
        workers: Processes that make variants; 0 makes them between the batches.
        threads: CPU threads of the autoencoder; null leaves the default.
        device: "auto", "cpu" or "cuda".
    """

    data: ExistingFolder
    vae: ModelSource
    out: OutputFolder
    spacing_mm: float | None = None
    crop_size: int | None = None
    variants: int = 8
    variants_in_context: int | None = None
    paint_margin_mm: float = 3.0
    detailed_map: bool = True
    unspecified_share: float = 0.5
    seed: Seed = 0
    float16: bool = False
    batch_size: int = 8
    workers: int = 0
    threads: int | None = None
    device: str = "auto"

    @property
    def in_context(self) -> int:
        return self.variants if self.variants_in_context is None else self.variants_in_context

    def __post_init__(self) -> None:
        if self.variants < 1 or self.in_context < 1 or not 0 <= self.paint_margin_mm < 20:
            raise ValueError(
                f"variants {self.variants}, variants_in_context {self.in_context}, paint_margin_mm "
                f"{self.paint_margin_mm}: expected at least 1 of each, and a margin from 0 to 20 mm"
            )
        for name, low in (("crop_size", 1), ("batch_size", 1), ("workers", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} {value}, expected at least {low}")
        if not 0 <= self.unspecified_share <= 1 or (self.spacing_mm is not None and not self.spacing_mm > 0):
            raise ValueError(
                f"unspecified_share {self.unspecified_share}, spacing_mm {self.spacing_mm}: expected a share from 0 to "
                "1 and a positive spacing"
            )


ARGUMENTS = read_arguments(EncodeConfig, __name__)

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from autoencoder.latent_dataset import LATENTS, latent_features
from autoencoder.latents import measured_statistics, standardise
from autoencoder.loading import autoencoder_folder, load_autoencoder
from diffusion.conditioning import blank
from foundation.atomic import write_atomically
from foundation.device import torch_device
from foundation.draws import generator
from imaging.dataset.augmentation import Deformation, draw_deformation, resampled
from imaging.dataset.nodules import RATINGS, crop_size_of, load_nodules, read_nodule, spacing_mm_of
from imaging.dataset.rows import join_shards, write_shard
from imaging.dataset.variants import SYMMETRIES, nodule_variant, painted, usual_variant
from imaging.lesions.composition import solid_part
from imaging.lesions.measured_attributes import measured_attributes
from imaging.semantic_map import inpainting_map
from imaging.window import to_norm

MOST_VARIANTS = 10_000
SHARD = 8  # nodules: what a kill loses at most
SPLITS = ("train", "validation")  # those that trainings see
COPIED = ("nodule_id", "patient_id", "source", "split", *RATINGS)


@torch.no_grad()
def main(config: EncodeConfig) -> None:
    """Encode the splits that trainings see, standardised by the autoencoder's statistics, measured if missing."""
    if config.out.exists():
        raise ValueError(f"{config.out}: exists already; choose another --out or delete it")
    device = torch_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    counts = {split: len(load_nodules(config.data, split)) for split in SPLITS}
    vae = load_autoencoder(config.vae).to(device)
    crop_size, _ = grid_of(config)
    if crop_size % vae.factor:
        raise ValueError(f"{config.data}: crops of {crop_size} voxels, expected a multiple of the factor {vae.factor}")
    if vae.config.get("latents_mean") is None:
        store_statistics(vae, config)

    latent_shape = vae.latent_shape((1, 1, crop_size, crop_size, crop_size))[1:]
    features = latent_features(latent_shape, crop_size, "float16" if config.float16 else "float32")
    work = config.out.with_name(f"{config.out.name}.partial")
    begin_or_continue(work, config, counts)
    shards = [
        (work / f"{split}_{start:06d}.arrow", split, range(start, min(start + SHARD, counts[split])))
        for split in SPLITS
        for start in range(0, counts[split], SHARD)
    ]
    missing = [shard for shard in shards if not shard[0].exists()]
    done = sum(len(indices) for path, _, indices in shards if path.exists())
    with tqdm(total=sum(counts.values()), initial=done, desc="encoding", unit="nodule") as bar:
        for (path, _, indices), rows in zip(missing, made_shards(missing, config), strict=True):
            write_shard(encoded_rows(rows, vae, config.batch_size, device), path, features)
            bar.update(len(indices))
    join_shards({split: [path for path, name, _ in shards if name == split] for split in SPLITS}, config.out)
    shutil.rmtree(work)
    print(f"encoded dataset: {config.out}")


@lru_cache(maxsize=1)
def grid_of(config: EncodeConfig) -> tuple[int, float | None]:
    """Edge of the model's crops, and their spacing where the dataset has to be resampled to it.

    Raises: ValueError: If the dataset is coarser than the model's grid, has several spacings, or is too small to crop.
    """
    nodules = load_nodules(config.data, "train")
    own_size, own_mm = crop_size_of(nodules), spacing_mm_of(nodules)
    size = config.crop_size or own_size
    same = config.spacing_mm is None or (own_mm is not None and np.allclose(own_mm, config.spacing_mm, rtol=1e-4))
    if same and size == own_size:
        return size, None
    spacing_mm = config.spacing_mm or (own_mm[0] if own_mm is not None else 0.0)
    if own_mm is None or not np.allclose(own_mm, own_mm[0], rtol=1e-4) or own_mm[0] > spacing_mm * (1 + 1e-4):
        raise ValueError(
            f"{config.data}: spacing {'differs from row to row' if own_mm is None else own_mm} mm, expected one "
            f"isotropic spacing of at most {spacing_mm:g} mm to resample from; prepare it with --spacing-mm 0.7"
        )
    return size, spacing_mm


def begin_or_continue(work: Path, config: EncodeConfig, counts: dict[str, int]) -> None:
    """Make the folder of what is encoded so far, or check that it is of the same command.

    Raises: ValueError: If it was begun with other settings.
    """
    settings = {name: str(value) for name, value in asdict(config).items() if name not in ("workers", "threads")}
    settings |= {split: str(count) for split, count in counts.items()}
    path = work / "settings.json"
    if path.is_file():
        stored = json.loads(path.read_text())
        changed = [name for name in settings if stored.get(name) != settings[name]]
        if changed:
            raise ValueError(f"{work}: was begun with other {', '.join(changed)}; delete it or choose another --out")
        return
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(settings, indent=1)))


def store_statistics(vae: Any, config: EncodeConfig) -> None:
    """Measure the latents' mean and standard deviation on the training nodules and write them into the vae's config.

    Raises: ValueError: If the autoencoder is in no local folder.
    """
    if not Path(config.vae).is_dir():
        raise ValueError(f"{config.vae}: has no latent statistics and is no folder to store them in; download it")
    nodules = load_nodules(config.data, "train")
    size, spacing_mm = grid_of(config)
    crops = (
        _tensor(plain_arrays(complete_nodule(nodules, index), size, spacing_mm)["ct_hu"], vae)
        for index in tqdm(range(len(nodules)), desc="latent statistics")
    )
    mean, std = measured_statistics(vae, crops)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    path = autoencoder_folder(config.vae) / vae.config_name
    write_atomically(path, lambda temporary: temporary.write_text(vae.to_json_string()))
    print("latents_mean", np.round(mean, 3), "latents_std", np.round(std, 3))


def made_shards(shards: Sequence[tuple[Path, str, range]], config: EncodeConfig) -> Iterator[Iterator[dict[str, Any]]]:
    """The rows of each shard, without latents; with workers, those of the next shard are made meanwhile."""
    make = partial(variant_rows, config)
    if config.workers == 0:
        for _, split, indices in shards:
            yield itertools.chain.from_iterable(make(split, index) for index in indices)
        return
    with ProcessPoolExecutor(config.workers) as pool:
        ahead: list[list[Future]] = []
        for number in range(len(shards) + 1):
            if number < len(shards):
                _, split, indices = shards[number]
                ahead.append([pool.submit(make, split, index) for index in indices])
            if number > 0:
                yield itertools.chain.from_iterable(future.result() for future in ahead.pop(0))


def encoded_rows(
    rows: Iterator[dict[str, Any]], vae: Any, batch_size: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Rows with the posterior of their crop and of the blanked crop, standardised, each (C, d, h, w).

    The autoencoder is local to each sample, so a batch gives what its samples give one by one, up to rounding.
    """
    while batch := list(itertools.islice(rows, batch_size)):
        ct_norm = torch.cat([_tensor(row["ct_hu"], vae) for row in batch])
        paint_mask = torch.from_numpy(np.stack([row["paint_mask"] for row in batch]))[:, None]
        posterior = vae.encode(torch.cat([ct_norm, blank(ct_norm, paint_mask)]).to(device)).latent_dist
        mean, blanked = standardise(posterior.mean, vae.config).cpu().numpy().reshape(2, len(batch), -1)
        std = posterior.std[: len(batch)].cpu() / torch.tensor(vae.config["latents_std"])[:, None, None, None]
        shape = std.shape[1:]
        for row, *latents in zip(batch, mean, std.numpy(), blanked, strict=True):
            yield row | {name: latent.reshape(shape) for name, latent in zip(LATENTS, latents, strict=True)}


@lru_cache(maxsize=2)
def opened(data: Path, split: str) -> Dataset:
    """A split, opened once in each process."""
    return load_nodules(data, split)


def variant_rows(config: EncodeConfig, split: str, index: int) -> list[dict[str, Any]]:
    """The rows of a nodule's variants, without latents; each depends on the seed, the nodule's row and its number."""
    nodules = opened(config.data, split)
    _, spacing_mm = grid_of(config)
    nodule = complete_nodule(nodules, index)
    rows = []
    for number, (variant, deformation) in enumerate(variants_of(nodules, index, nodule, config)):
        solid_mask = variant.pop("solid_mask")
        unspecified = generator(config.seed, "dropout", index * MOST_VARIANTS + number).random()
        own_mm = nodule["spacing_mm"] if spacing_mm is None else np.full(3, spacing_mm, np.float32)
        rows.append(
            {
                **{name: nodule[name] for name in COPIED},
                **variant,
                **measured_attributes(variant["ct_hu"], variant["lesion_mask"]),
                **deformation.conditions(),
                "semantic_map": inpainting_map(
                    *(variant[name] for name in ("ct_hu", "lesion_mask", "paint_mask")),
                    own_mm,
                    variant["valid_mask"],
                    solid_mask=None if unspecified < config.unspecified_share else solid_mask,
                    detailed_map=config.detailed_map,
                ),
                "detailed_map": config.detailed_map,
                "variant": number,
                "spacing_mm": own_mm,
                "diameter_mm": nodule["diameter_mm"] * deformation.zoom,
                "paint_margin_mm": config.paint_margin_mm,
            }
        )
    return rows


def variants_of(
    nodules: Dataset, index: int, nodule: dict[str, Any], config: EncodeConfig
) -> Iterator[tuple[dict[str, np.ndarray], Deformation]]:
    """Arrays of a nodule's variants and how each was deformed; the first is the nodule as it is."""
    size, spacing_mm = grid_of(config)
    plain = plain_arrays(nodule, size, spacing_mm)
    own_mm = nodule["spacing_mm"] if spacing_mm is None else (spacing_mm,) * 3
    yield usual_variant(plain | {"spacing_mm": own_mm}, config.paint_margin_mm), Deformation()
    if nodule["split"] != "train":
        return
    count = config.in_context if plain["valid_mask"].all() else config.variants
    turns = generator(config.seed, "order", index).permutation(len(SYMMETRIES))
    for number in range(1, count):
        random = generator(config.seed, "augmentation", index * MOST_VARIANTS + number)
        other = int(random.integers(len(nodules)))
        symmetry = SYMMETRIES[turns[number % len(turns)]]
        if spacing_mm is None:
            foreign_mask = read_nodule(nodules, other)["lesion_mask"]
            yield nodule_variant(nodule, symmetry, random, config.paint_margin_mm, foreign_mask), Deformation()
            continue
        deformation = draw_deformation(
            random, symmetry[0], extent_mm(plain["lesion_mask"], spacing_mm), nodule["diameter_mm"], size * spacing_mm
        )
        arrays = resampled(nodule, deformation, size, spacing_mm)
        foreign = partial(foreign_lesion, nodules, other, size, spacing_mm)
        yield painted(arrays, own_mm, random, config.paint_margin_mm, foreign), deformation


def complete_nodule(nodules: Dataset, index: int) -> dict[str, Any]:
    """A row of the prepared dataset with its solid part, which older datasets lack."""
    nodule = read_nodule(nodules, index)
    if "solid_mask" not in nodule:
        nodule["solid_mask"] = solid_part(
            nodule["ct_hu"], nodule["lesion_mask"], nodule["texture"], nodule["spacing_mm"]
        )
    return nodule


def plain_arrays(nodule: dict[str, Any], size: int, spacing_mm: float | None) -> dict[str, np.ndarray]:
    """The nodule as it is on the model's grid."""
    if spacing_mm is not None:
        return resampled(nodule, Deformation(), size, spacing_mm)
    return {name: nodule[name] for name in ("ct_hu", "lesion_mask", "solid_mask", "valid_mask")}


def foreign_lesion(nodules: Dataset, index: int, size: int, spacing_mm: float) -> np.ndarray:
    """Mask of another lesion on the model's grid."""
    return resampled(complete_nodule(nodules, index), Deformation(), size, spacing_mm)["lesion_mask"]


def extent_mm(lesion_mask: np.ndarray, spacing_mm: float) -> float:
    """Longest side of a lesion's box."""
    return float(np.ptp(np.argwhere(lesion_mask), axis=0).max() + 1) * spacing_mm


def _tensor(ct_hu: np.ndarray, vae: Any) -> torch.Tensor:
    """ct_norm, (1, 1, S, S, S)."""
    window = (vae.config["window_width"], vae.config["window_level"])
    return torch.from_numpy(to_norm(ct_hu.astype(np.float32), *window))[None, None]


if __name__ == "__main__":
    launch(main, ARGUMENTS)
