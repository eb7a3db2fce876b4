"""Chest anatomy in closed form, in HU, sampled on any grid: chest wall, bones, mediastinum, lungs, vessels, bronchi.

Positions are (z, y, x) in mm from the centre of the chest: z points cranial, y posterior, x to the patient's left.
Organs are implicit surfaces, negative inside, in about mm; a border is painted with the partial volume of the voxel.
Lengths were read off adult chest CT. The airways and vessels fill the lung by recursive splitting: a branch runs
part of the way to the centroid of the tissue it feeds, which is then cut in two (Tawhai et al. 2000, Annals of
Biomedical Engineering 28:793), and its radius follows Murray's law, r³ = Σ r³ of the daughters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating]
Grid = tuple[Array, Array, Array]  # z (D, 1, 1), y (1, H, 1), x (1, 1, W), mm

AIR_HU, FAT_HU, MUSCLE_HU, LUNG_HU = -1000.0, -100.0, 50.0, -892.0


@dataclass(frozen=True)
class Anatomy:
    """One patient.

    Attributes:
        cavity_mm: Half extents (height above the widest level, depth, width) of the rib cage's inner surface.
        fat_mm: Thickness of the subcutaneous fat.
        dome_mm: Level z of the right and the left diaphragm's dome.
        heart_mm: Half extents (z, y, x) of the heart.
        blood_hu: Attenuation of blood; above 100 with contrast medium.
        lung_hu: Mean attenuation of the parenchyma, without vessels.
        rib_phase_mm: Level of the ribs modulo their pitch.
        vessels: Tapering cylinders (N, 8): end points z, y, x and radius, twice, mm.
        bronchi: The same, outer radius.
        seed: Seed of the parenchyma's and the soft tissue's texture.
    """

    cavity_mm: tuple[float, float, float]
    fat_mm: float
    dome_mm: tuple[float, float]
    heart_mm: tuple[float, float, float]
    blood_hu: float
    lung_hu: float
    rib_phase_mm: float
    vessels: Array
    bronchi: Array
    seed: int


def draw_anatomy(seed: int) -> Anatomy:
    """Draw a patient.

    Args:
        seed: Not negative; the same seed gives the same patient.
    Returns: The anatomy, with its vessels grown.
    """
    rng = np.random.default_rng((seed, 1))
    anatomy = Anatomy(
        cavity_mm=(rng.uniform(152, 166), rng.uniform(86, 98), rng.uniform(122, 136)),
        fat_mm=rng.uniform(4, 16),
        dome_mm=(rng.uniform(-88, -72), rng.uniform(-98, -84)),
        heart_mm=(rng.uniform(48, 60), rng.uniform(40, 50), rng.uniform(50, 62)),
        blood_hu=float(rng.choice([42.0, 160.0])),
        lung_hu=LUNG_HU + rng.normal(0, 12),
        rib_phase_mm=rng.uniform(0, 27),
        vessels=np.zeros((0, 8), np.float32),
        bronchi=np.zeros((0, 8), np.float32),
        seed=seed,
    )
    vessels, bronchi = [], [_airway((150, 22, 0), (30, 14, -2), 9.0)]
    for side in (-1, 1):
        points = rng.uniform((-130, -95, 0), (125, 95, 135), (14_000, 3)).astype(np.float32) * (1, 1, side)
        points = points[lung_surface(anatomy, (points[:, 0], points[:, 1], points[:, 2])) < -3].astype(np.float32)
        hilum = np.array([4.0, 8.0, 36.0 * side])
        arteries = grow_tree(points[:1900], hilum + np.array([5, -6, -6 * side]), 0.56, rng)
        veins = grow_tree(points[1900:3300], hilum + np.array([-12, -12, -10 * side]), 0.56, rng)
        vessels += [arteries, veins]
        bronchi += [_airway((31, 14, -2), (2, 13, 34 * side), 6.0), _companions(arteries, side)]
    return replace(anatomy, vessels=np.concatenate(vessels), bronchi=np.concatenate(bronchi))


def grid_mm(shape: Sequence[int], spacing_mm: Sequence[float], center_mm: Sequence[float] = (0, 0, 0)) -> Grid:
    """Voxel centres (mm) of an array whose middle lies at `center_mm`, as three broadcastable axes."""
    axes = [
        center_mm[i] + (np.arange(shape[i], dtype=np.float32) - (shape[i] - 1) / 2) * spacing_mm[i] for i in range(3)
    ]
    z, y, x = np.ix_(*(a.astype(np.float32) for a in axes))
    return z, y, x


def ellipse(*offsets_and_radii: tuple[Array, float | Array], power: float = 2.0) -> Array:
    """Implicit (super)ellipse or (super)ellipsoid from pairs (offset, radius), mm; radial distance, negative inside."""
    q = sum((np.abs(d) / r) ** power for d, r in offsets_and_radii) ** (1 / power)
    length = np.sqrt(sum(d * d for d, _ in offsets_and_radii))
    return length * (1 - 1 / np.maximum(q, 0.05))


def soft_union(*surfaces: Array, blend_mm: float = 10.0) -> Array:
    """Union with a rounded seam: −b·ln Σ exp(−sᵢ/b)."""
    lowest = surfaces[0]
    for s in surfaces[1:]:
        lowest = np.minimum(lowest, s)
    return lowest - blend_mm / 3 * np.log(sum(np.exp((lowest - s) * (3 / blend_mm)) for s in surfaces))


def cavity_surface(anatomy: Anatomy, grid: Grid) -> Array:
    """Inner surface of the rib cage."""
    z, y, x = grid
    height, depth, width = anatomy.cavity_mm
    rise = np.clip((z + 40) / height, 0, 0.999)
    narrowing = (1 - rise**2.1) ** (1 / 1.9)
    gutter = 10 * np.exp(-((x / 36) ** 2)) * np.clip(y / 60, 0, 1)  # the lungs reach back beside the spine
    return ellipse((x, width * narrowing), (y - 14 * rise + gutter, depth * (0.22 + 0.78 * narrowing)), power=2.25)


def mediastinum_surface(anatomy: Anatomy, grid: Grid) -> Array:
    """Everything between the lungs: heart, great vessels, hila, spine."""
    z, y, x = grid
    column = ellipse((x, 23 + 4 * np.exp(-(((z - 30) / 25) ** 2))), (y - 14, 62.0))
    septum = ellipse((x + 0.1 * z, 8.0), (y + 70, 45.0))  # where the lungs almost meet behind the sternum
    spine = ellipse((x, 20.0), (y - 78, 34.0))
    dz, dy, dx = anatomy.heart_mm
    heart = ellipse((z + 55 + 0.3 * x, dz), (y + 34, dy), (x - 20, dx))
    arch = ellipse((z - 44, 16.0), (y - 8, 34.0), (x - 20, 17.0))
    aorta = ellipse((x - 22, 14.0), (y - 48, 14.0)) + np.clip(z - 45, 0, None)
    hila = soft_union(*(ellipse((z - 2, 24.0), (y - 4, 13.0), (x - 30 * side, 13.0)) for side in (-1, 1)))
    return soft_union(column, septum, spine, heart, arch, aorta, hila)


def diaphragm_surface(anatomy: Anatomy, grid: Grid) -> Array:
    """Negative below the two domes; the posterior recess is the deepest."""
    z, y, x = grid
    blend = 1 / (1 + np.exp(-x / 8))
    dome = anatomy.dome_mm[0] * (1 - blend) + anatomy.dome_mm[1] * blend
    fall = 22 * ((np.abs(x) - 62) / 62) ** 2 + 46 * (np.clip(y + 15, 0, None) / 100) ** 2
    return z - (dome - fall - 22 * (np.clip(-15 - y, 0, None) / 60) ** 2)


def lung_surface(anatomy: Anatomy, grid: Grid) -> Array:
    """Both lungs: the rib cage without the mediastinum and what lies below the diaphragm."""
    z, y, x = grid
    ripple = 1.5 * np.sin(z / 13 + y / 17) * np.sin(x / 19 + anatomy.seed) + 1.2 * np.sin(y / 11 - x / 23)
    outside = soft_union(
        -cavity_surface(anatomy, grid),
        mediastinum_surface(anatomy, grid) + ripple,
        diaphragm_surface(anatomy, grid) + ripple,
        blend_mm=6.0,
    )
    return -outside


def grow_tree(points: Array, root_mm: NDArray, leaf_radius_mm: float, rng: np.random.Generator) -> Array:
    """Grow a tree that feeds every point.

    Args:
        points: Points to reach, (N, 3), mm.
        root_mm: Where the tree starts, (3,).
        leaf_radius_mm: Radius of a branch that feeds one point; one that feeds n has radius leaf · n^(1/3) (Murray).
        rng: Random generator of the bends.
    Returns: Tapering cylinders (M, 8), see `Anatomy`; each branch is a bent pair of them.
    """
    branches: list[NDArray] = []
    bends = rng.normal(0, 0.045, (2 * len(points), 3))
    todo = [(np.asarray(root_mm, dtype=float), points.astype(float))]
    while todo:
        start, fed = todo.pop()
        count = len(fed)
        center = fed.sum(axis=0) / count
        run = (center - start) * (0.45 if count > 1 else 0.9)
        bend = start + 0.5 * run + bends[len(branches)] * math.sqrt(run @ run)
        branches.append(np.concatenate([start, bend, start + run, [leaf_radius_mm * count ** (1 / 3)]]))
        if count > 1:
            offset = fed - center
            axis = offset[0] if count == 2 else np.linalg.eigh(offset.T @ offset)[1][:, -1]
            upper = offset @ axis > 0
            todo += [(start + run, fed[upper]), (start + run, fed[~upper])]
    start, bend, end, radius = np.split(np.array(branches, dtype=np.float32), (3, 6, 9), axis=1)
    proximal = np.concatenate([start, 1.1 * radius, bend, radius], axis=1)
    distal = np.concatenate([bend, radius, end, 0.85 * radius], axis=1)
    return np.concatenate([proximal, distal])


def _airway(start: tuple, end: tuple, radius_mm: float) -> Array:
    return np.array([[*start, radius_mm, *end, radius_mm]], dtype=np.float32)


def _companions(arteries: Array, side: int) -> Array:
    """Bronchi beside the larger arteries, at a distance that follows the artery's radius."""
    wide = arteries[arteries[:, 7] > 1.0].copy()
    away = np.array([0.35, 0.9, -0.25 * side], dtype=np.float32)
    for column in (0, 4):
        wide[:, column : column + 3] += away * 1.75 * np.minimum(wide[:, column + 3 : column + 4], 4.0)
        wide[:, column + 3] *= 0.75
    return wide


