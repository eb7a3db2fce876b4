"""Prepare nodules for training that are NIfTI pairs with a table.

uv run scripts/prepare_nodules.py --scans nodules --out data/nodules --crop-size 48 --spacing-mm 1.0
uv run scripts/prepare_nodules.py --scans '[nodules_a, nodules_b]' --out data/joined
A folder has `<nodule>_ct.nii.gz`, `<nodule>_mask.nii.gz` and `nodules.csv`. Joined folders keep their own test
patients: if one table tests on a patient, the others do not train on this patient.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from foundation.config import ExistingFolder, OutputFolder, Seed, launch, read_arguments, take_old_name
from imaging.option_types import PairOutline


@dataclass(frozen=True, kw_only=True)
class PrepareNodulesConfig:
    """What to read, and the grid to resample it to.

    Attributes:
        scans: Folder with the NIfTI pairs and nodules.csv, or several folders to join, `[a, b]`.
        out: Folder of the prepared dataset, to be created.
        crop_size: Edge of the cubic crops around each lesion's centroid, voxels.
        spacing_mm: Isotropic spacing of the crops; null keeps each file's own grid.
        source: Name stored with each row; null takes the name of its folder.
        validation_share: Share of the training patients for the validation split, if the table names no validation
            patients.
        seed: Seed of that choice.
        outline: Border of the lesion mask. "half_maximum" redraws the readers' consensus where the CT is halfway
            between lung and lesion; "consensus" is what at least half of the readers outlined; "union" is the mask file
            as it is. Readers outline from outside: more than a third of a union is lung.
        fill: Values where a crop reaches outside its file: "edge" repeats the nearest voxel, "air" is -1024 HU.
        workers: Processes that read and resample.
        overwrite: Replace an existing prepared dataset.
        data: Old name of `scans`; version 0.2 will not know it.
    """

    out: OutputFolder
    scans: tuple[ExistingFolder, ...] | ExistingFolder | None = None
    crop_size: int = 48
    spacing_mm: float | None = 1.0
    source: str | None = None
    validation_share: float = 0.15
    seed: Seed = 0
    outline: PairOutline = "half_maximum"
    fill: Literal["edge", "air"] = "edge"
    workers: int = 1
    overwrite: bool = False
    data: tuple[ExistingFolder, ...] | ExistingFolder | None = None

    def __post_init__(self) -> None:
        take_old_name(self, "data", "scans")
        if self.scans is None:
            raise ValueError("nothing to read; pass --scans, a folder with NIfTI pairs and nodules.csv")
        if self.crop_size < 1 or (self.spacing_mm is not None and not self.spacing_mm > 0) or self.workers < 1:
            raise ValueError(
                f"crop_size {self.crop_size}, spacing_mm {self.spacing_mm}, workers {self.workers}: expected "
                "positive numbers (or spacing_mm null)"
            )


ARGUMENTS = read_arguments(PrepareNodulesConfig, __name__)

import SimpleITK as sitk
from datasets import Array3D, DatasetDict
from tqdm import tqdm

from imaging.dataset.nifti_pairs import read_nodule_pair, read_nodule_table
from imaging.dataset.nodules import check_output, save_nodule_dataset
from imaging.dataset.splits import join_splits, set_validation_aside
from imaging.window import AIR_HU

BATCH = 64  # nodules handed to the workers at a time, which bounds the memory


def main(config: PrepareNodulesConfig) -> None:
    check_output(config.out, config.overwrite)
    assert config.scans is not None  # or the config would have been refused
    folders = config.scans if isinstance(config.scans, tuple) else (config.scans,)
    tables = {folder: read_nodule_table(folder, config.source or folder.resolve().name) for folder in folders}
    metadata = [(folder, row) for folder, table in tables.items() for row in table.rows]
    given, torn = join_splits(row for _, row in metadata)
    splits = set_validation_aside(given, config.validation_share, config.seed)
    kept = [
        (folder, row | {"split": splits[row["patient_id"]]})
        for folder, row in metadata
        if row["patient_id"] not in torn or row["split"] == given[row["patient_id"]]
    ]
    extra: dict[str, Any] = {name: kind for table in tables.values() for name, kind in table.extra.items()}
    extra |= {
        "solid_mask": Array3D((config.crop_size,) * 3, "uint8"),
        "slice_mm": "float32",
        "outline_fallback": "string",
    }
    cut: list[str] = []
    dataset = save_nodule_dataset(read_rows(config, kept, cut), config.out, config.crop_size, extra, config.overwrite)
    print(summary(dataset))
    fallbacks = Counter(reason for nodules in dataset.values() for reason in nodules["outline_fallback"] if reason)
    if fallbacks:
        print(
            "the readers' outline was kept, because no better one was found, of "
            + ", ".join(f"{count} nodules ({reason})" for reason, count in fallbacks.most_common())
        )
    if torn:
        print(
            f"{len(metadata) - len(kept)} nodules left out, whose patients another folder tests on or watches: "
            f"{', '.join(sorted(torn))}"
        )
    if cut:
        print(f"{len(cut)} lesions are larger than the crop and were cut: {', '.join(cut)}")
    print(f"wrote {config.out}")


def read_rows(
    config: PrepareNodulesConfig, metadata: list[tuple[Path, dict[str, Any]]], cut: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the dataset's rows; ids of lesions that the crop cuts are added to `cut`.

    Raises: ValueError: After the last nodule, with every file that could not be used.
    """
    problems = []
    fill_hu = AIR_HU if config.fill == "air" else None
    options = {"crop_size": config.crop_size, "spacing_mm": config.spacing_mm, "fill_hu": fill_hu}
    crop = partial(try_pair, options | {"outline": config.outline})
    with ProcessPoolExecutor(config.workers, initializer=use_one_thread) as pool, tqdm(total=len(metadata)) as bar:
        for start in range(0, len(metadata), BATCH):
            for row, inside, problem in pool.map(crop, metadata[start : start + BATCH]):
                bar.update()
                if problem is not None:
                    problems.append(problem)
                    continue
                if not inside:
                    cut.append(row["nodule_id"])
                yield row
    if problems:
        raise ValueError(
            f"{len(problems)} nodules cannot be used; mend them or take them out of nodules.csv\n" + "\n".join(problems)
        )


def try_pair(options: dict[str, Any], pair: tuple[Path, dict[str, Any]]) -> tuple[dict, bool, str | None]:
    """A row, whether the crop holds its whole lesion, and None; or the given row, False and what is wrong."""
    folder, row = pair
    try:
        columns, whole, fallback = read_nodule_pair(folder, row, **options)
    except ValueError as error:
        return row, False, str(error)
    return columns | {"outline_fallback": fallback}, whole, None


def use_one_thread() -> None:
    """Keep SimpleITK from using all cores in each of several processes."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def summary(dataset: DatasetDict) -> str:
    """Counts by split and rounded malignancy, as a small table."""
    ratings = ["1", "2", "3", "4", "5", "not rated"]
    lines = [f"{'malignancy':<10}" + "".join(f"{rating:>10}" for rating in [*ratings, "nodules", "patients"])]
    for split, nodules in dataset.items():
        counts = Counter("not rated" if m is None else f"{m:.0f}" for m in nodules["malignancy"])
        columns = [*(counts[rating] for rating in ratings), len(nodules), len(set(nodules["patient_id"]))]
        lines.append(f"{split:<10}" + "".join(f"{count:>10}" for count in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
