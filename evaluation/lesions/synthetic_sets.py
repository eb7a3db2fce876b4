"""Sets of synthetic lesions: one in every mask of a prepared dataset, as a prepared dataset of its own.

How a lesion is painted is said by `paint_batch` alone; everything else counts, keeps and assembles what it returns.
"""

import csv
import inspect
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from diffusion import LesionInpaintPipeline
from diffusion.sampling.loading import load_pipeline, weights_of
from evaluation.lesions.free_sites import free_site
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_folder
from foundation.config import config_dict
from foundation.draws import generator
from imaging.boxes import mask_box
from imaging.dataset.nodules import (
    RATINGS,
    check_output,
    check_row,
    crop_size_of,
    load_nodules,
    nodule_features,
    read_nodule,
    save_nodule_dataset,
)
from imaging.lesions.mask import grown_mask
from imaging.semantic_map import inpainting_map
from imaging.window import AIR_HU

SampleIndex = tuple[int, int]  # row of the dataset, sample of its mask


def load_and_make_set(config: SyntheticSetConfig) -> None:
    """Load the dataset's split and the pipeline that the options name, make the set, and print what came of it.

    Raises: ValueError, OSError: As `check_output`, `load_nodules`, `load_pipeline` and `make_set`.
    """
    check_output(config.out)
    nodules = load_nodules(config.data, config.split)
    pipeline, folder = load_pipeline(config)
    made, left_out = make_set(pipeline, nodules, config, weights_of(config, pipeline, folder))
    failed = f", {left_out} left out: {left_out_file(config.out)}" if left_out else ""
    print(f"synthetic lesions: {made} in {config.out}{failed}")


def make_set(
    pipeline: LesionInpaintPipeline, nodules: Dataset, config: SyntheticSetConfig, weights: Mapping[str, Any]
) -> tuple[int, int]:
    """Inpaint the batches that are missing and assemble the set in `config.out`.

    Every batch is on disk as soon as it is made, in a folder beside the set: a call with the same settings continues.
    A lesion that fails costs itself alone and is listed in `left_out_file`.

    Args:
        pipeline: What paints.
        nodules: The split of the config's dataset.
        config: What to inpaint.
        weights: The pipeline's record, from `weights_of`.
    Returns: Lesions in the set, and lesions left out.
    Raises: ValueError: If no lesion at all could be made, or an unfinished run of other settings is in the way.
    """
    pipeline.set_progress_bar_config(disable=True)
    made = config.out.with_name(f".{config.out.name}.lesions")
    claim_folder(made, {**settings_of(config), "device": pipeline.device.type, **weights})

    count = min(config.lesions or len(nodules), len(nodules))
    chosen = [int(index) for index in np.linspace(0, len(nodules) - 1, count)]
    wanted = [(index, sample) for index in chosen for sample in range(config.samples)]
    batches = [wanted[start : start + config.batch_size] for start in range(0, len(wanted), config.batch_size)]
    files = [made / f"{number:06d}.npz" for number in range(len(batches))]
    with tqdm(total=len(wanted), desc=config.out.name) as bar:
        for file, batch in zip(files, batches, strict=True):
            if not file.exists():
                _keep(file, paint_batch(pipeline, nodules, batch, config))
            bar.update(len(batch))

    left_out = {lesion: str(reason) for lesion, reason in _kept(files, "reason")}
    if len(left_out) == len(wanted):
        shutil.rmtree(made)
        first = next(iter(left_out.values()))
        raise ValueError(f"{config.data}: none of {len(wanted)} lesions could be made; the first: {first}")
    listed = left_out_file(config.out)
    listed.unlink(missing_ok=True)
    if left_out:
        write_atomically(listed, lambda temporary: _write_table(temporary, nodules, left_out))
    rows = (
        synthetic_row(given_row(nodules, index, config), ct_hu, sample, config.samples)
        for (index, sample), ct_hu in _kept(files, "lesion")
    )
    save_nodule_dataset(rows, config.out, crop_size_of(nodules))
    shutil.rmtree(made)
    return len(wanted) - len(left_out), len(left_out)


def settings_of(config: SyntheticSetConfig) -> dict[str, Any]:
    """What lesions depend on: all options but where they go, and those that are recorded as what they stand for.

    The batch size is among them, as a lesion depends on its batch by rounding.
    """
    free = ("out", "vae", "device", "threads")
    return {name: value for name, value in config_dict(config).items() if name not in free}


