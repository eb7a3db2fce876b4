"""Inpaint a new lesion into every mask of a prepared dataset, as a prepared dataset of its own.

python scripts/inpaint_nodules.py --data data/nodules --split test --pipeline runs/ldm/pipeline --out data/synthetic
What scripts/evaluate.py compares with the real lesions, and what augments a training set. Every batch is on disk as
soon as it is made: the same command continues. A lesion that fails costs itself alone and is listed in
<out>_left_out.csv.
"""

import csv
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.sampling.loading import SamplingConfig, load_pipeline, weights_of
from foundation.config import ExistingFolder, config_dict, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class InpaintNodulesConfig(SamplingConfig):
    """What to inpaint; lesion k of a nodule depends on the seed, its row and k alone.

    Attributes:
        data: Prepared dataset that gives scans and masks; the rows of `out`, a new one, keep their split.
        split: "train", "validation" or "test".
        lesions: Masks of the split to use, evenly spaced; null takes all.
        samples: Lesions for each mask; with more than one, sample k of a nodule is called <nodule>_seed<k>.
        batch_size: Lesions at a time.
    """

    data: ExistingFolder
    split: str = "test"
    lesions: int | None = None
    samples: int = 1
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or self.batch_size < 1 or (self.lesions is not None and self.lesions < 1):
            raise ValueError(
                f"samples {self.samples}, batch_size {self.batch_size}, lesions {self.lesions}: expected at least 1 of "
                "each"
            )


ARGUMENTS = read_arguments(InpaintNodulesConfig, __name__)

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from diffusion import LesionInpaintPipeline
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_folder
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
from training.draws import generator

Lesion = tuple[int, int]  # row of the dataset, sample


def main(config: InpaintNodulesConfig) -> None:
    """Load, make the set, say what came of it."""
    check_output(config.out)
    nodules = load_nodules(config.data, config.split)
    pipeline, folder = load_pipeline(config)
    made, left_out = make_set(config, nodules, pipeline, weights_of(config, pipeline, folder))
    failed = f", {left_out} left out: {left_out_file(config.out)}" if left_out else ""
    print(f"synthetic lesions: {made} in {config.out}{failed}")


def make_set(
    config: InpaintNodulesConfig, nodules: Dataset, pipeline: LesionInpaintPipeline, weights: Mapping[str, Any]
) -> tuple[int, int]:
    """Inpaint the batches that are missing and assemble the set in `config.out`.

    Args:
        config: What to inpaint.
        nodules: Its data's split.
        pipeline, weights: What paints, and its record from `weights_of`.
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
    with tqdm(total=len(wanted), desc=config.out.name) as bar:
        for number, batch in enumerate(batches):
            if not batch_file(made, number).exists():
                keep(batch_file(made, number), painted(pipeline, nodules, batch, config))
            bar.update(len(batch))

    files = [batch_file(made, number) for number in range(len(batches))]
    left_out = reasons(files)
    if len(left_out) == len(wanted):
        shutil.rmtree(made)
        first = next(iter(left_out.values()))
        raise ValueError(f"{config.data}: none of {len(wanted)} lesions could be made; the first: {first}")
    listed = left_out_file(config.out)
    listed.unlink(missing_ok=True)
    if left_out:
        write_atomically(listed, lambda temporary: write_table(temporary, nodules, left_out))
    save_nodule_dataset(rows(nodules, files, config.samples), config.out, crop_size_of(nodules))
    shutil.rmtree(made)
    return len(wanted) - len(left_out), len(left_out)


def left_out_file(out: Path) -> Path:
    """Where the lesions of a set that could not be made are listed."""
    return out.with_name(f"{out.name}_left_out.csv")


def settings_of(config: InpaintNodulesConfig) -> dict[str, Any]:
    """What lesions depend on: all options but where they go, and those that are recorded as what they stand for.

    The batch size is among them, as a lesion depends on its batch by rounding.
    """
    return {name: value for name, value in config_dict(config).items() if name not in ("out", "vae", "device")}


def batch_file(made: Path, number: int) -> Path:
    """Where a batch is kept: an int16 volume for each lesion, or the reason why there is none."""
    return made / f"{number:06d}.npz"


def keep(path: Path, outcomes: Mapping[Lesion, np.ndarray | str]) -> None:
    """Store a finished batch, complete or not at all; arrays are named lesion_ROW_SAMPLE or reason_ROW_SAMPLE."""
    arrays = {
        f"{'reason' if isinstance(outcome, str) else 'lesion'}_{index}_{sample}": np.asarray(outcome)
        for (index, sample), outcome in outcomes.items()
    }

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would add an ending to a path
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomically(path, save)


def kept(files: list[Path], kind: str) -> Iterator[tuple[Lesion, np.ndarray]]:
    """What is stored of a kind, "lesion" or "reason", in the order in which it was requested."""
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                stored, index, sample = name.split("_")
                if stored == kind:
                    yield (int(index), int(sample)), arrays[name]


def reasons(files: list[Path]) -> dict[Lesion, str]:
    """Why the missing lesions could not be made."""
    return {lesion: str(reason) for lesion, reason in kept(files, "reason")}


def painted(
    pipeline: LesionInpaintPipeline, nodules: Dataset, batch: list[Lesion], config: InpaintNodulesConfig
) -> dict[Lesion, np.ndarray | str]:
    """Each lesion of a batch with its int16 HU, or the reason why it could not be made."""
    given = [read_nodule(nodules, index) for index, _ in batch]
    seeds = [int(generator(config.seed, "noise", config.samples * i + k).integers(2**62)) for i, k in batch]
    try:
        made = pipeline(
            **masks_of(given),
            semantic_map=maps_of(given, pipeline, config.paint_margin_mm),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            spacing_mm=np.stack([row["spacing_mm"] for row in given]),
            **config.call_options(),
        )
        size = crop_size_of(nodules)
        for (_, sample), row, volume in zip(batch, given, made.ct, strict=True):
            check_row(synthetic_row(row, volume[0], sample, config.samples), size, nodule_features(size))
    except ValueError as error:
        if len(batch) == 1:
            return {batch[0]: str(error)}
        # one of them is at fault, and it alone is to be lost
        alone = [painted(pipeline, nodules, [lesion], config) for lesion in batch]
        return {lesion: outcome for outcomes in alone for lesion, outcome in outcomes.items()}
    return dict(zip(batch, made.ct[:, 0], strict=True))


def masks_of(given: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What the pipeline is called with, (B, 1, D, H, W)."""
    names = {"ct": "ct_hu", "mask": "lesion_mask", "valid_mask": "valid_mask"}
    return {argument: np.stack([row[name] for row in given])[:, None] for argument, name in names.items()}


