"""Virtual trials: the same lesion at other sizes, densities, textures and places, everything else equal.

Each lesion has a shape, a place and a noise of its own. One factor at a time is changed; the others stay at their base.
So a difference in what a detector finds is the factor's, which no collection of real lesions can show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.stats import binomtest

from diffusion import LesionInpaintPipeline
from diffusion.shapes import Chosen, LesionShapes
from evaluation.downstream.trial_detectors import Candidate
from imaging.boxes import point_box
from imaging.geometry import index_of_point, mask_centroid, point_of_index
from imaging.lesions.sites import FreeLung

FACTORS = ("diameter_mm", "mean_hu", "texture", "wall_mm")  # wall_mm: from the lesion's border to the lung's
WALL_TOLERANCE_MM, WALL_MARGIN_MM = 1.5, 2.0
LEAST_HIT_MM = 3.0  # a candidate within the lesion's radius, or within so much of its centre, has found it


@dataclass(frozen=True)
class Condition:
    """One factor at one level; the base has the factor "base"."""

    factor: str
    level: float


@dataclass(frozen=True)
class VirtualLesion:
    """What stays the same.

    Attributes:
        number: Of the lesion; seeds its noise.
        scan: Name of its scan.
        chosen: Shape and how it is placed; its scale changes with the diameter.
        site_mm: (x, y, z).
        wall_sites_mm: Site for each level of wall_mm.
    """

    number: int
    scan: str
    chosen: Chosen
    site_mm: tuple[float, ...]
    wall_sites_mm: Mapping[float, tuple[float, ...]]


def conditions_of(base_mm: float, levels: Mapping[str, Sequence[float]]) -> list[Condition]:
    """The base and every level of every factor. Raises ValueError for an unknown factor or no level."""
    for name, values in levels.items():
        if name not in FACTORS or not values:
            raise ValueError(f"levels of {name!r}: expected at least one level of {', '.join(FACTORS)}")
    return [Condition("base", base_mm), *(Condition(name, float(v)) for name in levels for v in levels[name])]


def draw_lesion(
    number: int,
    scan: str,
    lung: FreeLung,
    shapes: LesionShapes,
    base_mm: float,
    levels: Mapping[str, Sequence[float]],
    seed: int,
) -> VirtualLesion:
    """Choose shape and places of a lesion; every level fits there.

    Args:
        number: Of the lesion.
        scan: Its scan's name.
        lung: Of the scan.
        shapes: What its shape is chosen from.
        base_mm: Its diameter where no other is examined.
        levels: By factor.
        seed: Of the trial.
    Raises: ValueError: If the lung has no place that is deep enough.
    """
    random = np.random.default_rng((seed, number))
    chosen = shapes.choose(base_mm, {}, random)
    largest = max([base_mm, *levels.get("diameter_mm", ())])
    deep = np.argwhere((lung.clearance_mm > largest / 2 + WALL_MARGIN_MM) & ~lung.occupied)
    if not len(deep):
        raise ValueError(f"{scan}: its lung has no place for a lesion of {largest:g} mm; examine smaller ones")
    site = deep[random.integers(len(deep))]
    walls = {}
    for wall_mm in levels.get("wall_mm", ()):
        apart = np.abs(lung.wall_mm - (wall_mm + base_mm / 2))
        near = np.argwhere((apart <= WALL_TOLERANCE_MM) & ~lung.occupied)
        if not len(near):
            raise ValueError(f"{scan}: no place {wall_mm:g} mm from the wall of its lung; examine other distances")
        closest = near[np.argsort(((near - site) ** 2).sum(1))[:50]]  # of the same region of the lung
        walls[float(wall_mm)] = point_of_index(lung.grid, closest[random.integers(len(closest))].tolist())
    return VirtualLesion(number, scan, chosen, point_of_index(lung.grid, site.tolist()), walls)


def painted(
    lesion: VirtualLesion,
    condition: Condition,
    ct: sitk.Image,
    pipeline: LesionInpaintPipeline,
    base_mm: float,
    options: Mapping[str, Any],
    reach_mm: float,
    seed: int,
) -> tuple[sitk.Image, sitk.Image]:
    """The part of a scan around a lesion, with the lesion under a condition, and its mask.

    Args:
        lesion, condition: What.
        ct: Its scan, HU.
        pipeline: With shapes.
        base_mm: Diameter unless the condition says another.
        options: Of the pipeline's call; its `attributes` are the base.
        reach_mm: How far the part reaches from the site along each axis.
        seed: Of the trial.
    Raises: ValueError: If the mask vanishes or the pipeline refuses.
    """
    site = lesion.wall_sites_mm[condition.level] if condition.factor == "wall_mm" else lesion.site_mm
    diameter_mm = condition.level if condition.factor == "diameter_mm" else base_mm
    box = point_box(ct.GetSize()[::-1], index_of_point(ct, site), reach_mm, ct.GetSpacing()[::-1])
    part = ct[tuple(reversed(box))]
    own = float(pipeline.shapes.diameter_mm()[lesion.chosen.number])
    chosen = lesion.chosen._replace(scale=diameter_mm / own)
    drawn = pipeline.shapes.mask(chosen, part.GetSize()[::-1], part.GetSpacing()[::-1], index_of_point(part, site))
    mask = sitk.GetImageFromArray(drawn)
    mask.CopyInformation(part)
    attributes = dict(options.get("attributes") or {})
    if condition.factor in ("mean_hu", "texture"):
        attributes[condition.factor] = condition.level
    noise = torch.Generator().manual_seed(int(np.random.default_rng((seed, lesion.number, 1)).integers(2**62)))
    made: Any = pipeline(part, mask, **{**options, "attributes": attributes}, generator=noise)
    return made.ct, mask


def best_score(found: Sequence[Candidate], mask: sitk.Image) -> float:
    """The highest score of the candidates that hit a lesion, 0 if none does."""
    centre = mask_centroid(mask)
    volume = float((sitk.GetArrayViewFromImage(mask) > 0).sum() * np.prod(mask.GetSpacing()))
    reach = max(LEAST_HIT_MM, (3 * volume / (4 * np.pi)) ** (1 / 3))
    near = [one.score for one in found if np.linalg.norm(np.subtract(one[:3], centre)) <= reach]
    return max(near, default=0.0)


def sensitivity(scores: Sequence[float], threshold: float) -> tuple[float, float, float]:
    """Share of lesions whose score reaches the threshold, with its 95 % interval (Clopper–Pearson)."""
    found = sum(score >= threshold for score in scores)
    interval = binomtest(found, len(scores)).proportion_ci(method="exact")
    return found / len(scores), float(interval.low), float(interval.high)
