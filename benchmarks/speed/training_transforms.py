"""What lesions cost in the loading of a MONAI training: patches a second with and without `RandInsertNoduled`.

    uv run benchmarks/speed/training_transforms.py --scan scan.nii.gz --pool POOL_FOLDER

Patches of 96 x 96 x 96 voxels from one scan. "memory": the volume is kept in memory (`CacheDataset`), cropped, flipped
and scaled. "augmented": also zoomed, blurred and with noise, each with the probability that nnU-Net uses. "file": read
from its file for each four patches. CPU seconds of one process, because the wall clock depends on what else runs; with
and without take turns.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data import CacheDataset, Dataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandSpatialCropd,
    RandSpatialCropSamplesd,
    RandZoomd,
    ScaleIntensityRanged,
)

from diffusion.transforms import LesionPool, RandInsertNoduled
from foundation.config import ExistingFile, ExistingFolder, launch, parse_config

KEYS = ("image", "label")
PER_FILE = 4  # patches from a volume that is read


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        scan: NIfTI file of a CT; its label map is empty.
        pool: Of lesions, as `lesion_pool` made it.
        prob: Of the transform.
        size: Edge of a patch, voxels.
        patches: In each turn, of volumes in memory.
        files: Read in each turn.
        turns: With and without.
    """

    scan: ExistingFile
    pool: ExistingFolder
    prob: float = 0.3
    size: int = 96
    patches: int = 60
    files: int = 1
    turns: int = 3


def main(config: Config) -> None:
    pool = LesionPool(config.pool)
    first = Compose([LoadImaged(KEYS), EnsureChannelFirstd(KEYS), empty_label])
    items = [{"image": str(config.scan), "label": str(config.scan)}]
    cached = CacheDataset(items, first, progress=False)[0]
    edge = 3 * (config.size,)
    flips = [RandFlipd(KEYS, 0.5, axis) for axis in range(3)]
    scale = ScaleIntensityRanged("image", -1000, 400, 0, 1, clip=True)
    augmented = [
        RandZoomd(KEYS, 0.2, 0.7, 1.4, mode=("trilinear", "nearest"), keep_size=True),
        RandGaussianSmoothd("image", prob=0.2),
        RandGaussianNoised("image", 0.1),
    ]
    crop = RandSpatialCropd(KEYS, edge, random_size=False)
    crops = RandSpatialCropSamplesd(KEYS, edge, PER_FILE, random_size=False)
    print(f"{len(pool)} lesions in the pool, prob {config.prob:g}\n")
    print("| volumes | ms a patch without | with | throughput with / without |")
    print("|---|---|---|---|", flush=True)
    insert = RandInsertNoduled(KEYS, config.prob, pool=pool)
    for name, after in (("memory", [*flips, scale]), ("memory, augmented", [*flips, *augmented, scale])):
        cases = [Compose([crop, *some, *after]) for some in ([], [insert])]
        report(name, [lambda case=case: case(cached) for case in cases], cases, config.patches, 1, config.turns)
    cases = [Compose([first, crops, *some, *flips, scale]) for some in ([], [insert])]
    datasets = [Dataset(items, case) for case in cases]
    report("file", [lambda data=data: data[0] for data in datasets], cases, config.files, PER_FILE, config.turns)


def report(name: str, calls: list[Callable[[], Any]], cases: list[Compose], count: int, each: int, turns: int) -> None:
    """Print a row; `each` patches come of a call. In a turn the same random numbers are drawn with and without."""
    taken: list[list[float]] = [[], []]
    for turn in range(turns + 1):  # the first is not counted
        for case, call in enumerate(calls):
            for transform in cases[case].transforms:
                if isinstance(transform, Randomizable):
                    transform.set_random_state(turn)
            started = time.process_time()
            for _ in range(count):
                call()
            if turn:
                taken[case].append(1000 * (time.process_time() - started) / (count * each))
    without, with_them = (float(np.median(one)) for one in taken)
    print(f"| {name} | {without:.1f} | {with_them:.1f} | {without / with_them:.2f} |", flush=True)


def empty_label(item: dict[str, Any]) -> dict[str, Any]:
    """The item with a label map of zeros."""
    return {**item, "label": item["label"] * 0}


if __name__ == "__main__":
    launch(main, parse_config(Config))
