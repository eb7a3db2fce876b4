"""How far from the border of the lung real nodules lie: the table in `imaging/lesions/wall_gaps.py`.

    uv run benchmarks/choices/wall_gaps.py --pairs nodule_folder

The folder holds NAME_ct.nii.gz and NAME_mask.nii.gz, crops with 25 mm or so around each nodule. The lung is found in
the crop; the nodule belongs to it. The gap is the distance between the nodule's surface and the nearest voxel that is
not lung, less one voxel, so that 0 is a nodule that touches.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from tqdm.auto import tqdm

from foundation.config import ExistingFolder, launch, parse_config
from imaging.files.ct import read_ct, read_mask
from imaging.lesions.wall_gaps import GAPS_MM, SMALL_MM
from imaging.semantic_map import lung_mask


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        pairs: Folder of crops and masks.
    """

    pairs: ExistingFolder


def main(config: Config) -> None:
    paths = sorted(config.pairs.glob("*_ct.nii.gz"))
    if not paths:
        raise ValueError(f"{config.pairs}: no NAME_ct.nii.gz, expected crops of nodules")
    gap_mm, diameter_mm = np.array([measured(path) for path in tqdm(paths, unit="nodule")]).T
    print(f"{len(paths)} nodules of {diameter_mm.min():.1f} to {diameter_mm.max():.1f} mm\n")
    print(f"| gap, mm | all | below {SMALL_MM:g} mm | others |")
    print("|---|---|---|---|")
    classes, small = np.digitize(gap_mm, GAPS_MM[1:-1]), diameter_mm < SMALL_MM
    names = ["below 1", *(f"{a:g} to {b:g}" for a, b in pairwise(GAPS_MM[1:-1]))]
    for number, name in enumerate([*names, f"from {GAPS_MM[-2]:g}"]):
        here = classes == number
        cells = [f"{here[group].sum()} ({100 * here[group].mean():.0f} %)" for group in (slice(None), small, ~small)]
        print(f"| {name} | {' | '.join(cells)} |")


def measured(path: Path) -> tuple[float, float]:
    """Gap and diameter of the sphere of equal volume, mm."""
    ct = read_ct(path)
    inside = sitk.GetArrayFromImage(read_mask(path.with_name(path.name.replace("_ct.", "_mask.")), ct)) > 0
    spacing_mm = ct.GetSpacing()[::-1]
    lung = lung_mask(sitk.GetArrayFromImage(ct).astype(np.float32), spacing_mm, whole_scan=False) | inside
    diameter_mm = float(np.cbrt(6 / np.pi * inside.sum() * np.prod(spacing_mm)))
    if lung.all():
        return np.inf, diameter_mm
    away_mm = ndimage.distance_transform_edt(lung, sampling=spacing_mm)
    return float(away_mm[inside].min()) - min(spacing_mm), diameter_mm


if __name__ == "__main__":
    launch(main, parse_config(Config))
