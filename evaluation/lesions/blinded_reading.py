"""Blinded readings: which cases are shown, how they look, and what a reader's answers say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from evaluation.lesions.detector import paired_by_mask
from evaluation.lesions.lesion_sets import Lesion, lesion_cube

SIDE, ZOOM, GAP, LABEL = 36, 4, 3, 18  # voxels of 1 mm shown; pixels for a voxel, between tiles, above them
COLUMNS, ROWS = 3, 8  # cases on a page


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


def chosen_cases(
    real: Sequence[Lesion], synthetic: Sequence[Lesion], count: int | None, first: int, seed: int
) -> list[Case]:
    """Half of the masks with their real lesion and half with a synthetic one, no mask twice, in index order.

    Args:
        real, synthetic: Two sets; the first synthetic lesion of each mask counts.
        count: Masks; None takes all.
        first: Index of the first mask.
        seed: Decides which half is real.
    Raises: ValueError: If there are fewer than two common masks from `first` on.
    """
    pairs = list(zip(*paired_by_mask(real, synthetic), strict=True))[first:][:count]
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} masks from index {first} on have a real and a synthetic lesion, expected two")
    is_real = np.random.default_rng(seed).permutation(np.arange(len(pairs)) % 2 == 0)
    chosen = zip(pairs, is_real, strict=True)
    return [Case(i, pair[0] if shown else pair[1], bool(shown)) for i, (pair, shown) in enumerate(chosen, 1)]


def pages(cases: Sequence[Case]) -> list[Image.Image]:
    """Sheets of grey pictures: the three planes through each lesion's centre, its number above; lung window."""
    width, height = COLUMNS * (3 * (SIDE * ZOOM + GAP) + 20), ROWS * (SIDE * ZOOM + LABEL + GAP)
    sheets = []
    for start in range(0, len(cases), COLUMNS * ROWS):
        sheet = Image.new("L", (width, height))
        draw = ImageDraw.Draw(sheet)
        for place, case in enumerate(cases[start : start + COLUMNS * ROWS]):
            row, column = divmod(place, COLUMNS)
            x, y = column * width // COLUMNS, row * height // ROWS
            draw.text((x + 4, y + 3), str(case.number), fill=255)
            for plane, tile in enumerate(_tiles(case.lesion)):
                sheet.paste(tile, (x + plane * (SIDE * ZOOM + GAP), y + LABEL))
        sheets.append(sheet)
    return sheets


def _tiles(lesion: Lesion) -> list[Image.Image]:
    volume = lesion_cube(lesion, SIDE)[0]
    grey = (255 * np.clip((volume + 1) / 2, 0, 1)).astype(np.uint8)
    middle = SIDE // 2
    planes = (grey[middle], grey[:, middle], grey[:, :, middle])
    return [Image.fromarray(plane).resize((SIDE * ZOOM, SIDE * ZOOM), Image.Resampling.BICUBIC) for plane in planes]


def reading_figures(called_synthetic: Sequence[bool], real: Sequence[bool]) -> dict[str, tuple[float, float, float]]:
    """Value and 95 % interval (Clopper–Pearson) of what a reading says.

    Args:
        called_synthetic: The answers.
        real: The truth, same order.
    Returns: `recognised`, the share of synthetic lesions that were called synthetic; `false_alarms`, the share of real
        ones that were; `accuracy`; and `difference` of the first two (Newcombe 1998, from their intervals by Wilson).
    Raises: ValueError: If the lengths differ or a class is missing.
    """
    called, truth = np.asarray(called_synthetic, bool), np.asarray(real, bool)
    if called.shape != truth.shape or truth.all() or not truth.any():
        raise ValueError(f"{called.size} answers for {truth.size} cases, expected as many, of real and synthetic ones")
    counts = {
        "recognised": (called[~truth].sum(), (~truth).sum()),
        "false_alarms": (called[truth].sum(), truth.sum()),
        "accuracy": ((called != truth).sum(), len(truth)),
    }
    figures = {}
    for name, (found, total) in counts.items():
        interval = binomtest(int(found), int(total)).proportion_ci(method="exact")
        figures[name] = (float(found / total), float(interval.low), float(interval.high))
    (a, low_a, high_a), (b, low_b, high_b) = (
        (found / total, *_wilson(int(found), int(total)))
        for found, total in (counts["recognised"], counts["false_alarms"])
    )
    below, above = np.hypot(a - low_a, high_b - b), np.hypot(high_a - a, b - low_b)
    figures["difference"] = (float(a - b), float(a - b - below), float(a - b + above))
    return figures


def confidence_auroc(confidence: Sequence[float], real: Sequence[bool]) -> float:
    """AUROC of the confidence that a case is synthetic; 0.5 is chance."""
    return float(roc_auc_score(~np.asarray(real, bool), np.asarray(confidence, float)))


def _wilson(found: int, total: int) -> tuple[float, float]:
    interval = binomtest(found, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
