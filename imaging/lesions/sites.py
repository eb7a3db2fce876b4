"""Places in the lung where a new lesion can be put: at random, or as real nodules lie; away from existing nodules.

A site is one of these:

- auto: a gap to the wall is drawn as real nodules have it (`imaging.lesions.wall_gaps`)
- free: any place in free lung, all alike, away from the wall
- pleural: touching the wall
- vessel: touching a vessel of about 2 mm or more, away from the wall
- fissure: touching a fissure, away from the wall; and lobe=RUL and the like: as auto, in this lobe
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import bounding_box, check_same_grid, index_of_point, point_of_index
from imaging.lesions.lobes import fissure_distance_mm
from imaging.lesions.site_names import LOBE, LOBES, check_site, needs_lobes
from imaging.lesions.wall_gaps import DEEPEST, TOUCHING_MM, drawn_gaps
from imaging.semantic_map import lung_mask

GRID_MM = 2.0  # the search runs on voxels averaged to about this size
VESSEL_HU = -500.0  # above it, averaged lung is a vessel, an airway's wall or a nodule
AIRWAY_HU = -970.0  # below it, averaged lung is the air of an airway or of a bulla
LUNG_HU = (-950.0, VESSEL_HU)  # averaged lung itself
ON_VESSEL_MM = (-2.0, 1.5)  # gap between a lesion's surface and the vessel that it touches
SHARE_ON_VESSEL = 0.15  # largest share of such a lesion's place that is vessel


@dataclass(frozen=True)
class FreeLung:
    """Where a scan has lung to put lesions in, found once by `free_lung`; arrays (D, H, W) of voxels of about 2 mm.

    Attributes:
        grid: The averaged scan, which carries the geometry.
        lung: Lung with all that it encloses.
        occupied: Vessels, airways, and nodules of the scan's own.
        wall_mm: Distance to the nearest voxel that is not lung.
        apart_mm: Distance to what is kept free around a known nodule; infinite where there is none.
        lobes: As `imaging.lesions.lobes.read_lobes`; None where they are not known.
    """

    grid: sitk.Image
    lung: np.ndarray
    occupied: np.ndarray
    wall_mm: np.ndarray
    apart_mm: np.ndarray
    lobes: np.ndarray | None = None

    @property
    def clearance_mm(self) -> np.ndarray:
        """Distance to the wall, or to what is kept free around a known nodule."""
        return np.minimum(self.wall_mm, self.apart_mm)

    def without(self, site_xyz_mm: Sequence[float], radius_mm: float) -> "FreeLung":
        """The same but for a ball around a point (x, y, z), in which a lesion has been put."""
        centre = index_of_point(self.grid, site_xyz_mm)
        axes = [
            (np.arange(size) - at) * mm
            for size, at, mm in zip(self.lung.shape, centre, self.grid.GetSpacing()[::-1], strict=True)
        ]
        z, y, x = np.ix_(*axes)
        return replace(self, apart_mm=np.minimum(self.apart_mm, np.sqrt(z * z + y * y + x * x) - radius_mm))

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


def free_lung(
    ct: sitk.Image, avoid: sitk.Image | None = None, apart_mm: float = 0.0, lobes: sitk.Image | None = None
) -> FreeLung:
    """Segment the lung of a scan, and what takes room in it.

    Args:
        ct: Chest CT, HU, slices roughly axial.
        avoid: Existing nodules, non-zero inside, on the grid of `ct`; None if there are none.
        apart_mm: Width around the existing nodules that is kept free as well.
        lobes: From `imaging.lesions.lobes.read_lobes`, on the grid of `ct`; None if they are not known.
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
    wall_mm = ndimage.distance_transform_edt(padded, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    away_mm = np.full(lung.shape, np.inf)
    if avoid is not None:
        check_same_grid(avoid, ct, "avoid")
        nodules = sitk.GetArrayFromImage(sitk.BinShrink(sitk.Cast(avoid != 0, sitk.sitkFloat32), factors)) > 0
        if nodules.any():
            away_mm = ndimage.distance_transform_edt(~nodules, sampling=spacing_mm) - apart_mm
    occupied = lung & ((ct_hu > VESSEL_HU) | (ct_hu < AIRWAY_HU))
    known = None
    if lobes is not None:
        check_same_grid(lobes, ct, "lobes")
        known = sitk.GetArrayFromImage(sitk.Resample(lobes, coarse, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    return FreeLung(coarse, lung, occupied, wall_mm, away_mm, known)


def free_lung_sites(
    lung: FreeLung,
    diameter_mm: float,
    n: int,
    generator: np.random.Generator,
    margin_mm: float = 2.0,
    vessel_share: float = 0.02,
    site: str = "free",
) -> list[tuple[float, float, float]]:
    """Propose centres for a ball of the given diameter inside the lung.

    The ball and a margin around it touch no existing nodule. Where the site does not say otherwise, they lie wholly in
    the lung; a ball at the wall may reach into it by two fifths of its radius. Fine vessels are everywhere in a lung,
    so a ball may hold a small share of vessel or airway voxels; its centre is in none. Sites are drawn at random and
    are at least one diameter apart.

    Args:
        lung: Of the scan.
        diameter_mm: Diameter of the lesion to place.
        n: Number of sites.
        generator: Chooses among all sites that qualify.
        margin_mm: Distance kept to the chest wall, mediastinum and existing nodules.
        vessel_share: Largest share of the ball's volume taken by vessels and airways.
        site: See the module.
    Returns: n physical points (x, y, z) in mm.
    Raises: ValueError: If a number is out of range, the lobes are needed and not known, or the lung offers fewer than n
        such places; it says how many.
    """
    check_site(site)
    if needs_lobes(site) and lung.lobes is None:
        raise ValueError(f"site {site} needs the lobes; pass a segmentation of TotalSegmentator or lungmask as --lobes")
    if not (diameter_mm > 0 and n > 0 and margin_mm >= 0 and 0 <= vessel_share < 1):
        raise ValueError(
            f"diameter_mm {diameter_mm}, n {n}, margin_mm {margin_mm}, vessel_share {vessel_share}: expected a "
            "positive diameter and number, a margin of at least 0 and a share in [0, 1)"
        )
    indices = _candidates(lung, diameter_mm / 2, margin_mm, site, generator)
    ball = _ball(diameter_mm / 2, lung.grid.GetSpacing()[::-1])
    vessel_share = max(vessel_share, SHARE_ON_VESSEL) if site == "vessel" else vessel_share
    shape = np.array(lung.lung.shape)
    sites: list[tuple[float, float, float]] = []
    for index in indices:
        if len(sites) == n:
            break
        x, y, z = point_of_index(lung.grid, index)
        near = any(np.linalg.norm(np.subtract((x, y, z), site)) < diameter_mm for site in sites)
        if near:
            continue
        around = index + ball  # a ball at the wall may leave the image
        around = around[((around >= 0) & (around < shape)).all(axis=1)]
        if lung.occupied[tuple(around.T)].mean() <= vessel_share:
            sites.append((x, y, z))
    if len(sites) < n:
        raise ValueError(
            f"found {len(sites)} places for a lesion of {diameter_mm:g} mm, expected {n}; ask for fewer or smaller "
            f"lesions, or {'raise vessel_share' if site == 'free' else f'for another site than {site}'}"
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


def _candidates(
    lung: FreeLung, radius_mm: float, margin_mm: float, site: str, generator: np.random.Generator
) -> np.ndarray:
    """Voxels where a ball may have its centre, (N, 3), in the order in which they are tried."""
    open_lung = ~lung.occupied & (lung.apart_mm > radius_mm + margin_mm)
    gap_mm = lung.wall_mm - radius_mm
    deep = open_lung & (gap_mm > margin_mm)
    spacing_mm = lung.grid.GetSpacing()[::-1]
    if site == "free":
        where = deep
    elif site == "vessel":
        vessels = lung.lung & (sitk.GetArrayViewFromImage(lung.grid) > VESSEL_HU)
        away_mm = ndimage.distance_transform_edt(~vessels, sampling=spacing_mm) - radius_mm
        where = deep & (away_mm >= ON_VESSEL_MM[0]) & (away_mm <= ON_VESSEL_MM[1]) & vessels.any()
    elif site == "fissure":
        assert lung.lobes is not None
        where = deep & (fissure_distance_mm(lung.lobes, spacing_mm) <= radius_mm)
    else:
        where = open_lung & (gap_mm > -DEEPEST * radius_mm)
        if site == "pleural":
            where &= gap_mm < TOUCHING_MM
        elif site.startswith(LOBE):
            assert lung.lobes is not None
            where &= lung.lobes == 1 + LOBES.index(site[len(LOBE) :])
        indices = np.argwhere(where)
        return indices[drawn_gaps(gap_mm[where], 2 * radius_mm, generator)]
    indices = np.argwhere(where)
    return indices[generator.permutation(len(indices))]


def _ball(radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Offsets (z, y, x) of the voxels of a ball around its centre voxel, (N, 3) int."""
    reach = [int(radius_mm // spacing) for spacing in spacing_mm]
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    return offsets[np.linalg.norm(offsets * spacing_mm, axis=1) <= radius_mm]
