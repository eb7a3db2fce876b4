"""A finished set of synthetic scans, and the real scans that it was made from, without a model."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from imaging.dataset.existing_nodules import scans_with_existing
from imaging.dataset.manifest import join_manifests
from imaging.dataset.synthetic_scans import ROWS, write_synthetic_scan
from imaging.files.ct import write_ct
from imaging.layouts.cases import Case, real_cases, synthetic_cases

SHAPE, SPACING_MM = (8, 20, 24), (2.5, 0.8, 0.7)
OWN = np.zeros(SHAPE, np.uint8)  # a nodule of the scans' own
OWN[5:7, 12:17, 3:9] = 1
BOXES = {1: np.s_[1:3, 2:5, 2:7], 3: np.s_[2:4, 8:10, 14:20]}  # the second of three lesions was given up
OUTPUTS = {"000000": "a.nii.gz", "000001": "sub/b.nii.gz", "000002": "a.nii.gz", "000003": "c.nii.gz"}


class Made(NamedTuple):
    """Folders: of the set, the real scans and the masks of two of them."""

    synthetic: Path
    scans: Path
    masks: Path

    def cases(self) -> list[Case]:
        existing = scans_with_existing(self.scans, self.masks)[1]
        return [*synthetic_cases(self.synthetic, {}), *real_cases(self.scans, existing, {})]


def image_of(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin((-90.0, 20.0, -300.0))
    return image


def rows_of(output: str, scan: str) -> list[dict]:
    known = {"output": output, "scan": scan, "patient": scan, "attempt": 0}
    lesion = {**known, "source": "synthetic", "noise_seed": 7}
    return [
        {**lesion, "lesion": 0, "accepted": True, "label": 1, "requested_texture": 4.0},
        {**lesion, "lesion": 1, "accepted": False, "reason": "no site"},
        {**lesion, "lesion": 2, "accepted": True, "label": 3},
        {**known, "accepted": False, "label": 4, "source": "a.nii.gz: nodule 1"},
    ]


def write_set(folder: Path, write: str = "scans") -> None:
    rng = np.random.default_rng(0)
    for output, scan in OUTPUTS.items():
        labels = 4 * OWN
        for label, box in BOXES.items():
            labels[box] = label
        rows = [{"center_zyx": [2.0, 3.0, 4.0], **row} for row in rows_of(output, scan)]
        ct = image_of(rng.integers(-1000, 300, SHAPE).astype(np.int16))
        (folder / "scans").mkdir(parents=True, exist_ok=True)
        write_synthetic_scan(folder / "scans" / output, rows, ct, image_of(labels), write)
    (folder / "scans/000004").mkdir()  # an output without a lesion
    write_synthetic_scan(folder / "scans/000004/x", [], None, None)
    (folder / "scans/000004/x" / ROWS).rename(folder / "scans/000004" / ROWS)
    join_manifests(sorted(folder.glob(f"scans/*/{ROWS}")), folder / "manifest.parquet")


def write_made(root: Path) -> Made:
    write_set(root / "set")
    rng = np.random.default_rng(1)
    for scan in ("a.nii.gz", "sub/b.nii.gz", "c.nii.gz"):
        write_ct(image_of(rng.integers(-1000, 300, SHAPE).astype(np.int16)), root / "real" / scan)
    write_ct(image_of(OWN), root / "masks/a.nii.gz")
    write_ct(image_of(0 * OWN), root / "masks/sub/b.nii.gz")
    return Made(root / "set", root / "real", root / "masks")