def left_out_file(out: Path) -> Path:
    """Where the lesions of a set that could not be made are listed."""
    return out.with_name(f"{out.name}_left_out.csv")


def paint_batch(
    pipeline: LesionInpaintPipeline, nodules: Dataset, batch: list[SampleIndex], config: SyntheticSetConfig
) -> dict[SampleIndex, np.ndarray | str]:
    """Paint a lesion into the crop of each nodule of a batch, in place of the nodule.

    Args:
        pipeline: What paints.
        nodules: The split of the config's dataset.
        batch: Which nodules, and which sample of each.
        config: How.
    Returns: Each lesion's crop, int16 HU (D, H, W), or the reason why it could not be made.
    """
    try:
        given = [given_row(nodules, index, config) for index, _ in batch]
        generators = [noise_generator(config.seed, config.samples * index + sample) for index, sample in batch]
        paint = synthesized_crops if config.site == "whole" else painted_crops
        made = paint(pipeline, given, generators, requests_of(config, given))
        size = crop_size_of(nodules)
        for (_, sample), row, volume in zip(batch, given, made, strict=True):
            check_row(synthetic_row(row, volume, sample, config.samples), size, nodule_features(size))
    except ValueError as error:
        if len(batch) == 1:
            return {batch[0]: str(error)}
        # one of them is at fault, and it alone is to be lost
        alone = [paint_batch(pipeline, nodules, [lesion], config) for lesion in batch]
        return {lesion: outcome for outcomes in alone for lesion, outcome in outcomes.items()}
    return dict(zip(batch, made, strict=True))


def requests_of(config: SyntheticSetConfig, given: list[dict[str, Any]]) -> dict[str, Any]:
    """Options of the call that paints these nodules."""
    options = config.call_options()
    own = {
        name: [None if np.isnan(row[name]) else float(row[name]) for row in given] for name in config.own_ratings or ()
    }
    return options | {"attributes": options["attributes"] | own}


def synthesized_crops(
    pipeline: LesionInpaintPipeline,
    given: list[dict[str, Any]],
    generators: list[torch.Generator],
    options: Mapping[str, Any],
) -> list[np.ndarray]:
    """Crops made altogether from the semantic maps of these nodules' crops, int16 HU (D, H, W).

    Args:
        pipeline, given, generators, options: As for :func:`painted_crops`; options of finishing and blending are of no
            use here.
    Raises: ValueError: If a crop has another spacing than the model, or as the pipeline does.
    """
    grid = pipeline.config
    spacings_mm = np.stack([row["spacing_mm"] for row in given])
    if not np.allclose(spacings_mm, grid["spacing_mm"], rtol=1e-3):
        raise ValueError(f"crops of {spacings_mm[0]} mm, the model makes crops of {grid['spacing_mm']:g} mm")
    maps = []
    for row in given:
        ct_hu, lesion_mask, valid_mask = (row[name] for name in ("ct_hu", "lesion_mask", "valid_mask"))
        paint_mask = grown_mask(lesion_mask, grid["paint_margin_mm"], row["spacing_mm"]) * valid_mask
        parts = {"solid_mask": row.get("solid_mask"), "detailed_map": grid["detailed_map"]}
        maps.append(inpainting_map(ct_hu, lesion_mask, paint_mask, row["spacing_mm"], valid_mask, **parts))
    valid = np.stack([row["valid_mask"] for row in given])[:, None]
    known = inspect.signature(pipeline.synthesize).parameters
    requested = {name: value for name, value in options.items() if name in known}
    made = pipeline.synthesize(np.stack(maps)[:, None], generator=generators, valid_mask=valid, **requested)
    return list(np.rint(made[:, 0]).clip(min=AIR_HU).astype(np.int16))  # a window reaches below air