def tube_occupancy(tubes: Array, grid: Grid, radius_scale: float = 1.0) -> Array:
    """Fraction of each voxel inside tapering cylinders; one thinner than a voxel is faint instead of lost.

    Args:
        tubes: (N, 8), see `Anatomy`.
        grid: Axes, mm.
        radius_scale: Factor on all radii (an airway's lumen is a fraction of its outer radius).
    Returns: float32 (D, H, W) in [0, 1].
    """
    shape = tuple(axis.size for axis in grid)
    origin = np.array([axis.flat[0] for axis in grid], dtype=np.float32)
    step = np.array([axis.flat[1] - axis.flat[0] for axis in grid], dtype=np.float32)
    voxel = float(np.prod(step) ** (1 / 3))
    start, end = tubes[:, 0:3], tubes[:, 4:7]
    reach = np.maximum(np.maximum(tubes[:, 3], tubes[:, 7]) * radius_scale, voxel / 2) + voxel / 2
    far = origin + (np.array(shape, dtype=np.float32) - 1) * step
    seen = np.all(
        (np.maximum(start, end) > origin - reach[:, None]) & (np.minimum(start, end) < far + reach[:, None]), 1
    )
    start, along, radii, reach = start[seen], (end - start)[seen], tubes[seen][:, (3, 7)] * radius_scale, reach[seen]
    samples = np.ceil(np.linalg.norm(along / step, axis=1)).astype(int) + 1
    window = np.floor(reach[:, None] / step + 0.75).astype(int)  # voxels on either side of the axis that can be touched
    result = np.zeros(math.prod(shape), dtype=np.float32)
    for size in np.unique(window, axis=0):
        group = np.flatnonzero(np.all(window == size, axis=1))
        neighbours = np.stack(np.meshgrid(*(np.arange(-k, k + 1) for k in size), indexing="ij"), -1).reshape(-1, 3)
        tube = np.repeat(group, samples[group])
        first = np.cumsum(samples[group]) - samples[group]
        place = (np.arange(len(tube)) - np.repeat(first, samples[group])) / np.maximum(samples[tube] - 1, 1)
        nearest = np.rint((start[tube] + place[:, None] * along[tube] - origin) / step).astype(int)
        for part in np.array_split(np.arange(len(tube)), 1 + len(tube) * len(neighbours) // 2_000_000):
            voxels = (nearest[part, None] + neighbours).reshape(-1, 3)
            owner = np.repeat(tube[part], len(neighbours))
            within = np.all((voxels >= 0) & (voxels < shape), axis=1)
            voxels, owner = voxels[within], owner[within]
            axis = along[owner]
            offset = origin + voxels.astype(np.float32) * step - start[owner]
            t = np.einsum("ni,ni->n", offset, axis) / np.maximum(np.einsum("ni,ni->n", axis, axis), 1e-6)
            t = np.clip(t, 0, 1)
            distance = np.linalg.norm(offset - t[:, None] * axis, axis=1)
            radius = radii[owner, 0] + t * (radii[owner, 1] - radii[owner, 0])
            # A linear border one voxel wide around `shown` encloses π(shown² + voxel²/12): keep that at π·radius².
            shown = np.sqrt(np.maximum(radius**2 - voxel**2 / 12, voxel**2 / 4))
            fraction = np.clip(0.5 + (shown - distance) / voxel, 0, 1) * np.minimum(3 * (radius / voxel) ** 2, 1)
            np.maximum.at(result, np.ravel_multi_index(tuple(voxels.T), shape), fraction.astype(np.float32))
    return result.reshape(shape)


def smooth_noise(
    shape: Sequence[int], spacing_mm: Sequence[float], length_mm: float, rng: np.random.Generator
) -> Array:
    """Gaussian random field of unit variance and about the given correlation length, (D, H, W)."""
    coarse_step = np.maximum(length_mm / 2 / np.asarray(spacing_mm), 1.0)
    coarse_shape = np.ceil(np.asarray(shape) / coarse_step).astype(int) + 4
    coarse = rng.standard_normal(coarse_shape, dtype=np.float32)
    sigma = length_mm / 2 / np.asarray(spacing_mm) / coarse_step
    field = ndimage.gaussian_filter(coarse, sigma, mode="wrap")
    index = [np.arange(n) / s + 1 for n, s in zip(shape, coarse_step, strict=True)]
    for axis, position in enumerate(index):  # separable linear interpolation
        below = position.astype(int)
        weight = (position - below).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        field = np.take(field, below, axis) * (1 - weight) + np.take(field, below + 1, axis) * weight
    return field / max(float(coarse.std() * np.sqrt(np.prod(1 / (2 * np.sqrt(np.pi) * sigma)))), 1e-6)
