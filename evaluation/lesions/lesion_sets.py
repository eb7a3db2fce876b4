"""The lesions to compare, from a prepared dataset or from a folder of NIfTI pairs, and the region each metric sees."""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation, map_coordinates
from tqdm import tqdm

from imaging.dataset.nodules import load_nodules
from imaging.dataset.rows import SPLITS, RowReader
from imaging.window import to_norm

SEED_SUFFIX = re.compile(r"_seed(\d+)$")
KEPT = 128  # lesions whose voxels stay in memory when they are read again and again; 200 MB of crops of 64 voxels
VOXELS = ("ct_hu", "lesion_mask", "valid_mask")
Voxels = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float, float]]  # VOXELS and the spacing
Candidate = tuple[str, str, Callable[[], Voxels]]  # name, patient
CUBE_SIDE = 32  # voxels of 1 mm: holds a nodule by definition (at most 30 mm)


@dataclass(frozen=True)
class Lesion:
    """One lesion crop.

    Attributes:
        name: Unique in its set. `<mask>_seed<k>` says: the k-th sample for the mask called `<mask>`.
        patient_id: Lesions of one patient are never separated by a split or a resampling.
        ct_hu: (D, H, W) float32, HU.
        lesion_mask: (D, H, W) bool.
        valid_mask: (D, H, W) bool, False on padding; always True inside the lesion mask.
        spacing_mm: (z, y, x).
    """

    name: str
    patient_id: str
    ct_hu: np.ndarray
    lesion_mask: np.ndarray
    valid_mask: np.ndarray
    spacing_mm: tuple[float, float, float]

    @property
    def mask_name(self) -> str:
        """The name without `_seed<k>`; pairs are made of equal mask names."""
        return SEED_SUFFIX.sub("", self.name)


@dataclass(frozen=True)
class StoredLesion(Lesion):
    """A lesion whose voxels stay on disk: they are read when they are looked at, so a set may be larger than memory.

    Attributes:
        read: Reads `VOXELS`. The last `KEPT` lesions that were read stay in memory.
    """

    ct_hu: np.ndarray = field(init=False, repr=False, compare=False)
    lesion_mask: np.ndarray = field(init=False, repr=False, compare=False)
    valid_mask: np.ndarray = field(init=False, repr=False, compare=False)
    read: Callable[[], Voxels]

    def __getattr__(self, name: str) -> np.ndarray:  # of what is no attribute: the voxels
        if name not in VOXELS:
            raise AttributeError(name)
        *voxels, _ = self.read()
        found: np.ndarray = voxels[VOXELS.index(name)]
        return found


