"""Nodule-like solids on a voxel grid: a star-shaped body with lobes and spicules.

The surface is r(u) = scale · f(u) for unit directions u, where

    f(u) = exp(uᵀSu) · (1 + maxᵢ aᵢ exp(κ(u·cᵢ − 1))) · (1 + maxⱼ hⱼ (1 − ∠(u, eⱼ)/wⱼ)₊)

S is a small random symmetric traceless matrix (the spherical harmonics of degree 2: elongation), the second factor
is lobulation (rounded bumps with notches between them), the third is spiculation (cones that taper to a point).
A voxel at offset p from the centre is inside when |p| / f(p/|p|) ≤ scale, so one evaluation serves every scale.

Arrays are (D, H, W) = z, y, x and spacing is (z, y, x) in mm. Only numpy and scipy are needed; SimpleITK is imported
where an image is handled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    import SimpleITK

MAX_DIAMETER_MM = 60.0
_POLAR, _AZIMUTH = 91, 181  # surface table: a sample every two degrees, the first and the last azimuth coincide


def nodule_mask(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    center_zyx: Sequence[float],
    diameter_mm: float,
    lobulation: float = 1.0,
    spiculation: float = 1.0,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Draw a binary nodule whose equal-volume sphere has the asked diameter.

    The scale is found by bisection on the voxel volume of the face-connected part that holds the centre, before
    clipping to the array; what lies outside the array is cut away.

    Args:
        shape: Array shape (D, H, W).
        spacing_mm: Voxel spacing (z, y, x), mm.
        center_zyx: Centre as a voxel index, may be fractional.
        diameter_mm: Diameter of the sphere of equal volume, mm.
        lobulation: 1 (none) to 5 (marked), the LIDC scale.
        spiculation: 1 (none) to 5 (marked), the LIDC scale.
        seed: Seed of the random shape; the same seed gives the same nodule at any size and spacing.
    Returns: uint8 (D, H, W), 1 inside; face-connected; the voxel nearest to the centre is inside.
    Raises: ValueError: If the centre lies outside the array, the diameter is under two voxels (of the cube root of
        the voxel volume) or over 60 mm, a rating is outside 1..5, or a length is not positive.
    """
    spacing = check_spacing(spacing_mm)
    center = check_center(shape, center_zyx)
    voxel_mm = check_diameter(diameter_mm, spacing)
    surface = nodule_surface(lobulation, spiculation, seed)
    scale = _scale_for_diameter(surface, diameter_mm)
    low, high = 0.5 * scale, 1.6 * scale + voxel_mm
    offset, count = box_around(center, spacing, high * float(surface.max()))
    level = _level(surface, axes_mm(offset, count, center, spacing))
    seed_voxel = tuple(np.rint(center).astype(int) - offset)
    target = np.pi / 6 * diameter_mm**3 / float(np.prod(spacing))  # voxels
    for _ in range(30):
        middle = 0.5 * (low + high)
        if _part_with(level <= middle, seed_voxel).sum() < target:
            low = middle
        else:
            high = middle
    candidates = [_part_with(level <= s, seed_voxel) for s in (low, high)]
    solid = min(candidates, key=lambda part: abs(float(part.sum()) - target))
    first, last = np.maximum(-offset, 0), np.minimum(np.asarray(shape) - offset, solid.shape)
    clipped = solid[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]  # a corner may come off
    part = _part_with(clipped, tuple(np.rint(center).astype(int) - offset - first))
    return paste_box(part.astype(np.uint8), offset + first, shape)


def nodule_occupancy(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    center_zyx: Sequence[float],
    diameter_mm: float,
    lobulation: float = 1.0,
    spiculation: float = 1.0,
    seed: int = 0,
    softness_mm: float = 0.0,
    supersampling: int = 3,
) -> NDArray[np.float32]:
    """Fraction of every voxel that lies inside the nodule, with an optionally blurred (ill-defined) margin.

    The volume of the continuous solid is normalised in closed form, V = scale³/3 ∮ f(u)³ du, so the array sums to
    the volume of the asked sphere up to the sampling error. The centre may lie outside the array.

    Args:
        shape, spacing_mm, center_zyx, diameter_mm, lobulation, spiculation, seed: As for `nodule_mask`; the
            diameter may be below two voxels.
        softness_mm: Standard deviation of the Gaussian that blurs the margin, mm; 0 is sharp.
        supersampling: Samples per voxel and axis.
    Returns: float32 (D, H, W) in [0, 1].
    Raises: ValueError: If a rating is outside 1..5 or a length is not positive (softness: negative).
    """
    spacing = check_spacing(spacing_mm)
    if not 0 < diameter_mm <= MAX_DIAMETER_MM:
        raise ValueError(f"diameter_mm is {diameter_mm}, expected 0 (excluded) to {MAX_DIAMETER_MM} mm")
    if softness_mm < 0 or supersampling < 1:
        raise ValueError(f"softness_mm {softness_mm} must be >= 0 and supersampling {supersampling} at least 1")
    center = np.asarray(center_zyx, dtype=float)
    surface = nodule_surface(lobulation, spiculation, seed)
    scale = _scale_for_diameter(surface, diameter_mm)
    offset, count = box_around(center, spacing, scale * float(surface.max()) + 3.5 * softness_mm)
    start, stop = offset - 1, offset + count + 1
    if np.any(stop <= 0) or np.any(start >= np.asarray(shape)):
        return np.zeros(tuple(shape), dtype=np.float32)
    k = supersampling
    fine_start = offset - 0.5 + 0.5 / k  # index of the first subvoxel centre
    axes = [(fine_start[i] + np.arange(count[i] * k) / k - center[i]) * spacing[i] for i in range(3)]
    inside = (_level(surface, axes) <= scale).astype(np.float32)
    fraction = inside.reshape(count[0], k, count[1], k, count[2], k).mean(axis=(1, 3, 5), dtype=np.float32)
    if softness_mm > 0:
        fraction = ndimage.gaussian_filter(fraction, softness_mm / spacing, mode="constant")
    return paste_box(np.clip(fraction, 0, 1), offset, shape)


