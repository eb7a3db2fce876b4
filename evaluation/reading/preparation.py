"""Writes the folder of a reading study: every case as a volume of the same shape, type and spacing, in random order."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from evaluation.lesions.lesion_sets import Lesion
from evaluation.reading.cases import Case
from evaluation.reading.study import STUDY, VERSION, VOLUMES, KeyCase, check_study_folder, write_key
from foundation.atomic import write_atomically
from imaging.window import AIR_HU

HIGHEST_HU = 3071  # of 12-bit CT
LEAST_FIELD_MM, MOST_FIELD_MM = 20.0, 80.0


def write_study(
    out: Path,
    cases: Sequence[Case],
    training: Sequence[Case],
    repeats: int,
    textures: Mapping[str, float],
    field_mm: float | None,
    seed: int,
) -> list[str]:
    """Write the folder of a study; its numbers are in random order.

    Volumes are exact crops where all lesions have one spacing, otherwise they are interpolated linearly to 1 mm.

    Args:
        out: Folder; see `check_study_folder`.
        cases: That count.
        training: Shown first, with their answers.
        repeats: How many of `cases` each reader sees twice, at most half.
        textures: Mask name -> rating.
        field_mm: Edge of the volumes; None takes the largest that every crop fills, at most `MOST_FIELD_MM`.
        seed: Of the order.
    Returns: Warnings: what could tell the classes apart beside the lesions.
    Raises: ValueError: If there are too many repeats, or a crop is too small.
    """
    if repeats > len(cases) // 2:
        raise ValueError(f"{repeats} repeats of {len(cases)} cases, expected at most half of them; choose fewer")
    rng = np.random.default_rng(seed)
    kinds = [*[(case, True) for case in training], *[(case, False) for case in cases]]
    kinds = [kinds[row] for row in rng.permutation(len(kinds))]
    spacing_mm, warnings = _common_spacing([case for case, _ in kinds])
    shape = _shape([case.lesion for case, _ in kinds], spacing_mm, field_mm)
    key = [_key_case(number, case, textures) for number, (case, _) in enumerate(kinds, 1)]
    about = {
        "version": VERSION,
        "id": rng.bytes(8).hex(),
        "shape": shape,
        "spacing_mm": spacing_mm,
        "cases": [number for number, (_, is_training) in enumerate(kinds, 1) if not is_training],
        "training": {number: bool(case.real) for number, (case, trains) in enumerate(kinds, 1) if trains},
        "repeats": repeats,
    }

    def write(folder: Path) -> None:
        folder.mkdir()
        volumes = np.lib.format.open_memmap(folder / VOLUMES, "w+", np.int16, (len(kinds), *shape))
        for volume, (case, _) in zip(volumes, kinds, strict=True):
            volume[:] = _volume(case.lesion, shape, spacing_mm)
        volumes.flush()
        (folder / STUDY).write_text(json.dumps(about, indent=1) + "\n")
        write_key(folder, key)

    check_study_folder(out)
    write_atomically(out, write)
    return warnings


def _common_spacing(cases: Sequence[Case]) -> tuple[tuple[float, float, float], list[str]]:
    """The spacing of the volumes; a warning where one class is resampled otherwise than the other."""
    of_class = [{np.round(c.lesion.spacing_mm, 4).tobytes() for c in cases if c.real == real} for real in (True, False)]
    if len(of_class[0] | of_class[1]) == 1:
        z, y, x = (float(s) for s in cases[0].lesion.spacing_mm)
        return (z, y, x), []
    if len(of_class[0]) > 1 and len(of_class[1]) > 1:
        return (1.0, 1.0, 1.0), []
    sentence = "real and synthetic crops have different spacings, so interpolation may tell them apart; resample both"
    return (1.0, 1.0, 1.0), [sentence + " before"]


def _shape(
    lesions: Sequence[Lesion], spacing_mm: tuple[float, float, float], field_mm: float | None
) -> tuple[int, int, int]:
    if field_mm is None:
        fields = [_field_mm(lesion) for lesion in lesions]
        smallest = int(np.argmin(fields))
        field_mm = min(fields[smallest], MOST_FIELD_MM)
        if field_mm < LEAST_FIELD_MM:
            raise ValueError(
                f"{lesions[smallest].name}: the largest cube around the lesion's centre has {field_mm:.0f} mm, "
                f"expected at least {LEAST_FIELD_MM:g} mm; leave the crop out, or give --field-mm and accept borders"
            )
    depth, height, width = (2 * int(field_mm / 2 / s + 1e-6) + 1 for s in spacing_mm)
    return depth, height, width


def _field_mm(lesion: Lesion) -> float:
    """Edge of the largest cube around the lesion that lies inside its crop, from voxel centre to voxel centre."""
    sides = zip(_centre(lesion), lesion.ct_hu.shape, lesion.spacing_mm, strict=True)
    return float(min(2 * min(c, n - c - 1) * s for c, n, s in sides))


def _centre(lesion: Lesion) -> np.ndarray:
    return np.round(np.argwhere(lesion.lesion_mask).mean(axis=0))


def _volume(lesion: Lesion, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """int16 HU around the lesion's centre; air beyond the crop. Padding inside it stays as it is, in both classes."""
    steps = [(np.arange(n) - n // 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    axes = [c + step / s for c, step, s in zip(_centre(lesion), steps, lesion.spacing_mm, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    ct_hu = map_coordinates(np.asarray(lesion.ct_hu, np.float32), grid, order=1, mode="constant", cval=AIR_HU)
    return np.clip(np.rint(ct_hu), AIR_HU, HIGHEST_HU).astype(np.int16)


def _key_case(number: int, case: Case, textures: Mapping[str, float]) -> KeyCase:
    lesion = case.lesion
    mask, known = lesion.lesion_mask, KeyCase(number, bool(case.real), lesion.name, lesion.patient_id)
    if mask.sum() < 2:  # a crop alone
        return known
    diameter_mm = float((6 / np.pi * mask.sum() * np.prod(lesion.spacing_mm)) ** (1 / 3))
    texture, mean_hu = textures.get(lesion.mask_name), float(lesion.ct_hu[mask].mean())
    return replace(known, diameter_mm=diameter_mm, texture=texture, mean_hu=mean_hu)
