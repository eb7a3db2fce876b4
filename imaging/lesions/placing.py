"""A new lesion at a site of a scan: its mask, and whether there is room for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from imaging.boxes import mask_box, point_box
from imaging.geometry import index_of_point
from imaging.lesions.mask import grown_mask
from imaging.lesions.sites import FreeLung

LEAST_CUT = 0.5  # share of a mask that stays where the lung cuts it

DrawMask = Callable[[sitk.Image, Sequence[float]], sitk.Image]


class NoPlace(ValueError):  # noqa: N818 - it says what is the matter
    """A lesion cannot be there: `reason` in a word or two, the message in figures."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """A lesion's place: the part of the scan around it, and its mask there.

    Attributes:
        site_mm: The site, a physical point (x, y, z).
        box: Slices (z, y, x) of the part in the scan.
        ct: The part, HU.
        mask: The lesion's, uint8, on the part's grid.
        claimed: What will be painted, the mask and a margin, bool (D, H, W) of the part.
    """

    site_mm: tuple[float, float, float]
    box: tuple[slice, slice, slice]
    ct: sitk.Image
    mask: sitk.Image
    claimed: np.ndarray

    @property
    def mask_box_zyx(self) -> list[int]:
        """The mask's first voxel and one past its last, in the scan's voxels: six numbers."""
        own = mask_box(sitk.GetArrayViewFromImage(self.mask))
        starts = [along.start + part.start for along, part in zip(own, self.box, strict=True)]
        stops = [along.stop + part.start for along, part in zip(own, self.box, strict=True)]
        return [*starts, *stops]

    @property
    def volume_mm3(self) -> float:
        """Of the mask."""
        return float((sitk.GetArrayViewFromImage(self.mask) > 0).sum() * np.prod(self.mask.GetSpacing()))


def place_lesion(
    ct: sitk.Image,
    lung: FreeLung,
    claimed: np.ndarray,
    site_mm: tuple[float, float, float],
    draw: DrawMask,
    reach_mm: float,
    margin_mm: float,
    least_lung: float,
    cut: bool = False,
) -> Place:
    """Draw a lesion's mask at a site and check that it lies in the lung and touches no other lesion.

    Args:
        ct: Scan.
        lung: Of the scan.
        claimed: What other lesions paint, bool (D, H, W) of the scan.
        site_mm: Centre, a physical point (x, y, z).
        draw: Draws the mask on a part of the scan around a voxel index z, y, x; ValueError where it cannot.
        reach_mm: How far the part of the scan reaches from the site along each axis.
        margin_mm: Painted around the mask.
        least_lung: Share of the mask that must lie in the lung.
        cut: Whether a mask that reaches out of the lung is cut where the lung ends, as a nodule at the pleura ends; at
            most half of it.
    Raises: NoPlace: For the reasons "no mask", "outside lung" and "touches another lesion".
    """
    box = point_box(ct.GetSize()[::-1], index_of_point(ct, site_mm), reach_mm, ct.GetSpacing()[::-1])
    part = ct[tuple(reversed(box))]
    try:
        mask = draw(part, index_of_point(part, site_mm))
    except ValueError as error:
        raise NoPlace("no mask", str(error)) from error
    inside = lung.share_of(mask)
    if cut and LEAST_CUT <= inside < least_lung:
        mask, inside = lung.within(mask), 1.0
    if inside < least_lung:
        raise NoPlace("outside lung", f"{100 * (1 - inside):.1f} % of the mask")
    will_paint = grown_mask(sitk.GetArrayViewFromImage(mask), margin_mm, part.GetSpacing()[::-1]) > 0
    touching = int((will_paint & claimed[box]).sum())
    if touching:
        raise NoPlace("touches another lesion", f"in {touching} voxels")
    return Place(site_mm, box, part, mask, will_paint)
