"""Which lesions a blinded reading shows: half of them real, half of them synthetic, no mask twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.lesions.detector import paired_by_mask
from evaluation.lesions.lesion_sets import Lesion, StoredLesion, Voxels, load_lesions
from imaging.dataset.nodules import load_nodules
from imaging.dataset.rows import SPLITS

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd")


@dataclass(frozen=True)
class Case:
    """One lesion of a reading.

    Attributes:
        number: From 1, the name that a reader sees.
        lesion: What is shown.
        real: Whether it is.
    """

    number: int
    lesion: Lesion
    real: bool


def load_set(path: Path, split: str) -> tuple[list[Lesion], list[str]]:
    """Lesions to show, their voxels left on disk.

    Args:
        path: As `load_lesions` takes it; or a folder of crops alone, `<name>.nii.gz` in HU, with the lesion in the
            centre. The mask of such a crop is its central voxel.
        split: As `load_lesions` takes it; a folder of crops alone has none.
    Returns: The lesions sorted by name, and a sentence for each one left out.
    Raises: ValueError: If there is none.
    """
    files = sorted(file for file in path.glob("*") if file.name.lower().endswith(SUFFIXES)) if path.is_dir() else []
    if not files or any("_ct." in file.name for file in files):
        return load_lesions(path, split, stored=True)
    lesions, left_out = [], []
    for file in files:
        name = file.name[: file.name.index(".")]
        try:
            *_, spacing_mm = _read_crop(file)
        except ValueError as error:
            left_out.append(str(error))
            continue
        lesions.append(StoredLesion(name, name, spacing_mm, partial(_read_crop, file)))
    if not lesions:
        raise ValueError(f"{path}: no usable crop; {'; '.join(left_out)}")
    return list(lesions), left_out


def texture_ratings(path: Path, split: str) -> dict[str, float]:
    """Nodule -> readers' mean rating of texture, 1 (ground glass) to 5 (solid), as far as the set has ratings.

    Args:
        path, split: As for `load_set`; a folder of pairs may have the column `texture` in its `nodules.csv`.
    """
    if (path / "dataset_dict.json").is_file():
        splits = [name for name in SPLITS if (path / name).is_dir()] if split == "all" else [split]
        columns = [load_nodules(path, name).select_columns(["nodule_id", "texture"]) for name in splits]
        rows = [pair for one in columns for pair in zip(one["nodule_id"], one["texture"], strict=True)]
    elif (path / "nodules.csv").is_file():
        table = pd.read_csv(path / "nodules.csv", dtype={"nodule": str})
        if not {"nodule", "texture"} <= set(table.columns):
            return {}
        rows = list(zip(table["nodule"], pd.to_numeric(table["texture"], errors="coerce"), strict=True))
    else:
        return {}
    return {str(name): float(value) for name, value in rows if value is not None and np.isfinite(value)}


def chosen_cases(
    real: Sequence[Lesion], synthetic: Sequence[Lesion], count: int | None, first: int, seed: int
) -> list[Case]:
    """Half of the masks with their real lesion and half with a synthetic one, no mask twice, in index order.

    Sets without a common mask give the same number of lesions each, in random order.

    Args:
        real, synthetic: Two sets; the first synthetic lesion of each mask counts.
        count: Cases; None takes all.
        first: Index of the first mask.
        seed: Decides which half is real, and the order of sets without a common mask.
    Raises: ValueError: If there are fewer than two masks from `first` on.
    """
    rng = np.random.default_rng(seed)
    pairs = list(zip(*paired_by_mask(real, synthetic), strict=True))
    if not pairs:
        return _unpaired_cases(real, synthetic, count, first, rng)
    pairs = pairs[first:][:count]
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} masks from index {first} on have a real and a synthetic lesion, expected two")
    is_real = rng.permutation(np.arange(len(pairs)) % 2 == 0)
    chosen = zip(pairs, is_real, strict=True)
    return [Case(i, pair[0] if shown else pair[1], bool(shown)) for i, (pair, shown) in enumerate(chosen, 1)]


def _unpaired_cases(
    real: Sequence[Lesion], synthetic: Sequence[Lesion], count: int | None, first: int, rng: np.random.Generator
) -> list[Case]:
    one_a_mask = list({lesion.mask_name: lesion for lesion in reversed(synthetic)}.values())[::-1]
    half = slice(first // 2, None if count is None else first // 2 + count // 2)
    chosen = [(lesions[half], kind) for lesions, kind in ((list(real), True), (one_a_mask, False))]
    number = min(len(lesions) for lesions, _ in chosen)
    if number < 1:
        raise ValueError(f"no lesion of each kind from index {first} on, expected at least one; choose other sets")
    cases = [(lesion, kind) for lesions, kind in chosen for lesion in lesions[:number]]
    order = rng.permutation(len(cases))
    return [Case(number, *cases[row]) for number, row in enumerate(order, 1)]


def _read_crop(file: Path) -> Voxels:
    import SimpleITK as sitk  # only here: a prepared dataset is read without it

    from imaging.files.ct import read_ct

    ct = read_ct(file, crop=True)
    ct_hu = sitk.GetArrayFromImage(ct).astype(np.float32)
    mask = np.zeros(ct_hu.shape, bool)
    mask[tuple(n // 2 for n in ct_hu.shape)] = True
    x, y, z = ct.GetSpacing()
    return ct_hu, mask, np.ones(ct_hu.shape, bool), (z, y, x)
