"""New lesions in a scan: characters and sites are drawn, lesions painted and judged, and the rejected tried again.

The character of lesion i is drawn from (seed, i), its mask, site and noise from (seed, i, attempt). Every sample is a
row of `imaging.dataset.manifest`.
"""

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from diffusion import LesionInpaintPipeline
from diffusion.attributes import SCALES, check_attribute, requestable
from diffusion.shapes import CHOSEN_BY, USUAL, LearnedShapes, LesionShapes, drawn_mask_image
from evaluation.lesions.acceptance import Acceptance
from evaluation.lesions.characters import Character, Characters
from imaging.dataset.existing_nodules import NONE_KNOWN, ExistingNodules, existing_rows, read_existing
from imaging.files.ct import read_ct
from imaging.geometry import index_of_point
from imaging.lesions.lobes import read_lobes
from imaging.lesions.placing import NoPlace, Place, place_lesion
from imaging.lesions.sites import FreeLung, free_lung, free_lung_sites

STREAMS = ("scan", "character", "sample")
APART_MM = 10.0  # lung between two lesions of a scan
SHAPE_COLUMNS = ("scale", "turn_deg", "mirrored", *USUAL)  # of a shape's record, for the manifest
AROUND_MM = 12.0  # more than half the model's grid: a lesion's middle is not its site

Row = dict[str, Any]


@dataclass(frozen=True)
class Synthesis:
    """What lesions are made with.

    Attributes:
        pipeline: What paints.
        options: Of its call, as `SamplingConfig.call_options` gives them; `attributes` among them are requested of
            every lesion in place of what is drawn.
        characters: What is drawn from.
        acceptance: What passes.
        least_lung: Share of a mask that must lie in the lung.
        attempts: Samples that are tried for each lesion.
        seed: Of everything random.
        shapes: What masks are drawn from; None draws procedural ones.
        site: Where lesions lie, see `imaging.lesions.sites`.
        lobes: Scan -> segmentation of its lobes, where a site needs it.
    """

    pipeline: LesionInpaintPipeline
    options: Mapping[str, Any]
    characters: Characters
    acceptance: Acceptance
    least_lung: float
    attempts: int
    seed: int
    shapes: LesionShapes | LearnedShapes | None = None
    site: str = "auto"
    lobes: Mapping[Path, Path] = field(default_factory=dict)


class Scan(NamedTuple):
    """A scan to put lesions in; `existing` are its own nodules, from the file or for the reason `nodules_from`."""

    ct: sitk.Image
    lung: FreeLung
    existing: ExistingNodules | None = None
    nodules_from: str = NONE_KNOWN


class Sample(NamedTuple):
    """A sample that has a place and is to be painted; `row` then says what came of it."""

    row: Row
    requested: Mapping[str, float]
    place: Place


class Painted(NamedTuple):
    """The part of a scan with a lesion that was accepted, and where it was painted."""

    ct: sitk.Image
    paint_mask: sitk.Image


Made = tuple[list[Row], sitk.Image, sitk.Image]
ScanSteps = Generator[list[Sample], list[Painted | None], Made]