def lesion_mask_image(
    image: SimpleITK.Image,
    center_index_zyx: Sequence[float],
    diameter_mm: float,
    seed: int = 0,
    lobulation: float = 1.0,
    spiculation: float = 1.0,
) -> SimpleITK.Image:
    """Nodule-like mask on the grid of a CT image, for inpainting from a point and a diameter.

    Args:
        image: 3D image whose size and geometry the mask takes.
        center_index_zyx: Centre as a voxel index (z, y, x) of `image`.
        diameter_mm, seed, lobulation, spiculation: As for `nodule_mask`.
    Returns: uint8 image, 1 inside, with the geometry of `image`.
    Raises: ValueError: If the image is not 3D, or as for `nodule_mask`.
    Examples:
        >>> import SimpleITK as sitk
        >>> ct = sitk.Image(64, 64, 40, sitk.sitkInt16)  # x, y, z
        >>> ct.SetSpacing((0.7, 0.7, 1.25))
        >>> mask = lesion_mask_image(ct, (20, 32, 32), diameter_mm=10)
        >>> volume_mm3 = sitk.GetArrayFromImage(mask).sum() * 0.7 * 0.7 * 1.25
        >>> round(float((6 * volume_mm3 / np.pi) ** (1 / 3)), 1)  # the sphere of equal volume
        10.0
    """
    import SimpleITK

    if image.GetDimension() != 3:
        raise ValueError(f"image has {image.GetDimension()} dimensions, expected 3; pass one CT volume")
    shape, spacing_mm = image.GetSize()[::-1], image.GetSpacing()[::-1]
    mask = nodule_mask(shape, spacing_mm, center_index_zyx, diameter_mm, lobulation, spiculation, seed)
    result = SimpleITK.GetImageFromArray(mask)
    result.CopyInformation(image)
    return result


def nodule_surface(lobulation: float, spiculation: float, seed: int) -> NDArray[np.float64]:
    """Table of f(u), see the module docstring.

    Args:
        lobulation: 1 (none) to 5 (marked). Scales the bumps' height and number.
        spiculation: 1 (none) to 5 (marked). Scales the cones' length and number.
        seed: Seed of the random shape.
    Returns: float64 (91, 181): polar angle from +z, azimuth from -x; no unit, about 1.
    Raises: ValueError: If a rating is outside 1..5.
    """
    for name, value in (("lobulation", lobulation), ("spiculation", spiculation)):
        if not 1 <= value <= 5:
            raise ValueError(f"{name} is {value}, expected a LIDC rating between 1 (none) and 5 (marked)")
    elongation_rng, lobe_rng, spike_rng = np.random.default_rng(seed).spawn(3)
    polar = np.linspace(0, np.pi, _POLAR)[:, None]
    azimuth = np.linspace(-np.pi, np.pi, _AZIMUTH)[None, :]
    u = np.stack(np.broadcast_arrays(np.cos(polar), np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth)))

    tensor = elongation_rng.normal(0, 0.06, (3, 3))
    tensor = tensor + tensor.T - 2 * np.eye(3) * np.trace(tensor) / 3
    factor = np.exp(np.einsum("i...,ij,j...->...", u, tensor, u))

    strength = (lobulation - 1) / 4
    height = strength * lobe_rng.uniform(0.3, 0.8, 14)
    cosine = np.einsum("ni,i...->n...", _directions(14, lobe_rng), u)
    lobes = height[:, None, None] * np.exp(lobe_rng.uniform(9, 18, (14, 1, 1)) * (cosine - 1))
    factor = factor * (1 + lobes[: round(6 + 8 * strength)].max(axis=0))

    strength = (spiculation - 1) / 4
    length = strength * spike_rng.uniform(0.4, 1.3, 36)
    width = spike_rng.uniform(0.12, 0.22, (36, 1, 1))  # rad
    angle = np.arccos(np.clip(np.einsum("ni,i...->n...", _directions(36, spike_rng), u), -1, 1))
    spikes = length[:, None, None] * np.clip(1 - angle / width, 0, None)
    return factor * (1 + spikes[: round(8 + 28 * strength)].max(axis=0))


