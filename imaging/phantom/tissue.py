"""The chest phantom's tissues: anatomy to HU on a grid, and the noise of a reconstructed CT.

Tissues are painted one over the other, ct ← ct + occupancy · (HU − ct), each with the partial volume of its border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imaging.phantom.anatomy import (
    AIR_HU,
    FAT_HU,
    MUSCLE_HU,
    Anatomy,
    Array,
    Grid,
    cavity_surface,
    diaphragm_surface,
    ellipse,
    lung_surface,
    mediastinum_surface,
    smooth_noise,
    tube_occupancy,
)

RIB_PITCH_MM, RIB_SLOPE = 27.0, 0.55  # distance of neighbouring ribs in z; fall of a rib per mm towards the front


def chest_hu(
    anatomy: Anatomy, grid: Grid, spacing_mm: Sequence[float], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Paint a chest without nodules and without noise.

    Args:
        anatomy: The patient.
        grid: Voxel centres, mm, see `grid_mm`.
        spacing_mm: Voxel spacing (z, y, x), mm.
        rng: Random generator of the tissues' texture.
    Returns: HU float32 (D, H, W), and the lungs' surface (D, H, W), about mm, negative inside.
    """
    shape = tuple(axis.size for axis in grid)
    voxel_mm = float(np.prod(spacing_mm) ** (1 / 3))
    cavity, lung = cavity_surface(anatomy, grid), lung_surface(anatomy, grid)
    streaks = smooth_noise(shape, spacing_mm, 9.0, rng)
    ct = np.full(shape, AIR_HU, dtype=np.float32)
    _paint_table(ct, anatomy, grid, voxel_mm)
    _paint_wall(ct, anatomy, grid, voxel_mm, cavity, streaks)
    _paint_inside(ct, anatomy, grid, voxel_mm, cavity, streaks)
    _paint_bones(ct, anatomy, grid, voxel_mm, cavity, streaks)
    _paint(ct, lung, parenchyma_hu(anatomy, grid, spacing_mm, lung, rng), voxel_mm)
    blood = tube_occupancy(anatomy.vessels, grid)
    blood += (tube_occupancy(anatomy.bronchi, grid) - blood).clip(0) * 0.85  # walls
    ct += blood * np.maximum(MUSCLE_HU - 15 - ct, 0)
    lumen = tube_occupancy(anatomy.bronchi, grid, radius_scale=0.72)
    ct += lumen * np.minimum(AIR_HU + 20 - ct, 0)
    return ct, lung


def parenchyma_hu(
    anatomy: Anatomy, grid: Grid, spacing_mm: Sequence[float], lung: Array, rng: np.random.Generator
) -> Array:
    """Aerated lung: denser towards the back (gravity) and the pleura, patchy, with fissures.

    Args and returns: see `chest_hu`; `lung` is the lungs' surface.
    """
    z, y, x = grid
    gravity = 0.28 * y - 0.06 * z
    patches = 9 * smooth_noise(lung.shape, spacing_mm, 30.0, rng) + 11 * smooth_noise(lung.shape, spacing_mm, 4.0, rng)
    oblique = np.abs(0.82 * (z + 12) - 0.57 * (y - 5) + 5 * np.sin(x / 21 + anatomy.seed))
    fissure = 0.7 * np.clip(1 - oblique / max(1.2, float(np.prod(spacing_mm)) ** (1 / 3)), 0, 1)
    subpleural = 25 * np.exp(lung / 4)
    return (anatomy.lung_hu + gravity + patches + subpleural + 90 * fissure).astype(np.float32)


def body_surface(anatomy: Anatomy, grid: Grid) -> Array:
    """The skin."""
    z, y, x = grid
    _, depth, width = anatomy.cavity_mm
    wall = 14 + anatomy.fat_mm
    shoulders = 24 / (1 + np.exp(-(z - 75) / 14))
    furrow = 6 * np.exp(-((x / 14) ** 2)) * (y > 0)
    return ellipse((x, width + wall + 4 + shoulders), (y - 4 + furrow, depth + wall + 9), power=2.35)


def _paint(ct: Array, surface: Array, hu: float | Array, voxel_mm: float) -> None:
    ct += np.clip(0.5 - surface / voxel_mm, 0, 1) * (hu - ct)


def _paint_table(ct: Array, anatomy: Anatomy, grid: Grid, voxel_mm: float) -> None:
    z, y, x = grid
    top = anatomy.cavity_mm[1] + anatomy.fat_mm + 36 - (x / 95) ** 2 * 9
    _paint(ct, np.abs(y - top) - 2 + 0 * z, -250, voxel_mm)