def generator(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """NumPy generator of one stream (one of STREAMS) for the thing with these numbers, and of nothing else."""
    return np.random.default_rng([seed, STREAMS.index(stream), *numbers])


def requestable_attributes(pipeline: LesionInpaintPipeline) -> list[str]:
    """What lesions of a pipeline can be requested, of its U-Net or its guide."""
    of_guide = pipeline.guide.attributes if pipeline.guide is not None else ()
    return list(dict.fromkeys([*requestable(pipeline.unet.config.get("attributes") or ()), *of_guide]))


def check_requests(
    pipeline: LesionInpaintPipeline,
    attributes: Mapping[str, float | str],
    characters: Characters,
    balanced: Collection[str] = (),
) -> None:
    """Raise ValueError where attributes, the ranges of even characters, or balanced attributes are not for this
    pipeline to request, or a balanced one is given one value for all."""
    known = requestable_attributes(pipeline)
    for name, value in attributes.items():
        check_attribute(name, value, known)
    for name in characters.ranges if characters.population == "uniform" else ():
        if name not in (*known, "diameter_mm", *USUAL):
            raise ValueError(f"ranges: this pipeline cannot be requested {name}; it knows {', '.join(known) or 'none'}")
    for name in balanced:
        if name not in (*known, "diameter_mm", *USUAL):
            raise ValueError(
                f"balance: this pipeline cannot be requested {name}; it knows {', '.join(known) or 'none'}"
            )
        if name in attributes:
            raise ValueError(
                f"balance: {name} is requested of every lesion by --attributes.{name}; leave out one of them"
            )


@lru_cache(maxsize=1)
def read_scan(path: Path, existing_path: Path | None = None, lobes_path: Path | None = None) -> Scan:
    """Read a scan with its own nodules, and find its lung; the last one is kept, for it may be asked for again.

    Args:
        path: Of the scan.
        existing_path: Names its nodules, see `imaging.dataset.existing_nodules`; None takes it as a scan without any.
        lobes_path: Segmentation of its lobes; None if there is none.
    Raises: ValueError: As `read_ct`, `read_existing` and `free_lung`, naming the path.
    """
    ct = read_ct(path)
    existing = read_existing(existing_path, path, ct) if existing_path else None
    avoid = None
    if existing is not None:
        avoid = sitk.GetImageFromArray((existing.labels > 0).astype(np.uint8))
        avoid.CopyInformation(ct)
    try:
        lung = free_lung(ct, avoid, APART_MM, read_lobes(lobes_path, ct) if lobes_path else None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Scan(ct, lung, existing, existing_path.name if existing_path else NONE_KNOWN)


def scan_with_lesions(synthesis: Synthesis, scan: Scan, lesions: range) -> ScanSteps:
    """Put lesions into a scan; whoever runs this generator paints what it yields, together with that of other scans.

    The samples of an attempt are placed first, so that none touches another, and then painted, each into the scan's own
    voxels. With a rejected one its place is free again. No voxel of the scan's own nodules is painted. It yields the
    samples of each attempt, and is sent what `evaluation.lesions.painting` made of them.

    Args:
        synthesis: What lesions are made with.
        scan: Stays as it is.
        lesions: Their numbers.
    Returns: The rows of all samples in order, and of the scan's own nodules; the CT; and the labels, n where the n-th
        lesion is, and after these the scan's own nodules.
    """
    ct_hu = sitk.GetArrayFromImage(scan.ct)
    own = scan.existing.labels if scan.existing else np.zeros(ct_hu.shape, np.uint8)
    most = len(lesions) + int(own.max())
    labels, claimed = own.astype(np.uint8 if most < 256 else np.uint16), own > 0
    labels[claimed] = labels[claimed] + len(lesions)
    lung, rows, missing = scan.lung, [], list(lesions)
    for attempt in range(synthesis.attempts):
        samples, failed = [], []
        room = lung
        for lesion in missing:
            sample = _placed(synthesis, lesion, attempt, scan.ct, room, claimed)
            if isinstance(sample, dict):
                failed.append(sample)
                continue
            samples.append(sample)
            claimed[sample.place.box] |= sample.place.claimed
            room = room.without(sample.place.site_mm, sample.row["mask_diameter_mm"] / 2 + APART_MM)
        for sample, made in zip(samples, (yield samples), strict=True):
            row, place = sample.row, sample.place
            if made is None:
                claimed[place.box] &= ~place.claimed
                failed.append(row)
                continue
            row["label"] = row["lesion"] - lesions.start + 1
            painted = sitk.GetArrayViewFromImage(made.paint_mask) > 0
            ct_hu[place.box][painted] = sitk.GetArrayViewFromImage(made.ct)[painted]
            labels[place.box][sitk.GetArrayViewFromImage(place.mask) > 0] = row["label"]
            lung = lung.without(place.site_mm, row["mask_diameter_mm"] / 2 + APART_MM)
            rows.append(row)
        rows += failed
        missing = sorted(row["lesion"] for row in failed)
        if not missing:
            break
    ct, mask = sitk.GetImageFromArray(ct_hu), sitk.GetImageFromArray(labels)
    ct.CopyInformation(scan.ct)
    mask.CopyInformation(scan.ct)
    rows = [{"source": "synthetic", **row} for row in sorted(rows, key=lambda row: (row["lesion"], row["attempt"]))]
    rows += existing_rows(scan.existing, scan.ct, len(lesions) + 1) if scan.existing else []
    return [{**row, "nodules_from": scan.nodules_from} for row in rows], ct, mask


def _placed(
    synthesis: Synthesis, lesion: int, attempt: int, ct: sitk.Image, lung: FreeLung, claimed: np.ndarray
) -> Sample | Row:
    """Draw a sample's mask, noise and site; the row of a rejected one where there is no place for it."""
    asks = requestable_attributes(synthesis.pipeline)
    character = _drawn_character(synthesis, lesion, asks)
    rng = generator(synthesis.seed, "sample", lesion, attempt)
    of_shape = {name: value for name, value in character.requested.items() if name in CHOSEN_BY}
    requested = {name: value for name, value in character.requested.items() if name in asks}
    row: Row = {
        "lesion": lesion,
        "attempt": attempt,
        "accepted": True,
        "balance": character.classes,
        "mask_diameter_mm": character.mask_mm,
        "mask_seed": int(rng.integers(2**31)),
        "noise_seed": int(rng.integers(2**62)),
        **{f"requested_{name}": value for name, value in requested.items()},
    }
    try:
        (site_mm,) = free_lung_sites(lung, character.mask_mm, 1, rng, site=synthesis.site)
    except ValueError as error:
        return rejected(row, "no site", str(error))
    at = np.clip(np.rint(index_of_point(lung.grid, site_mm)).astype(int), 0, np.array(lung.lung.shape) - 1)
    row |= {"center_zyx": list(index_of_point(ct, site_mm)), "center_mm": list(site_mm)}
    row |= {"site": synthesis.site, "wall_mm": float(lung.wall_mm[tuple(at)])}
    model, margin_mm = synthesis.pipeline.config, synthesis.options["paint_margin_mm"]

    def draw(part: sitk.Image, center: Sequence[float]) -> sitk.Image:
        drawing = (character.mask_mm, of_shape, row["mask_seed"], synthesis.shapes)
        mask, record = drawn_mask_image(part, center, *drawing)
        row.update({"mask_shape": record.get("number"), **{f"mask_{name}": record.get(name) for name in SHAPE_COLUMNS}})
        return mask

    try:
        place = place_lesion(
            ct,
            lung,
            claimed,
            site_mm,
            draw,
            reach_mm=model["crop_size"] * model["spacing_mm"] / 2 + AROUND_MM,
            margin_mm=model["paint_margin_mm"] if margin_mm is None else margin_mm,
            least_lung=synthesis.least_lung,
            cut=synthesis.site != "free",
        )
    except NoPlace as error:
        return rejected(row, error.reason, str(error))
    row |= {"box_zyx": place.mask_box_zyx, "volume_mm3": place.volume_mm3}
    return Sample(row, requested, place)


def _drawn_character(synthesis: Synthesis, lesion: int, asks: Sequence[str]) -> Character:
    """What a lesion is to be, within the scales of its attributes."""
    drawn = synthesis.characters.draw(lesion, generator(synthesis.seed, "character", lesion))
    requested = {name: float(np.clip(value, *SCALES[name].requestable)) for name, value in drawn.requested.items()}
    fixed = synthesis.options["attributes"] or {}
    requested |= {name: check_attribute(name, value, asks) for name, value in fixed.items()}
    return replace(drawn, requested=requested)


def rejected(row: Row, reason: str, detail: str) -> Row:
    """The row of a sample that does not pass."""
    row |= {"accepted": False, "reason": reason, "detail": detail}
    return row
