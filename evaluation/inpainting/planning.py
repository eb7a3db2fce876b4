"""The scan, and the lesions to paint into it: masks, places and shapes, checked before anything is painted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from diffusion.attributes import check_attribute, check_compatible, requestable
from diffusion.sampling.drawn_masks import cut_to_lung
from diffusion.sampling.scan_crop import check_lesion_fits
from diffusion.shapes import CHOSEN_BY, drawn_mask_image, met_by_shape, missing_shapes, shapes_for
from evaluation.inpainting.config import InpaintConfig
from imaging.files.ct import find_dicom_slices, read_ct, read_dicom_slices, read_labels
from imaging.geometry import bounding_box, index_in_scan, index_of_point, point_of_index
from imaging.lesions.lobes import read_lobes
from imaging.lesions.sites import FreeLung, free_lung, free_lung_sites
from imaging.lesions.table import LesionRow, read_lesion_table

if TYPE_CHECKING:
    from diffusion import LesionInpaintPipeline

APART_MM = 10.0  # lung between two lesions whose places are chosen


class Planned(NamedTuple):
    """A lesion to paint; the row of a mask's label has no place.

    Attributes:
        box: Slices (x, y, z) around its mask in the scan.
        part: The mask in the box; whole masks of a hundred lesions would take more memory than their scan.
        attributes, seed, center_zyx, diameter_mm: As requested.
        shape: Record of a shape that was drawn.
    """

    box: tuple[slice, slice, slice]
    part: sitk.Image
    attributes: Mapping[str, float | str]
    seed: int
    center_zyx: Sequence[float] | None
    diameter_mm: float | None
    shape: Mapping[str, Any] | None = None

    def mask_on(self, ct: sitk.Image) -> sitk.Image:
        """The mask on the scan's grid, uint8."""
        mask = sitk.Image(ct.GetSize(), sitk.sitkUInt8)
        mask.CopyInformation(ct)
        mask[self.box] = self.part
        return mask


def read_scan(
    config: InpaintConfig, say: Callable[[str], None] = print
) -> tuple[sitk.Image, list[Path], FreeLung | None]:
    """The scan, the files of its slices where it is a DICOM series, and the lung where a shape is drawn into it.

    Where all places are given, a scan in which no lung is found is painted all the same.
    """
    slices = find_dicom_slices(config.ct, config.series_uid) if config.ct.is_dir() else []
    ct = read_dicom_slices(slices) if slices else read_ct(config.ct)
    if config.mask is not None and config.lesions is None:
        return ct, slices, None
    try:
        return ct, slices, free_lung(ct, lobes=read_lobes(config.lobes, ct) if config.lobes else None)
    except ValueError as error:
        if config.site != "given":
            raise ValueError(f"{config.ct}: {error}") from error
        say(f"note: {config.ct}: {error}; lesions are painted where they are placed")
        return ct, slices, None


def planned(
    config: InpaintConfig,
    pipeline: "LesionInpaintPipeline",
    ct: sitk.Image,
    lung: FreeLung | None,
    say: Callable[[str], None] = print,
) -> Iterator[Planned]:
    """The lesions in order; each is one that the pipeline can paint, or a ValueError names its row or label.

    Args:
        config: What is requested.
        pipeline: That will paint.
        ct, lung: From :func:`read_scan`.
        say: Takes notes for the user.
    """
    masks = read_labels(config.mask, ct) if config.mask is not None else []
    if config.mask is not None and config.lesions is None:
        for label, mask in enumerate(masks):
            with named(f"{config.mask}, label {label + 1}" if len(masks) > 1 else ""):
                check_fit(config, pipeline, mask)
            box = bounding_box(mask)
            yield Planned(box, mask[box], {}, config.seed + label, None, None)
        return
    rows = read_lesion_table(config.lesions) if config.lesions else []
    if config.diameter_mm is not None:
        physical = config.center_ras if config.center_lps is None else config.center_lps
        row = LesionRow(config.diameter_mm, config.center, center_mm=physical)
        rows = [replace(row, frame="RAS") if config.center_ras is not None else row]
    note = missing_shapes(pipeline, config.shape)
    if note:
        say(f"note: {note}")
    for row in rows:  # what needs no voxel first
        with named(row.where):
            if row.label is not None and row.label > len(masks):
                raise ValueError(f"label {row.label}, but --mask has {len(masks)}; expected one of its labels")
            if row.label is None and not row.placed and config.site == "given":
                raise ValueError("no x, y, z; give them, or pass --site auto")
            check_compatible({**config.attributes, **row.attributes})
            check_requests(pipeline, row.attributes, met_by_shape(shapes_for(pipeline, config.shape)))
    for number, row in enumerate(rows):
        with named(row.where):
            if row.center_mm is not None:
                rows[number] = replace(row, center_zyx=index_in_scan(ct, row.center_mm, row.frame))
    free = lung
    for row in rows:
        if free is not None and row.center_zyx is not None:
            free = free.without(point_of_index(ct, row.center_zyx), row.diameter_mm / 2 + APART_MM)
    for number, row in enumerate(rows):
        seed = config.seed + number if row.seed is None else row.seed
        if row.label is not None:
            mask = masks[row.label - 1]
            with named(row.where):
                check_fit(config, pipeline, mask)
            box = bounding_box(mask)
            yield Planned(box, mask[box], row.attributes, seed, None, None)
            continue
        with named(row.where):
            center: Sequence[float] | None = row.center_zyx
            if center is None:
                assert free is not None
                (site,) = free_lung_sites(free, row.diameter_mm, 1, np.random.default_rng(seed), site=config.site)
                free = free.without(site, row.diameter_mm / 2 + APART_MM)
                center = index_of_point(ct, site)
            mask, shape = drawn_lesion(config, pipeline, row, ct, center, seed, lung, say)
            check_fit(config, pipeline, mask)
        box = bounding_box(mask)
        yield Planned(box, mask[box], row.attributes, seed, center, row.diameter_mm, shape)


