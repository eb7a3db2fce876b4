"""Places in the lung where a new lesion can be put: away from the chest wall, larger vessels and existing nodules."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import check_same_grid, point_of_index
from imaging.semantic_map import lung_mask

GRID_MM = 2.0  # the search runs on voxels averaged to about this size
VESSEL_HU = -500.0  # above it, averaged lung is a vessel, an airway's wall or a nodule
AIRWAY_HU = -970.0  # below it, averaged lung is the air of an airway or of a bulla


def find_lesion_sites(
    ct: sitk.Image,
    diameter_mm: float,
    n: int,
    avoid: sitk.Image | None = None,
    margin_mm: float = 2.0,
    vessel_share: float = 0.02,
    seed: int = 0,
) -> list[tuple[float, float, float]]:
    """Propose centres for a ball of the given diameter inside the lung.

    The ball and a margin around it lie wholly in the lung and touch no existing nodule. Fine vessels are everywhere in
    a lung, so a ball may hold a small share of vessel or airway voxels; its centre is in none. Sites are drawn at
    random and are at least one diameter apart.

    Args:
        ct: Chest CT, HU, slices roughly axial.
        diameter_mm: Diameter of the lesion to place.
        n: Number of sites.
        avoid: Existing nodules, non-zero inside, on the grid of `ct`; None if there are none.
        margin_mm: Distance kept to the chest wall, mediastinum and existing nodules.
        vessel_share: Largest share of the ball's volume taken by vessels and airways.
        seed: Chooses among all sites that qualify.
    Returns: n physical points (x, y, z) in mm.
    Raises: ValueError: If a number is out of range, or the lung offers fewer than n such places; it says how many.
    """
    if not (diameter_mm > 0 and n > 0 and margin_mm >= 0 and 0 <= vessel_share < 1):
        raise ValueError(
            f"diameter_mm {diameter_mm}, n {n}, margin_mm {margin_mm}, vessel_share {vessel_share}: expected a "
            "positive diameter and number, a margin of at least 0 and a share in [0, 1)"
        )
    factors = [max(1, round(GRID_MM / spacing)) for spacing in ct.GetSpacing()]
    coarse = sitk.BinShrink(sitk.Maximum(sitk.Cast(ct, sitk.sitkFloat32), -1024.0), factors)
    ct_hu = sitk.GetArrayFromImage(coarse)
    spacing_mm = coarse.GetSpacing()[::-1]
    lung = lung_mask(ct_hu, spacing_mm)
    if not lung.any():
        raise ValueError("no lung found in the image, expected a chest CT in HU")

    free = np.pad(lung, 1)  # beyond the scan nobody knows what there is
    if avoid is not None:
        check_same_grid(avoid, ct, "avoid")
        nodules = sitk.BinShrink(sitk.Cast(avoid != 0, sitk.sitkFloat32), factors)
        free[1:-1, 1:-1, 1:-1] &= sitk.GetArrayViewFromImage(nodules) == 0
    clearance_mm = ndimage.distance_transform_edt(free, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    candidates = clearance_mm > diameter_mm / 2 + margin_mm
    occupied = lung & ((ct_hu > VESSEL_HU) | (ct_hu < AIRWAY_HU))
    candidates &= ~occupied
    indices = np.argwhere(candidates)
    order = np.random.default_rng(seed).permutation(len(indices))

    ball = _ball(diameter_mm / 2, spacing_mm)
    sites: list[tuple[float, float, float]] = []
    for index in indices[order]:
        if len(sites) == n:
            break
        x, y, z = point_of_index(coarse, index)
        near = any(np.linalg.norm(np.subtract((x, y, z), site)) < diameter_mm for site in sites)
        if not near and occupied[tuple((index + ball).T)].mean() <= vessel_share:
            sites.append((x, y, z))
    if len(sites) < n:
        raise ValueError(
            f"found {len(sites)} places for a lesion of {diameter_mm:g} mm, expected {n}; ask for fewer or smaller "
            "lesions, or raise vessel_share"
        )
    return sites


def _ball(radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Offsets (z, y, x) of the voxels of a ball around its centre voxel, (N, 3) int."""
    reach = [int(radius_mm // spacing) for spacing in spacing_mm]
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    return offsets[np.linalg.norm(offsets * spacing_mm, axis=1) <= radius_mm]