def painted_crops(
    pipeline: LesionInpaintPipeline,
    given: list[dict[str, Any]],
    generators: list[torch.Generator],
    options: Mapping[str, Any],
) -> list[np.ndarray]:
    """The crops of these nodules with a lesion painted in each mask, int16 HU (D, H, W).

    Crops of the model's own spacing are painted as they are. Those of another one are painted as scans are, on the
    model's grid, and the difference is brought back to theirs.

    Args:
        pipeline: What paints.
        given: Rows of :func:`given_row`.
        generators: One each.
        options: Of the call.
    Raises: ValueError: As the pipeline does.
    """
    spacings_mm = np.stack([row["spacing_mm"] for row in given])
    if np.allclose(spacings_mm, pipeline.config["spacing_mm"], rtol=1e-3):
        arrays = pipeline_arrays(given)
        crops: Any = pipeline(**arrays, generator=generators, spacing_mm=spacings_mm, **options)
        return list(crops.ct[:, 0])
    import SimpleITK as sitk  # crops of the model's spacing need none

    boxes = [mask_box(row["valid_mask"]) for row in given]  # what a crop repeats beyond its scan is no scan

    def images(name: str) -> list[sitk.Image]:
        images = [sitk.GetImageFromArray(row[name][box]) for row, box in zip(given, boxes, strict=True)]
        for image, spacing_mm in zip(images, spacings_mm, strict=True):
            image.SetSpacing(spacing_mm[::-1].astype(float).tolist())
        return images

    scans: Any = pipeline(images("ct_hu"), images("lesion_mask"), generator=generators, **options)
    painted = [row["ct_hu"].copy() for row in given]
    for volume, box, scan in zip(painted, boxes, scans.ct, strict=True):
        volume[box] = sitk.GetArrayFromImage(scan)
    return painted


def noise_generator(seed: int, number: int) -> torch.Generator:
    """The noise of the lesion with this number, a function of the two alone."""
    return torch.Generator().manual_seed(int(generator(seed, "noise", number).integers(2**62)))


def given_row(nodules: Dataset, index: int, config: SyntheticSetConfig) -> dict[str, Any]:
    """A nodule's row as the pipeline receives it: its own crop, or lesion-free lung of another patient with its mask.

    Args:
        nodules: The split of the config's dataset.
        index: Of the nodule.
        config: Its `site` and seed choose the place.
    Raises: ValueError: If no crop that was tried has room.
    """
    row = read_nodule(nodules, index)
    if config.site != "free":
        return row
    random = generator(config.seed, "site", index)
    hosts = (read_nodule(nodules, int(host)) for host in random.permutation(len(nodules)))
    placed = free_site(row, hosts, random)
    if placed is None:
        raise ValueError(f"{row['nodule_id']}: no crop of another patient has lesion-free lung for its mask")
    return row | placed[0]


def pipeline_arrays(given: list[dict[str, Any]]) -> dict[str, Any]:
    """What the pipeline is called with for these nodules: `ct`, `mask`, `valid_mask`, each (B, 1, D, H, W)."""
    names = {"ct": "ct_hu", "mask": "lesion_mask", "valid_mask": "valid_mask"}
    return {argument: np.stack([row[name] for row in given])[:, None] for argument, name in names.items()}


def synthetic_row(row: dict[str, Any], ct_hu: np.ndarray, sample: int, samples: int) -> dict[str, Any]:
    """The row of a nodule with its lesion replaced.

    Args:
        row: The nodule's.
        ct_hu: The crop with the new lesion, int16 (D, H, W).
        sample, samples: Which one of how many of this mask; the name says it where there are several.
    """
    columns = set(nodule_features(1))
    kept = {key: value for key, value in row.items() if key in columns}
    kept |= {rating: None if np.isnan(row[rating]) else row[rating] for rating in RATINGS}
    name = row["nodule_id"] if samples == 1 else f"{row['nodule_id']}_seed{sample}"
    return kept | {"nodule_id": name, "ct_hu": ct_hu, "source": f"{row['source']}, inpainted"}


def _keep(path: Path, outcomes: Mapping[SampleIndex, np.ndarray | str]) -> None:
    """Store a finished batch, complete or not at all; arrays are named lesion_ROW_SAMPLE or reason_ROW_SAMPLE."""
    arrays = {
        f"{'reason' if isinstance(outcome, str) else 'lesion'}_{index}_{sample}": np.asarray(outcome)
        for (index, sample), outcome in outcomes.items()
    }

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would add an ending to a path
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomically(path, save)


def _kept(files: list[Path], kind: str) -> Iterator[tuple[SampleIndex, np.ndarray]]:
    """What is stored of a kind, "lesion" or "reason", in the order in which it was requested."""
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                stored, index, sample = name.split("_")
                if stored == kind:
                    yield (int(index), int(sample)), arrays[name]


def _write_table(path: Path, nodules: Dataset, left_out: Mapping[SampleIndex, str]) -> None:
    """Write what was left out as CSV."""
    names = nodules["nodule_id"][:]
    with path.open("w", newline="") as file:
        table = [(names[index], sample, reason) for (index, sample), reason in left_out.items()]
        csv.writer(file).writerows([("nodule_id", "sample", "reason"), *table])