def drawn_lesion(
    config: InpaintConfig,
    pipeline: "LesionInpaintPipeline",
    row: LesionRow,
    ct: sitk.Image,
    center: Sequence[float],
    seed: int,
    lung: FreeLung | None,
    say: Callable[[str], None],
) -> tuple[sitk.Image, dict[str, Any]]:
    """A shape, cut where the lung ends: a nodule at the pleura does not grow through the ribs; and its record."""
    options = {name: getattr(config, name, None) for name in CHOSEN_BY}
    given = {**config.attributes, **{name: value for name, value in options.items() if value is not None}}
    given |= row.attributes
    requests = {name: check_attribute(name, given[name], CHOSEN_BY) for name in CHOSEN_BY if name in given}
    mask, record = drawn_mask_image(ct, center, row.diameter_mm, requests, seed, shapes_for(pipeline, config.shape))
    if lung is None:
        return mask, record
    mask, share = cut_to_lung(mask, lung, center)
    if share < 1:
        where = f"{row.where}: " if row.where else ""
        say(f"note: {where}{100 * (1 - share):.0f} % of the shape lies outside the lung and is cut off")
    return mask, record


@contextmanager
def named(where: str) -> Iterator[None]:
    """Say before a fault whose it is, where there are several."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def check_fit(config: InpaintConfig, pipeline: "LesionInpaintPipeline", mask: sitk.Image) -> None:
    """Raise ValueError where a lesion does not fit the model's grid; no voxel of the CT is read."""
    model = pipeline.config
    margin_mm = model["paint_margin_mm"] if config.paint_margin_mm is None else config.paint_margin_mm
    box = bounding_box(mask)
    around = tuple(slice(max(along.start - 2, 0), along.stop + 2) for along in box)
    check_lesion_fits(mask[around], model["crop_size"], model["spacing_mm"], margin_mm)


def check_requests(
    pipeline: "LesionInpaintPipeline", attributes: Mapping[str, float | str], of_shape: Sequence[str]
) -> None:
    """Raise ValueError for an attribute that the pipeline cannot be requested, or a value that it cannot have.

    Args:
        pipeline, attributes: Of the lesion.
        of_shape: What its shape meets, beside U-Net and guide.
    """
    of_unet = tuple(dict.fromkeys([*requestable(pipeline.unet.config.get("attributes") or ()), *of_shape]))
    of_guide = list(pipeline.guide.attributes) if pipeline.guide is not None else []
    for name, value in attributes.items():
        if name in of_unet or name not in of_guide:
            check_attribute(name, value, list(dict.fromkeys([*of_unet, *of_guide])))
        else:  # it may have classes of its own
            pipeline.guide.plan({name: value}, torch.ones(1, 1, 8, 8, 8), pipeline.vae, 1.0, None)


def labelled(plan: Sequence[Planned], ct: sitk.Image) -> sitk.Image:
    """k where the k-th mask is; where two overlap, the later. ValueError where nothing is left of one."""
    labels = np.zeros(ct.GetSize()[::-1], np.uint8 if len(plan) < 256 else np.uint16)
    for number, lesion in enumerate(plan, 1):
        labels[lesion.box[::-1]][sitk.GetArrayViewFromImage(lesion.part) > 0] = number
    hidden = sorted(set(range(1, len(plan) + 1)) - set(np.unique(labels).tolist()))
    if hidden:
        raise ValueError(f"lesion {hidden[0]} of {len(plan)}: later ones cover all of it; move them apart")
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(ct)
    return image
