"""Inpaint a new lesion into every mask of a prepared dataset, as a prepared dataset of its own.

python scripts/inpaint_nodules.py --data data/nodules --split test --pipeline runs/ldm/pipeline --out data/synthetic
What scripts/evaluate.py compares with the real lesions, and what augments a training set. Every lesion is on disk as
soon as it is made: the same command continues. A lesion that fails costs itself alone and is listed in
<out>/left_out.csv.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.sampling import SamplingConfig, load_pipeline
from foundation.config import ExistingFolder, config_dict, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class InpaintNodulesConfig(SamplingConfig):
    """What to inpaint; lesion k of a nodule depends on the seed, its row and k alone.

    Attributes:
        data: Prepared dataset that gives scans and masks; the rows of `out`, a new one, keep their split.
        split: "train", "validation" or "test".
        samples: Lesions for each mask; with more than one, sample k of a nodule is called <nodule>_seed<k>.
        batch_size: Lesions at a time.
    """

    data: ExistingFolder
    split: str = "test"
    samples: int = 1
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch_size < 1:
            raise ValueError(f"samples {self.samples}, batch_size {self.batch_size}: expected at least 1 of each")


ARGUMENTS = read_arguments(InpaintNodulesConfig, __name__)

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from autoencoder.loading import weights_sha256
from diffusion import LesionInpaintPipeline
from foundation.atomic import write_atomically
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
from training.draws import generator

FREE_ON_RESUME = ("out", "batch_size", "device")


def main(config: InpaintNodulesConfig) -> None:
    """Load, inpaint what is missing, assemble."""
    check_output(config.out)
    nodules = load_nodules(config.data, config.split)
    pipeline, folder = load_pipeline(config)
    pipeline.set_progress_bar_config(disable=True)
    made = config.out.with_name(f".{config.out.name}.lesions")
    claim_folder(made, config, weights_sha256(folder))

    wanted = [(index, sample) for index in range(len(nodules)) for sample in range(config.samples)]
    done = {file.stem for file in made.iterdir()}
    missing = [lesion for lesion in wanted if lesion_file(made, lesion).stem not in done]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc="lesions") as bar:
        for first in range(0, len(missing), config.batch_size):
            batch = missing[first : first + config.batch_size]
            for lesion, outcome in painted(pipeline, nodules, batch, config):
                keep(made, lesion, outcome)
            bar.update(len(batch))

    left_out: list[tuple[str, int, str]] = []
    save_nodule_dataset(rows(nodules, wanted, made, config.samples, left_out), config.out, crop_size_of(nodules))
    if left_out:
        write_atomically(config.out / "left_out.csv", lambda temporary: write_table(temporary, left_out))
    for file in made.iterdir():
        file.unlink()
    made.rmdir()
    failed = f", {len(left_out)} left out: {config.out / 'left_out.csv'}" if left_out else ""
    print(f"synthetic lesions: {len(wanted) - len(left_out)} in {config.out}{failed}")


def claim_folder(made: Path, config: InpaintNodulesConfig, weights: str) -> None:
    """Make the folder of finished lesions, or check that it is of the same settings; ValueError naming what differs."""
    settings = {name: value for name, value in config_dict(config).items() if name not in FREE_ON_RESUME}
    settings["weights_sha256"] = weights
    path = made / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text())
        differing = [name for name in settings if earlier.get(name) != settings[name]]
        if differing:
            changes = "; ".join(f"{name}: {earlier.get(name)} -> {settings[name]}" for name in differing)
            raise ValueError(
                f"{made}: holds lesions of an unfinished run with other settings ({changes}); finish that run, delete "
                "the folder, or choose another --out"
            )
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(settings, indent=2)))


def lesion_file(made: Path, lesion: tuple[int, int]) -> Path:
    """Where lesion (row of the dataset, sample) is kept: int16 HU, (S, S, S)."""
    return made / f"{lesion[0]:06d}_{lesion[1]:03d}.npy"


def reason_file(made: Path, lesion: tuple[int, int]) -> Path:
    """Where it is said why a lesion could not be made."""
    return lesion_file(made, lesion).with_suffix(".txt")


def keep(made: Path, lesion: tuple[int, int], outcome: np.ndarray | str) -> None:
    """Store a finished lesion, or the reason why there is none; complete or not at all."""
    if isinstance(outcome, str):
        write_atomically(reason_file(made, lesion), lambda temporary: temporary.write_text(outcome))
        return

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would add an ending to a path
            np.save(file, outcome, allow_pickle=False)

    write_atomically(lesion_file(made, lesion), save)


def painted(
    pipeline: LesionInpaintPipeline, nodules: Dataset, batch: list[tuple[int, int]], config: InpaintNodulesConfig
) -> list[tuple[tuple[int, int], np.ndarray | str]]:
    """Each lesion of a batch with its int16 HU, or the reason why it could not be made."""
    given = [read_nodule(nodules, index) for index, _ in batch]
    seeds = [int(generator(config.seed, "noise", config.samples * i + k).integers(2**62)) for i, k in batch]
    try:
        result = pipeline(
            *(np.stack([row[name] for row in given])[:, None] for name in ("ct_hu", "lesion_mask")),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            spacing_mm=np.stack([row["spacing_mm"] for row in given]),
            **config.call_options(),
        ).ct
        size = crop_size_of(nodules)
        for (_, sample), row, volume in zip(batch, given, result, strict=True):
            check_row(synthetic_row(row, volume[0], sample, config.samples), size, nodule_features(size))
    except ValueError as error:
        if len(batch) == 1:
            return [(batch[0], str(error))]
        # one of them is at fault, and it alone is to be lost
        return [outcome for lesion in batch for outcome in painted(pipeline, nodules, [lesion], config)]
    return [(lesion, volume[0]) for lesion, volume in zip(batch, result, strict=True)]


def synthetic_row(row: dict[str, Any], ct_hu: np.ndarray, sample: int, samples: int) -> dict[str, Any]:
    """The row of a nodule with its lesion replaced."""
    columns = set(nodule_features(1))
    kept = {key: value for key, value in row.items() if key in columns}
    kept |= {rating: None if np.isnan(row[rating]) else row[rating] for rating in RATINGS}
    name = row["nodule_id"] if samples == 1 else f"{row['nodule_id']}_seed{sample}"
    return kept | {"nodule_id": name, "ct_hu": ct_hu, "source": f"{row['source']}, inpainted"}


def rows(
    nodules: Dataset, wanted: list[tuple[int, int]], made: Path, samples: int, left_out: list[tuple[str, int, str]]
) -> Iterator[dict[str, Any]]:
    """The rows of the new dataset; what could not be made is added to `left_out` as (nodule, sample, reason)."""
    for lesion in wanted:
        row = read_nodule(nodules, lesion[0])
        if reason_file(made, lesion).exists():
            left_out.append((row["nodule_id"], lesion[1], reason_file(made, lesion).read_text()))
        else:
            yield synthetic_row(row, np.load(lesion_file(made, lesion), allow_pickle=False), lesion[1], samples)


def write_table(path: Path, left_out: list[tuple[str, int, str]]) -> None:
    """Write what was left out as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("nodule_id", "sample", "reason"), *left_out])


if __name__ == "__main__":
    launch(main, ARGUMENTS)