def _directions(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random unit vectors (n, 3)."""
    vectors = rng.normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _scale_for_diameter(surface: NDArray[np.float64], diameter_mm: float) -> float:
    """Scale (mm) at which the continuous solid has the volume of the sphere: V = scale³/3 ∮ f³ du."""
    polar = np.linspace(0, np.pi, _POLAR)
    integral = (surface[:, :-1] ** 3).mean(axis=1) @ np.sin(polar) * (np.pi / (_POLAR - 1)) * 2 * np.pi
    return float((np.pi / 6 * diameter_mm**3 * 3 / integral) ** (1 / 3))


def _level(surface: NDArray[np.float64], axes_mm: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    """|p| / f(p/|p|) in mm on the grid spanned by the three offset axes."""
    z, y, x = (a.astype(np.float32) for a in np.ix_(*axes_mm))
    radius = np.sqrt(z * z + y * y + x * x)
    row = np.arccos(np.clip(z / np.maximum(radius, 1e-6), -1, 1)) * ((_POLAR - 1) / np.pi)
    column = np.broadcast_to((np.arctan2(y, x) + np.float32(np.pi)) * ((_AZIMUTH - 1) / (2 * np.pi)), radius.shape)
    table = surface.astype(np.float32)
    return radius / ndimage.map_coordinates(table, np.stack([row, column]), order=1, mode="nearest")


def box_around(
    center: NDArray[np.float64], spacing: NDArray[np.float64], reach_mm: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First voxel index and number of voxels of the box that holds every point within reach."""
    first = np.floor(center - reach_mm / spacing).astype(np.int64) - 1
    last = np.ceil(center + reach_mm / spacing).astype(np.int64) + 1
    return first, last - first + 1


def axes_mm(
    offset: NDArray[np.int64], count: NDArray[np.int64], center: NDArray[np.float64], spacing: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Offsets of a box's voxels from the centre along each axis, mm."""
    return [(offset[i] + np.arange(count[i]) - center[i]) * spacing[i] for i in range(3)]


def _part_with(inside: NDArray[np.bool_], voxel: tuple[int, ...]) -> NDArray[np.bool_]:
    """Face-connected part of `inside` that holds the voxel (the voxel alone if it is not inside)."""
    labels, _ = ndimage.label(inside)
    part = labels == labels[voxel] if inside[voxel] else np.zeros_like(inside)
    part[voxel] = True
    return part


def paste_box(local: NDArray, offset: NDArray[np.int64], shape: Sequence[int]) -> NDArray:
    """Put the local box into a zero array, cutting what lies outside."""
    full = np.zeros(tuple(shape), dtype=local.dtype)
    start, stop = np.maximum(offset, 0), np.minimum(offset + local.shape, shape)
    if np.all(stop > start):
        target = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        full[target] = local[tuple(slice(a, b) for a, b in zip(start - offset, stop - offset, strict=True))]
    return full


def check_diameter(diameter_mm: float, spacing: NDArray[np.float64]) -> float:
    """Cube root of a voxel's volume, mm. Raises ValueError unless a diameter is two of these or more, up to 60 mm."""
    voxel_mm = float(np.prod(spacing) ** (1 / 3))
    if not 2 * voxel_mm <= diameter_mm <= MAX_DIAMETER_MM:
        raise ValueError(
            f"diameter_mm is {diameter_mm}, expected {2 * voxel_mm:.2f} (two voxels of {voxel_mm:.2f} mm) to "
            f"{MAX_DIAMETER_MM} mm; choose another diameter or resample to a finer grid"
        )
    return voxel_mm


def check_spacing(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """The spacing as an array. Raises ValueError unless it is three positive lengths."""
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (3,) or not np.all(spacing > 0):
        raise ValueError(f"spacing_mm is {tuple(spacing_mm)}, expected three positive lengths (z, y, x) in mm")
    return spacing


def check_center(shape: Sequence[int], center_zyx: Sequence[float]) -> NDArray[np.float64]:
    """The centre as an array. Raises ValueError unless it is a voxel index within the array."""
    center = np.asarray(center_zyx, dtype=float)
    if len(shape) != 3 or center.shape != (3,):
        raise ValueError(f"shape {tuple(shape)} and center_zyx {tuple(center_zyx)} must have three entries (z, y, x)")
    if np.any(center < 0) or np.any(center > np.asarray(shape) - 1):
        raise ValueError(
            f"center_zyx is {tuple(center.tolist())}, outside the image, whose voxel indices (z, y, x) run from "
            f"(0, 0, 0) to {tuple(int(n) - 1 for n in shape)}; check the axis order and the unit (voxels, not mm)"
        )
    return center