def _paint_wall(ct: Array, anatomy: Anatomy, grid: Grid, voxel_mm: float, cavity: Array, streaks: Array) -> None:
    """Skin, subcutaneous fat, muscle layers with fat between them."""
    z, y, x = grid
    skin = body_surface(anatomy, grid)
    _paint(ct, skin, 10, voxel_mm)
    _paint(ct, skin + 2, FAT_HU + 6 * streaks, voxel_mm)
    pectoral = 12 * np.exp(-(((np.abs(x) - 65) / 40) ** 2)) * (y < 0) / (1 + np.exp(-(z - 10) / 15))
    erector = 18 * np.exp(-(((np.abs(x) - 32) / 22) ** 2)) * (y > 0)
    muscle = np.maximum(skin + anatomy.fat_mm, cavity - 23 - pectoral - erector)
    _paint(ct, muscle, MUSCLE_HU + 5 * streaks, voxel_mm)
    planes = np.abs(cavity - 13 + 3 * streaks) - 0.9  # fat between the ribs' muscles and the outer ones
    _paint(ct, np.maximum(planes, muscle), -70, voxel_mm)


def _paint_inside(ct: Array, anatomy: Anatomy, grid: Grid, voxel_mm: float, cavity: Array, streaks: Array) -> None:
    """What the rib cage holds besides the lungs: mediastinal fat and vessels, heart, liver, spleen, stomach gas."""
    z, y, x = grid
    _paint(ct, cavity, MUSCLE_HU, voxel_mm)
    organs = np.where(x < 30, 58, 48) + 4 * streaks
    _paint(ct, np.maximum(cavity + 2, diaphragm_surface(anatomy, grid) + 2), organs, voxel_mm)
    gas = ellipse((z + 118, 20.0), (y + 30, 28.0), (x - 62, 30.0))
    _paint(ct, np.maximum(gas, 8 + diaphragm_surface(anatomy, grid)), AIR_HU + 20, voxel_mm)
    mediastinum = mediastinum_surface(anatomy, grid)
    above = -diaphragm_surface(anatomy, grid) - 6
    _paint(ct, np.maximum(np.maximum(mediastinum + 3, cavity + 3), above), FAT_HU + 15 + 8 * streaks, voxel_mm)
    dz, dy, dx = anatomy.heart_mm
    heart = ellipse((z + 55 + 0.3 * x, dz - 6), (y + 34, dy - 6), (x - 20, dx - 6))
    _paint(ct, heart, 48 + 3 * streaks, voxel_mm)
    for chamber in ((-42, -38, -8, 24), (-52, -30, 40, 24), (-40, -2, 14, 20)):
        inner = ellipse((z - chamber[0], chamber[3]), (y - chamber[1], chamber[3]), (x - chamber[2], chamber[3]))
        _paint(ct, inner, anatomy.blood_hu, voxel_mm)
    descending = ellipse((x - 22, 12.5), (y - 48, 12.5)) + np.clip(z - 42, 0, None)
    arch = ellipse((z - 42, 14.0), (y - 10, 40.0), (x - 16, 14.0))
    ascending = ellipse((x + 14, 15.0), (y + 28, 15.0)) + np.clip(np.abs(z - 8) - 34, 0, None)
    cava = ellipse((x + 34, 9.0), (y + 14, 10.0)) + np.clip(-10 - z, 0, None)
    pulmonary = ellipse((z - 6, 11.0), (y + 8, 12.0), (x - 2, 30.0))
    oesophagus = ellipse((x - 6, 8.0), (y - 38, 6.0)) + 0 * z
    for vessel in (descending, arch, ascending, cava, pulmonary):
        _paint(ct, vessel, anatomy.blood_hu + 2 * streaks, voxel_mm)
    _paint(ct, oesophagus, 35, voxel_mm)