def load_lesions(path: Path, split: str, stored: bool = False) -> tuple[list[Lesion], list[str]]:
    """Read a set, leaving out lesions that cannot be measured at all.

    Args:
        path: Prepared dataset (`imaging.dataset.nodules`), or folder of `<name>_ct.nii.gz` + `<name>_mask.nii.gz` in
            HU. Such a folder may hold `nodules.csv` with the columns `nodule`, `patient_id` (or `patient_id_approx`)
            and `split`; without it each mask name counts as a patient and `split` is not looked at.
        split: "train", "validation", "test" or "all".
        stored: Give lesions whose voxels stay on disk (`StoredLesion`), for sets of any size.
    Returns: The lesions sorted by name, and a sentence for each one left out (unreadable, empty mask, NaN, shapes).
    Raises: ValueError: If the folder is neither of the two, or no usable lesion is in the split.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split {split!r}, expected one of {', '.join((*SPLITS, 'all'))}")
    if (path / "dataset_dict.json").is_file():
        candidates: Iterator[Candidate] = _in_dataset(path, split)
    elif path.is_dir() and any(path.glob("*_ct.nii.gz")):
        candidates = _in_folder(path, split)
    else:
        raise ValueError(f"{path}: expected a prepared dataset or a folder of <name>_ct.nii.gz + <name>_mask.nii.gz")
    lesions: list[Lesion] = []
    left_out = []
    for name, patient, read in candidates:
        try:
            ct_hu, lesion_mask, valid_mask, spacing_mm = read()
        except ValueError as error:
            left_out.append(f"{name}: {error}")
            continue
        lesion = Lesion(name, patient, ct_hu, lesion_mask, valid_mask, spacing_mm)
        reason = _unusable(lesion)
        if reason:
            left_out.append(f"{name}: {reason}")
        else:
            lesions.append(StoredLesion(name, patient, spacing_mm, read) if stored else lesion)
    if not lesions:
        raise ValueError(f"{path}: no usable lesion in split {split!r}; {'; '.join(left_out) or 'the split is empty'}")
    return sorted(lesions, key=lambda lesion: lesion.name), left_out


def lesion_cube(lesion: Lesion, side: int = CUBE_SIDE, rim: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The lesion on a cubic grid of 1 mm centred on the mask's centroid, rounded to the voxel.

    At 1 mm spacing this is an exact crop; otherwise the CT is interpolated linearly and the mask by nearest neighbour.

    Args:
        lesion: Any spacing.
        side: Edge in voxels of 1 mm.
        rim: Voxels further than this from the mask (in dilations by faces) become -1; None keeps all context.
    Returns: `ct_norm` (side, side, side) float32, -1 outside the volume, on padding and beyond the rim; and the mask.
    """
    centre = np.round(np.argwhere(lesion.lesion_mask).mean(axis=0))
    axes = [c + (np.arange(side) - side // 2) / s for c, s in zip(centre, lesion.spacing_mm, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    ct_norm = to_norm(np.where(lesion.valid_mask, lesion.ct_hu, -1e4).astype(np.float32))
    cube = map_coordinates(ct_norm, grid, order=1, mode="constant", cval=-1.0)
    mask = map_coordinates(lesion.lesion_mask.astype(np.uint8), grid, order=0, mode="constant", cval=0).astype(bool)
    if rim is not None:
        near = binary_dilation(mask, iterations=rim) if rim > 0 else mask
        cube = np.where(near, cube, np.float32(-1))
    return cube, mask


def centre_slices(cube: np.ndarray) -> np.ndarray:
    """The axial, coronal and sagittal slice through the centre of a cube.

    Args:
        cube: (S, S, S), any unit.
    Returns: (3, S, S).
    """
    middle = cube.shape[0] // 2
    return np.stack([cube[middle], cube[:, middle], cube[:, :, middle]])


def match_pairs(real: list[Lesion], synthetic: list[Lesion]) -> tuple[list[tuple[Lesion, Lesion]], list[str]]:
    """Synthetic lesions with the real lesion in whose mask they were made.

    Args:
        real, synthetic: Two sets; those without a partner of the same mask name are passed over.
    Returns: Pairs (real, synthetic), several of one real lesion where its mask has several samples; and a sentence for
        each pair left out because shapes or masks differ.
    """
    by_name = {lesion.mask_name: lesion for lesion in real}
    pairs, left_out = [], []
    for lesion in synthetic:
        partner = by_name.get(lesion.mask_name)
        if partner is None:
            continue
        if partner.ct_hu.shape != lesion.ct_hu.shape:
            left_out.append(
                f"{lesion.name}: shape {lesion.ct_hu.shape} but the real one has {partner.ct_hu.shape}; not paired"
            )
        elif not np.array_equal(partner.lesion_mask, lesion.lesion_mask):
            left_out.append(f"{lesion.name}: its mask differs from the real one's; not paired")
        else:
            pairs.append((partner, lesion))
    return pairs, left_out


def _unusable(lesion: Lesion) -> str | None:
    if not lesion.ct_hu.shape == lesion.lesion_mask.shape == lesion.valid_mask.shape:
        return f"CT has shape {lesion.ct_hu.shape} but its mask {lesion.lesion_mask.shape}; left out"
    if not lesion.lesion_mask.any():
        return "the lesion mask is empty; left out"
    if not (lesion.lesion_mask & lesion.valid_mask).any():
        return "the lesion lies wholly on padding; left out"
    if not np.isfinite(lesion.ct_hu[lesion.valid_mask]).all():
        return "the CT has NaN or infinite values; left out"
    return None


def _in_dataset(path: Path, split: str) -> Iterator[Candidate]:
    present = [name for name in SPLITS if (path / name).is_dir()]
    for name in present if split == "all" else [split]:
        dataset = load_nodules(path, name)
        nodules, patients = dataset["nodule_id"], dataset["patient_id"]
        for index in tqdm(range(len(dataset)), desc=f"{path.name} {name}", leave=False):
            yield nodules[index], patients[index], partial(_voxels_of_row, path, name, index)


@lru_cache(maxsize=KEPT)
def _voxels_of_row(path: Path, split: str, index: int) -> Voxels:
    row = _rows(path, split)[index]
    valid = row["valid_mask"].astype(bool)
    z, y, x = (float(s) for s in row["spacing_mm"])
    return row["ct_hu"].astype(np.float32), row["lesion_mask"].astype(bool) & valid, valid, (z, y, x)


@lru_cache(maxsize=8)
def _rows(path: Path, split: str) -> RowReader:
    return RowReader(load_nodules(path, split).select_columns(["ct_hu", "lesion_mask", "valid_mask", "spacing_mm"]))


def _in_folder(path: Path, split: str) -> Iterator[Candidate]:
    names = sorted(file.name.removesuffix("_ct.nii.gz") for file in path.glob("*_ct.nii.gz"))
    table = _read_table(path / "nodules.csv")
    if table:
        missing = [name for name in names if SEED_SUFFIX.sub("", name) not in table]
        if missing:
            raise ValueError(
                f"{path}/nodules.csv: no row for {missing[0]} (and {len(missing) - 1} more); add or remove"
            )
        if split != "all":
            names = [name for name in names if table[SEED_SUFFIX.sub("", name)][1] in (split, "")]
    for name in tqdm(names, desc=path.name, leave=False):
        mask_name = SEED_SUFFIX.sub("", name)
        yield name, table[mask_name][0] if table else mask_name, partial(_voxels_of_pair, path, name)


@lru_cache(maxsize=KEPT)
def _voxels_of_pair(path: Path, name: str) -> Voxels:
    import SimpleITK as sitk  # only here: a prepared dataset is compared without it

    from imaging.files.ct import read_ct, read_mask

    ct = read_ct(path / f"{name}_ct.nii.gz", crop=True)
    mask = read_mask(path / f"{name}_mask.nii.gz", ct)
    ct_hu = sitk.GetArrayFromImage(ct).astype(np.float32)
    x, y, z = ct.GetSpacing()
    return ct_hu, sitk.GetArrayFromImage(mask) > 0, np.ones(ct_hu.shape, bool), (z, y, x)


def _read_table(file: Path) -> dict[str, tuple[str, str]]:
    """nodule -> (patient, split) of a `nodules.csv`; empty if there is none."""
    if not file.is_file():
        return {}
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    patient = next((name for name in ("patient_id", "patient_id_approx") if rows and name in rows[0]), None)
    if patient is None or "nodule" not in rows[0]:
        raise ValueError(f"{file}: expected the columns nodule and patient_id (and split); remove or complete it")
    return {row["nodule"]: (row[patient], row.get("split", "")) for row in rows}
