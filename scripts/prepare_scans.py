"""Prepare whole scans as further training patches of the autoencoder.

python scripts/prepare_scans.py --scans scan_folder --out data/scans
A scan is a folder with a DICOM series, or a NIfTI or MetaImage file, anywhere below --scans. Keep the scans of test
patients away from here. What cannot be read is named with its reason, and left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foundation.config import ExistingFolder, OutputFolder, launch, read_arguments


@dataclass(frozen=True)
class PrepareScansConfig:
    """What to read and the grid to bring it to.

    Attributes:
        scans: Folder in which scans are looked for, at any depth.
        out: Folder to create.
        spacing_mm: Isotropic spacing; that of the nodule crops trained on beside them.
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    scans: ExistingFolder
    out: OutputFolder
    spacing_mm: float = 1.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.spacing_mm > 0:
            raise ValueError(f"spacing_mm {self.spacing_mm}: expected a positive number")


ARGUMENTS = read_arguments(PrepareScansConfig, __name__)

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from imaging.dataset.scan_volumes import save_scans
from imaging.files.ct import read_ct
from imaging.files.scan_folder import find_scans
from imaging.geometry import point_of_index, sample_grid


def main(config: PrepareScansConfig) -> None:
    """Find, read, resample and write."""
    if config.out.exists():
        raise ValueError(f"{config.out}: exists already; choose another --out or delete it")
    found = find_scans(config.scans)
    left_out: list[str] = []
    entries = save_scans(read_scans(found, config, left_out), config.out, config.spacing_mm)
    print(f"{len(entries)} scans: {config.out}")
    for line in left_out:
        print(f"left out: {line}")


def read_scans(paths: list[Path], config: PrepareScansConfig, left_out: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, HU on the isotropic grid) of each readable scan; the reasons for the others go to `left_out`."""
    for path in tqdm(paths, desc="scans"):
        try:
            ct_hu = isotropic(read_ct(path), config.spacing_mm)
        except (ValueError, OSError) as error:
            left_out.append(str(error))
            continue
        yield "_".join(path.relative_to(config.scans).parts) or path.name, ct_hu


def isotropic(image: sitk.Image, spacing_mm: float) -> np.ndarray:
    """The whole scan on an isotropic grid along its own axes, HU, (D, H, W)."""
    extent_zyx = np.array(image.GetSize()[::-1])
    own = np.array(image.GetSpacing()[::-1])
    size = np.maximum(np.floor((extent_zyx - 1) * own / spacing_mm).astype(int) + 1, 1)  # stays inside the scan
    ct_hu, _, _ = sample_grid(image, point_of_index(image, (extent_zyx - 1) / 2), size.tolist(), spacing_mm)
    return ct_hu


if __name__ == "__main__":
    launch(main, ARGUMENTS)
