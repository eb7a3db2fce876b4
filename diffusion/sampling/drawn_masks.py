"""A lesion without a mask: its shape drawn at a point, and cut where the lung ends."""

import numbers
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion.attributes import check_attribute
from diffusion.option_types import Attributes, ShapeKind
from diffusion.shapes import (
    CHOSEN_BY,
    LearnedShapes,
    drawn_mask,
    drawn_mask_image,
    met_by_shape,
    missing_shapes,
    shapes_for,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

    from imaging.lesions.sites import FreeLung

LEAST_SHARE = 0.1  # of a drawn lesion, in the lung


class DrawnMasks(NamedTuple):
    """Masks that a call without a mask draws.

    Attributes:
        mask: Of the type that a call takes as `mask`.
        shapes: A record of each shape.
        attributes: Those that are left for U-Net and guide.
    """

    mask: Any
    shapes: list[dict[str, Any]]
    attributes: Attributes


def drawn_masks(
    pipeline: Any,
    ct: Any,
    center: Any,
    diameter_mm: Any,
    attributes: Attributes,
    kind: ShapeKind,
    generator: torch.Generator | list[torch.Generator] | None,
    versions: int = 1,
) -> DrawnMasks:
    """The masks of a call that names places and diameters.

    Args:
        pipeline: With `shapes`, `unet`, `guide` and `config`.
        ct: As in the call: a scan, a list of scans, or crops (B, 1, D, H, W) on the model's grid. Masks in scans are
            cut where the lung ends.
        center: Voxel index z, y, x; of several volumes, one for each, or one for all crops.
        diameter_mm: Of the sphere of equal volume; one number, or one for each volume.
        attributes: Of the call. A real shape is chosen by `diffusion.shapes.CHOSEN_BY`.
        kind: "real", "procedural" or "learned".
        generator: As in the call; a shape's seed is the first that is drawn from it.
        versions: Versions of each lesion, which share a mask.
    Raises: ValueError: If something is missing or does not fit, or a lesion does not lie in the lung.
    """
    if center is None or diameter_mm is None:
        raise ValueError(f"center {center}, diameter_mm {diameter_mm}: give both, or a mask")
    shapes = shapes_for(pipeline, kind)
    note = missing_shapes(pipeline, kind)
    if note:
        warnings.warn(note, stacklevel=4)
    is_crops = isinstance(ct, np.ndarray | Tensor)
    single = not is_crops and not isinstance(ct, list | tuple)
    volumes = [ct] if single else list(ct)
    if is_crops and ct.ndim != 5:
        raise ValueError(f"ct has shape {tuple(ct.shape)}, expected (B, 1, D, H, W), or a SimpleITK.Image")
    if not is_crops and not (volumes and all(hasattr(volume, "GetSpacing") for volume in volumes)):
        raise ValueError(f"ct is a {type(ct).__name__}, expected a SimpleITK.Image (see read_ct), array or tensor")
    centers = one_for_each(center, len(volumes), "center", 1)
    diameters = one_for_each(diameter_mm, len(volumes), "diameter_mm", 0)
    requests = _requests(attributes, len(volumes))
    masks: list[Any] = []
    records = []
    for number, volume in enumerate(volumes):
        own = generator[min(number * versions, len(generator) - 1)] if isinstance(generator, list) else generator
        seed = int(torch.randint(2**31, (1,), generator=own, device=own.device if own is not None else "cpu"))
        place = (centers[number], float(diameters[number]), requests[number], seed)
        if not is_crops:
            image, record = drawn_mask_image(volume, *place, shapes)
            masks.append(_within_lung(volume, image, centers[number]))
        elif isinstance(shapes, LearnedShapes):
            mask, record = shapes.mask_in(volume, *place)
            masks.append(mask)
        else:
            spacing_mm = 3 * (float(pipeline.config["spacing_mm"]),)
            mask, record = drawn_mask(tuple(volume.shape[1:]), spacing_mm, *place, shapes)
            masks.append(mask[None])
        records.append(record)
    left = for_networks(pipeline, attributes, kind)
    if is_crops:
        together = np.stack(masks)
        return DrawnMasks(torch.from_numpy(together) if isinstance(ct, Tensor) else together, records, left)
    return DrawnMasks(masks[0] if single else masks, records, left)


def index_of_physical(ct: Any, center: Any, center_lps: Any, center_ras: Any) -> Any:
    """Voxel indices z, y, x of physical centres, for :func:`drawn_masks`.

    Args:
        ct: A scan, or a list of scans.
        center: As in the call; one of the three is given.
        center_lps, center_ras: x, y, z in mm; for a list of scans one each.
    Raises: ValueError: If several are given, a point lies outside its scan, or the CT has no geometry.
    """
    if sum(value is not None for value in (center, center_lps, center_ras)) > 1:
        raise ValueError("center, center_lps and center_ras all say where the lesion is; give one of them")
    volumes = list(ct) if isinstance(ct, list | tuple) else [ct]
    if not all(hasattr(volume, "GetSpacing") for volume in volumes):
        raise ValueError("center_lps and center_ras need the geometry of a SimpleITK.Image; pass center with crops")
    from imaging.geometry import index_in_scan

    frame: Literal["LPS", "RAS"] = "LPS" if center_ras is None else "RAS"
    given = center_lps if center_ras is None else center_ras
    points = one_for_each(given, len(volumes), f"center_{frame.lower()}", 1)
    indices = [index_in_scan(volume, point, frame) for volume, point in zip(volumes, points, strict=True)]
    return indices if isinstance(ct, list | tuple) else indices[0]


def for_networks(pipeline: Any, attributes: Attributes, kind: ShapeKind) -> dict[str, Any]:
    """The attributes without those that the shape alone meets, because neither U-Net nor guide knows them.

    Args:
        pipeline, attributes, kind: As for :func:`drawn_masks`.
    """
    known = (*(pipeline.unet.config.get("attributes") or ()), *(pipeline.guide.attributes if pipeline.guide else ()))
    met = met_by_shape(shapes_for(pipeline, kind))
    return {name: value for name, value in attributes.items() if name in known or name not in met}


def cut_to_lung(mask: "sitk.Image", lung: "FreeLung", center_zyx: Sequence[float]) -> "tuple[sitk.Image, float]":
    """A drawn mask cut where the lung ends, as a nodule at the pleura ends; and the share that stays.

    Args:
        mask: uint8, 1 inside.
        lung: Of its scan.
        center_zyx: Its place, for the message.
    Raises: ValueError: If less than `LEAST_SHARE` lies in the lung.
    """
    share = lung.share_of(mask)
    if share < LEAST_SHARE:
        place = tuple(round(float(at), 1) for at in center_zyx)
        raise ValueError(
            f"{100 * share:.0f} % of the lesion at {place} (voxel index z, y, x) lies "
            f"in the lung, expected {100 * LEAST_SHARE:.0f} % or more; check the place, or give a mask"
        )
    return lung.within(mask), share


def _within_lung(ct: "sitk.Image", mask: "sitk.Image", center_zyx: Sequence[float]) -> "sitk.Image":
    from imaging.lesions.sites import free_lung

    try:
        lung = free_lung(ct)
    except ValueError:
        return mask  # a part of a scan in which no lung is told apart
    return cut_to_lung(mask, lung, center_zyx)[0]


def _requests(attributes: Attributes, count: int) -> list[dict[str, float]]:
    """What is requested of each shape."""
    found: list[dict[str, float]] = [{} for _ in range(count)]
    for name in CHOSEN_BY:
        value = attributes.get(name)
        each = [value] if value is None or isinstance(value, str) or not isinstance(value, Sequence) else list(value)
        if len(each) not in (1, count):
            raise ValueError(f"{name}: {len(each)} values for {count} volumes; give one, or one per volume")
        for number, one in enumerate(each * count if len(each) == 1 else each):
            if one is not None:
                found[number][name] = check_attribute(name, one, CHOSEN_BY)
    return found


def one_for_each(given: Any, count: int, name: str, depth: int) -> list[Any]:
    """`count` values; one that is given for all is repeated. A value has `depth` axes."""
    try:
        array = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        array = np.full((), np.nan)
    shape = (3,) * depth
    if (isinstance(given, numbers.Number | str) and depth) or array.shape not in (shape, (count, *shape)):
        raise ValueError(f"{name} {given!r}, expected {'three numbers z, y, x' if depth else 'one number'}, or {count}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} {given!r}, expected finite numbers")
    return np.broadcast_to(array, (count, *shape)).tolist()
