"""Lesion-free lung for evaluation: a place in another patient's crop where a lesion's mask fits.

A lesion painted over a real one keeps part of the real rim where the change is blended in, and its surroundings are a
real lesion's. Users paint into lung without a lesion. So every mask goes to the crop of another patient, to a place
that its lesion does not touch.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from scipy.signal import fftconvolve

from imaging.boxes import mask_box
from imaging.lesions.mask import grown_mask
from imaging.semantic_map import lung_mask

CLEAR_MM = 6.0  # between the host's own lesion and the new one
HOSTS = 12  # crops that are tried for a mask
LEAST_INSIDE = 0.98  # share of the mask in lung: a voxel of its surface may touch the wall


def free_lung(host: Mapping[str, Any]) -> np.ndarray:
    """Where a crop has lung away from its own lesion, bool (D, H, W).

    Args:
        host: `ct_hu`, `lesion_mask`, `valid_mask` and `spacing_mm` of a prepared nodule.
    """
    spacing_mm = [float(mm) for mm in host["spacing_mm"]]
    lung = lung_mask(host["ct_hu"], spacing_mm, whole_scan=False, valid_mask=host["valid_mask"])
    return lung & (grown_mask(host["lesion_mask"], CLEAR_MM, spacing_mm) == 0)


def fitting_places(free: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Voxels at which the centre of the mask's box may lie, (N, 3).

    Args:
        free: bool (D, H, W), where a lesion may be.
        mask: bool, the lesion cut to its box.
    """
    if any(edge > size for edge, size in zip(mask.shape, free.shape, strict=True)):
        return np.empty((0, 3), int)
    inside = fftconvolve(free.astype(np.float32), mask[::-1, ::-1, ::-1].astype(np.float32), mode="valid")
    return np.argwhere(inside >= LEAST_INSIDE * mask.sum()) + np.array(mask.shape) // 2


def placed_in(host: Mapping[str, Any], mask: np.ndarray, centre: Sequence[int]) -> dict[str, np.ndarray]:
    """The host's crop, moved so that `centre` lies in its middle, with the mask there.

    Args:
        host: As :func:`free_lung`.
        mask: bool, the lesion cut to its box.
        centre: Voxel of the host.
    Returns: `ct_hu`, `lesion_mask`, `valid_mask` of the host's shape; beyond the host the nearest voxel is repeated
        and nothing is valid.
    """
    shape = host["ct_hu"].shape
    index = [np.arange(edge) + int(at) - edge // 2 for edge, at in zip(shape, centre, strict=True)]
    nearest = np.ix_(*(np.clip(i, 0, edge - 1) for i, edge in zip(index, shape, strict=True)))
    z, y, x = ((i >= 0) & (i < edge) for i, edge in zip(index, shape, strict=True))
    known = z[:, None, None] & y[:, None] & x
    lesion = np.zeros(shape, np.uint8)
    start = [edge // 2 - size // 2 for edge, size in zip(shape, mask.shape, strict=True)]
    lesion[tuple(slice(s, s + size) for s, size in zip(start, mask.shape, strict=True))] = mask
    valid = (host["valid_mask"][nearest] > 0) & known
    return {
        "ct_hu": host["ct_hu"][nearest],
        "lesion_mask": lesion * valid.astype(np.uint8),
        "valid_mask": valid.astype(np.uint8),
    }


def free_site(
    nodule: Mapping[str, Any], hosts: Iterable[Mapping[str, Any]], random: np.random.Generator
) -> tuple[dict[str, np.ndarray], str] | None:
    """A place in lesion-free lung of another patient for the mask of a nodule.

    Args:
        nodule: Whose mask is placed.
        hosts: Prepared nodules of one spacing, in the order in which they are tried; those of the nodule's patient are
            passed over.
        random: Chooses the place.
    Returns: The crop with the mask in its middle (:func:`placed_in`) and the host's nodule_id; None where none of the
        first `HOSTS` hosts has room.
    """
    mask = nodule["lesion_mask"] > 0
    mask = mask[mask_box(mask)]
    others = (host for host in hosts if host["patient_id"] != nodule["patient_id"])
    for host in islice(others, HOSTS):
        places = fitting_places(free_lung(host), mask)
        if len(places):
            return placed_in(host, mask, places[random.integers(len(places))]), host["nodule_id"]
    return None
