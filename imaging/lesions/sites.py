"""Places in the lung where a new lesion can be put: away from the chest wall, larger vessels and existing nodules."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import bounding_box, check_same_grid, index_of_point, point_of_index
from imaging.semantic_map import lung_mask

GRID_MM = 2.0  # the search runs on voxels averaged to about this size
VESSEL_HU = -500.0  # above it, averaged lung is a vessel, an airway's wall or a nodule
AIRWAY_HU = -970.0  # below it, averaged lung is the air of an airway or of a bulla
LUNG_HU = (-950.0, VESSEL_HU)  # averaged lung itself


@dataclass(frozen=True)
class FreeLung:
    """Where a scan has lung to put lesions in, found once by `free_lung`; arrays (D, H, W) of voxels of about 2 mm.

    Attributes:
        grid: The averaged scan, which carries the geometry.
        lung: Lung with all that it encloses.
        occupied: Vessels, airways, and nodules of the scan's own.
        clearance_mm: Distance to the nearest voxel that is not lung, or to what is kept free around a known nodule.
    """

    grid: sitk.Image
    lung: np.ndarray
    occupied: np.ndarray
    clearance_mm: np.ndarray

    def without(self, site_xyz_mm: Sequence[float], radius_mm: float) -> "FreeLung":
        """The same but for a ball around a point (x, y, z), in which a lesion has been put."""
        centre = index_of_point(self.grid, site_xyz_mm)
        axes = [
            (np.arange(size) - at) * mm
            for size, at, mm in zip(self.lung.shape, centre, self.grid.GetSpacing()[::-1], strict=True)
        ]
        z, y, x = np.ix_(*axes)
        return replace(self, clearance_mm=np.minimum(self.clearance_mm, np.sqrt(z * z + y * y + x * x) - radius_mm))

    def within(self, mask: sitk.Image) -> sitk.Image:
        """The part of a mask that lies in the lung, or in what has the HU of lung.

        The second counts where a scan's field of view ends in the lung, which then is not told from air around the
        patient.

        Args:
            mask: uint8, anywhere in the scan's space, 1 inside, not empty.
        Returns: Image of the same geometry, cut smoothly where the lung ends.
        """
        box = bounding_box(mask)
        ct_hu = sitk.GetArrayViewFromImage(self.grid)
        looks_like_it = (ct_hu > LUNG_HU[0]) & (ct_hu < LUNG_HU[1])
        lung = sitk.GetImageFromArray((self.lung | looks_like_it).astype(np.float32))
        lung.CopyInformation(self.grid)
        here = sitk.Resample(
            lung, mask[box], sitk.Transform(), sitk.sitkLinear, 0.0, useNearestNeighborExtrapolator=True
        )
        result = sitk.Image(mask)
        result[box] = mask[box] * sitk.Cast(here >= 0.5, mask.GetPixelID())
        return result

    def share_of(self, mask: sitk.Image) -> float:
        """How much of a mask (see `within`) lies in the lung, 0 to 1."""
        part = mask[bounding_box(mask)]
        inside, whole = (int(sitk.GetArrayFromImage(image).sum()) for image in (self.within(part), part))
        return inside / whole


def free_lung(ct: sitk.Image, avoid: sitk.Image | None = None, apart_mm: float = 0.0) -> FreeLung:
    """Segment the lung of a scan, and what takes room in it.

    Args:
        ct: Chest CT, HU, slices roughly axial.
        avoid: Existing nodules, non-zero inside, on the grid of `ct`; None if there are none.
        apart_mm: Width around the existing nodules that is kept free as well.
    Raises: ValueError: If there is no lung, or `avoid` lies on another grid.
    """
    factors = [max(1, round(GRID_MM / spacing)) for spacing in ct.GetSpacing()]
    coarse = sitk.BinShrink(sitk.Maximum(sitk.Cast(ct, sitk.sitkFloat32), -1024.0), factors)
    ct_hu = sitk.GetArrayFromImage(coarse)
    spacing_mm = coarse.GetSpacing()[::-1]
    lung = lung_mask(ct_hu, spacing_mm)
    if not lung.any():
        raise ValueError("no lung found in the image, expected a chest CT in HU")

    padded = np.pad(lung, 1)  # beyond the scan nobody knows what there is
    clearance_mm = ndimage.distance_transform_edt(padded, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    if avoid is not None:
        check_same_grid(avoid, ct, "avoid")
        nodules = sitk.GetArrayFromImage(sitk.BinShrink(sitk.Cast(avoid != 0, sitk.sitkFloat32), factors)) > 0
        if nodules.any():
            away_mm = ndimage.distance_transform_edt(~nodules, sampling=spacing_mm)
            clearance_mm = np.minimum(clearance_mm, away_mm - apart_mm)
    return FreeLung(coarse, lung, lung & ((ct_hu > VESSEL_HU) | (ct_hu < AIRWAY_HU)), clearance_mm)


def free_lung_sites(
    lung: FreeLung,
    diameter_mm: float,
    n: int,
    generator: np.random.Generator,
    margin_mm: float = 2.0,
    vessel_share: float = 0.02,
) -> list[tuple[float, float, float]]:
    """Propose centres for a ball of the given diameter inside the lung.

    The ball and a margin around it lie wholly in the lung and touch no existing nodule. Fine vessels are everywhere in
    a lung, so a ball may hold a small share of vessel or airway voxels; its centre is in none. Sites are drawn at
    random, all that qualify alike, and are at least one diameter apart.

    Args:
        lung: Of the scan.
        diameter_mm: Diameter of the lesion to place.
        n: Number of sites.
        generator: Chooses among all sites that qualify.
        margin_mm: Distance kept to the chest wall, mediastinum and existing nodules.
        vessel_share: Largest share of the ball's volume taken by vessels and airways.
    Returns: n physical points (x, y, z) in mm.
    Raises: ValueError: If a number is out of range, or the lung offers fewer than n such places; it says how many.
    """
    if not (diameter_mm > 0 and n > 0 and margin_mm >= 0 and 0 <= vessel_share < 1):
        raise ValueError(
            f"diameter_mm {diameter_mm}, n {n}, margin_mm {margin_mm}, vessel_share {vessel_share}: expected a "
            "positive diameter and number, a margin of at least 0 and a share in [0, 1)"
        )
    indices = np.argwhere((lung.clearance_mm > diameter_mm / 2 + margin_mm) & ~lung.occupied)
    ball = _ball(diameter_mm / 2, lung.grid.GetSpacing()[::-1])
    sites: list[tuple[float, float, float]] = []
    for index in indices[generator.permutation(len(indices))]:
        if len(sites) == n:
            break
        x, y, z = point_of_index(lung.grid, index)
        near = any(np.linalg.norm(np.subtract((x, y, z), site)) < diameter_mm for site in sites)
        if not near and lung.occupied[tuple((index + ball).T)].mean() <= vessel_share:
            sites.append((x, y, z))
    if len(sites) < n:
        raise ValueError(
            f"found {len(sites)} places for a lesion of {diameter_mm:g} mm, expected {n}; ask for fewer or smaller "
            "lesions, or raise vessel_share"
        )
    return sites


def find_lesion_sites(
    ct: sitk.Image,
    diameter_mm: float,
    n: int,
    avoid: sitk.Image | None = None,
    margin_mm: float = 2.0,
    vessel_share: float = 0.02,
    seed: int = 0,
) -> list[tuple[float, float, float]]:
    """`free_lung_sites` of a scan that is looked at once.

    Args:
        ct, avoid: As `free_lung`.
        diameter_mm, n, margin_mm, vessel_share: As `free_lung_sites`.
        seed: Chooses among all sites that qualify.
    Returns: n physical points (x, y, z) in mm.
    Raises: ValueError: As both.
    """
    if not diameter_mm > 0:
        raise ValueError(f"diameter_mm {diameter_mm}: expected a positive number")
    generator = np.random.default_rng(seed)
    return free_lung_sites(free_lung(ct, avoid), diameter_mm, n, generator, margin_mm, vessel_share)


def _ball(radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Offsets (z, y, x) of the voxels of a ball around its centre voxel, (N, 3) int."""
    reach = [int(radius_mm // spacing) for spacing in spacing_mm]
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    return offsets[np.linalg.norm(offsets * spacing_mm, axis=1) <= radius_mm]