def maps_of(
    given: list[dict[str, Any]], pipeline: LesionInpaintPipeline, paint_margin_mm: float | None
) -> np.ndarray | None:
    """Semantic maps with each nodule's own malignancy, (B, 1, D, H, W); None for a U-Net of two labels."""
    if pipeline.unet.config["num_labels"] == 2:
        return None
    margin_mm = pipeline.config["paint_margin_mm"] if paint_margin_mm is None else paint_margin_mm
    maps = [
        inpainting_map(
            row["ct_hu"],
            row["lesion_mask"],
            grown_mask(row["lesion_mask"], margin_mm, row["spacing_mm"]) * row["valid_mask"],
            row["spacing_mm"],
            row["valid_mask"],
            None if np.isnan(row["malignancy"]) else row["malignancy"],
        )
        for row in given
    ]
    return np.stack(maps)[:, None]


def synthetic_row(row: dict[str, Any], ct_hu: np.ndarray, sample: int, samples: int) -> dict[str, Any]:
    """The row of a nodule with its lesion replaced."""
    columns = set(nodule_features(1))
    kept = {key: value for key, value in row.items() if key in columns}
    kept |= {rating: None if np.isnan(row[rating]) else row[rating] for rating in RATINGS}
    name = row["nodule_id"] if samples == 1 else f"{row['nodule_id']}_seed{sample}"
    return kept | {"nodule_id": name, "ct_hu": ct_hu, "source": f"{row['source']}, inpainted"}


def rows(nodules: Dataset, files: list[Path], samples: int) -> Iterator[dict[str, Any]]:
    """The rows of the new dataset."""
    for (index, sample), ct_hu in kept(files, "lesion"):
        yield synthetic_row(read_nodule(nodules, index), ct_hu, sample, samples)


def write_table(path: Path, nodules: Dataset, left_out: Mapping[Lesion, str]) -> None:
    """Write what was left out as CSV."""
    names = nodules["nodule_id"][:]
    with path.open("w", newline="") as file:
        table = [(names[index], sample, reason) for (index, sample), reason in left_out.items()]
        csv.writer(file).writerows([("nodule_id", "sample", "reason"), *table])


if __name__ == "__main__":
    launch(main, ARGUMENTS)