def _paint_bones(ct: Array, anatomy: Anatomy, grid: Grid, voxel_mm: float, cavity: Array, streaks: Array) -> None:
    """Ribs, vertebrae with discs and the spinal canal, sternum, scapulae: a dense shell around spongy bone."""
    z, y, x = grid
    level = np.mod(z - RIB_SLOPE * y + 0.4 * np.abs(x) - anatomy.rib_phase_mm, RIB_PITCH_MM)
    ribs = ellipse((cavity - 7.5, 5.4), (level - RIB_PITCH_MM / 2, 7.0))
    ribs = np.maximum(ribs, np.maximum(26 - np.abs(x) - 30 * (y > 40), z - 112))
    front = y < -0.62 * anatomy.cavity_mm[1]
    _bone(ct, ribs, np.where(front, 120, 270) + 30 * streaks, np.where(front, 180, 750), 1.8, voxel_mm)
    disc = np.abs(np.mod(z - anatomy.rib_phase_mm, RIB_PITCH_MM) - RIB_PITCH_MM / 2) < 3
    body = ellipse((x, 18.0), (y - 62, 15.0), power=2.4) + 0 * z
    arch = np.minimum(ellipse((x, 15.0), (y - 84, 12.0)), ellipse((x, 3.0), (y - 104, 16.0)))
    transverse = ellipse((np.abs(x) - 20, 13.0), (y - 86 - 0.3 * np.abs(x), 4.0), (np.mod(z, RIB_PITCH_MM) - 13, 8.0))
    _bone(ct, np.minimum(arch, transverse), 330 + 30 * streaks, 620, 2.2, voxel_mm)
    _bone(ct, body, np.where(disc, 85, 235 + 35 * streaks), np.where(disc, 95, 480), 2.0, voxel_mm)
    _paint(ct, ellipse((x, 9.0), (y - 84, 8.0)) + 0 * z, 25, voxel_mm)
    sternum = ellipse((x, 17.0), (y + anatomy.cavity_mm[1] + 6, 5.5)) + np.clip(np.abs(z - 12) - 70, 0, None)
    _bone(ct, sternum, 130 + 30 * streaks, 380, 1.5, voxel_mm)
    blade = np.maximum(np.abs(cavity - 16 - 0.12 * (y - 60)) - 1.8, np.abs(np.abs(x) - 95) - 28)
    blade = np.maximum(np.maximum(blade, 15 - y), 20 - z)
    _bone(ct, np.maximum(blade, body_surface(anatomy, grid) + anatomy.fat_mm), 200, 330, 1.0, voxel_mm)


def _bone(ct: Array, surface: Array, spongy_hu: Array | float, dense_hu: Array | float, shell: float, v: float) -> None:
    _paint(ct, surface, dense_hu, v)
    _paint(ct, surface + shell, spongy_hu, v)


def ct_noise(
    shape: Sequence[int], spacing_mm: Sequence[float], cutoff_per_mm: float, rng: np.random.Generator
) -> Array:
    """Unit-variance noise with the power spectrum of filtered backprojection.

    In the axial plane the ramp filter and a Gaussian apodisation give NPS(f) ∝ f · exp(−(f/f0)²), a band with its
    peak at f0/√2 (Riederer, Pelc & Chesler 1978, Physics in Medicine and Biology 23:446); a small floor stands for
    aliasing. Along z a Gaussian slice profile leaves low frequencies only.

    Args:
        shape: (D, H, W).
        spacing_mm: Voxel spacing (z, y, x), mm.
        cutoff_per_mm: f0, cycles per mm; about 0.3 is a soft kernel, 0.6 a sharp one.
        rng: Random generator.
    Returns: float32 (D, H, W), mean about 0, standard deviation 1.
    """
    fz, fy, fx = np.ix_(
        np.fft.fftfreq(shape[0], spacing_mm[0]),
        np.fft.fftfreq(shape[1], spacing_mm[1]),
        np.fft.rfftfreq(shape[2], spacing_mm[2]),
    )
    plane = np.hypot(fy, fx) / cutoff_per_mm
    amplitude = np.sqrt((plane + 0.03) * np.exp(-(plane**2))) * np.exp(-0.5 * (fz / 0.45) ** 2)
    spectrum = np.fft.rfftn(rng.standard_normal(tuple(shape), dtype=np.float32)) * amplitude
    noise = np.fft.irfftn(spectrum, s=tuple(shape), axes=(0, 1, 2))
    return (noise / noise.std()).astype(np.float32)


def noise_level(grid: Grid) -> Array:
    """Relative standard deviation of the noise: 1 amid the body, less towards and outside the skin, where rays pass
    less tissue; more at the shoulders."""
    z, y, x = grid
    middle = np.exp(-((x / 150) ** 2 + (y / 120) ** 2))
    return ((0.45 + 0.55 * middle) * (1 + 0.5 / (1 + np.exp(-(z - 95) / 10)))).astype(np.float32)
