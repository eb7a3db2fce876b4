"""Figures of a lesion's shape from its mask alone: what a detector of drawn shapes and a rating of shape can see.

All of them are taken on the mask itself or on the surface at the level 0.5 of the slightly blurred mask, whose
triangles then do not follow the edges of voxels.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage.measure import euler_number, marching_cubes, mesh_surface_area

from imaging.boxes import mask_box

SURFACE_MM, BODY_MM = 0.6, 2.0  # blur of the surface that is measured, and of the body that its roughness departs from
OPENING_MM = (1.0, 2.0)  # what is thinner is lost when it is opened by such a ball

NAMED = ("diameter_mm", "sphericity", "elongation", "roughness_mm")  # those that are reported by themselves
SHAPE_FIGURES = (
    *NAMED,
    "flatness",
    "main_axis_z",
    "extent_z_over_xy",
    "solidity",
    "radius_deviation",
    "radius_skew",
    "farthest_over_mean",
    "inscribed_over_diameter",
    "roughness_skew",
    "curvature_deviation",
    "curvature_p5",
    "curvature_p95",
    *(f"lost_by_opening_{mm:g}_mm" for mm in OPENING_MM),
    "gained_by_closing",
    "faces_z_share",
    "equal_slices_z",
    "equal_slices_xy",
    "step_deviation_z",
    "step_deviation_xy",
    "thin_voxels",
    "neighbours_mean",
    "neighbours_deviation",
    "euler_number",
)


def shape_figures(mask: np.ndarray, spacing_mm: float = 1.0) -> np.ndarray:
    """`SHAPE_FIGURES` of one mask.

    Sphericity is π^(1/3) (6 V)^(2/3) / A, elongation and flatness are √(λ₂/λ₁) and √(λ₃/λ₁) of the covariance of its
    voxels, solidity is the volume's share of the convex hull (all as in pyradiomics, the mesh apart). Roughness is the
    standard deviation of the surface's distance to the surface of a strongly blurred body of the same volume.

    Args:
        mask: (D, H, W), isotropic, non-zero inside, not empty.
        spacing_mm: Edge of a voxel.
    Returns: float64 (F,); NaN where a figure is not defined, in a mask of few voxels.
    Raises: ValueError: If the mask is empty.
    """
    if not (mask > 0).any():
        raise ValueError("mask is empty, expected a lesion; leave it out")
    inside = np.pad((mask > 0)[mask_box(mask > 0)], int(np.ceil(2 * BODY_MM / spacing_mm)))
    count, voxels = int(inside.sum()), np.argwhere(inside) * spacing_mm
    diameter_mm = float((6 / np.pi * count) ** (1 / 3)) * spacing_mm
    found = dict.fromkeys(SHAPE_FIGURES, float("nan"))
    found["diameter_mm"] = diameter_mm
    found["euler_number"] = float(euler_number(inside, connectivity=3))
    if count >= 8:
        found |= _axes(voxels)
    found |= _steps(inside) | _neighbourhood(inside) | _openings(inside, spacing_mm)
    found["inscribed_over_diameter"] /= diameter_mm
    found |= _surface(inside, voxels.mean(axis=0), diameter_mm, spacing_mm)
    return np.array([found[name] for name in SHAPE_FIGURES])


def shape_matrix(masks: Sequence[np.ndarray], spacing_mm: float = 1.0) -> np.ndarray:
    """:func:`shape_figures` of each mask, (N, F)."""
    return np.stack([shape_figures(mask, spacing_mm) for mask in masks])


def _axes(voxels: np.ndarray) -> dict[str, float]:
    """Lengths and direction of the principal axes, and the box."""
    values, vectors = np.linalg.eigh(np.cov(voxels.T))
    values = np.maximum(values, 1e-6)
    extent = np.ptp(voxels, axis=0) + 1
    return {
        "elongation": float(np.sqrt(values[1] / values[2])),
        "flatness": float(np.sqrt(values[0] / values[2])),
        "main_axis_z": float(abs(vectors[0, 2])),
        "extent_z_over_xy": float(2 * extent[0] / (extent[1] + extent[2])),
    }


def _surface(inside: np.ndarray, middle: np.ndarray, diameter_mm: float, spacing_mm: float) -> dict[str, float]:
    """What the triangles of the surface say."""
    occupancy = ndimage.gaussian_filter(inside.astype(np.float32), SURFACE_MM / spacing_mm, mode="constant")
    if occupancy.max() <= 0.5:
        return {}
    vertices, faces, _, _ = marching_cubes(occupancy, 0.5, spacing=(spacing_mm,) * 3)
    area, volume = float(mesh_surface_area(vertices, faces)), float(inside.sum()) * spacing_mm**3
    radius = np.linalg.norm(vertices - middle, axis=1)
    body = ndimage.gaussian_filter(inside.astype(np.float32), BODY_MM / spacing_mm, mode="constant")
    level = np.partition(body.ravel(), -int(inside.sum()))[-int(inside.sum())]
    smooth = body >= level
    signed = ndimage.distance_transform_edt(~smooth, sampling=spacing_mm)
    signed = signed - ndimage.distance_transform_edt(smooth, sampling=spacing_mm)
    points = vertices.T / spacing_mm
    away = ndimage.map_coordinates(signed, points, order=1)
    curvature = ndimage.map_coordinates(_curvature(occupancy, spacing_mm), points, order=1) * diameter_mm / 4
    try:
        hull = float(ConvexHull(vertices).volume)
    except QhullError:
        hull = float("nan")
    return {
        "sphericity": float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area),
        "roughness_mm": float(away.std()),
        "roughness_skew": _skew(away),
        "solidity": volume / hull,
        "radius_deviation": float(radius.std() / radius.mean()),
        "radius_skew": _skew(radius),
        "farthest_over_mean": float(radius.max() / radius.mean()),
        "curvature_deviation": float(curvature.std()),
        "curvature_p5": float(np.percentile(curvature, 5)),
        "curvature_p95": float(np.percentile(curvature, 95)),
    }


def _curvature(occupancy: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Sum of the principal curvatures of the level sets, 1/mm: minus the divergence of the unit gradient."""
    gradient = np.stack(np.gradient(ndimage.gaussian_filter(occupancy, SURFACE_MM / spacing_mm), spacing_mm))
    unit = gradient / np.maximum(np.linalg.norm(gradient, axis=0), 1e-6)
    return -sum(np.gradient(unit[axis], spacing_mm, axis=axis) for axis in range(3))


def _openings(inside: np.ndarray, spacing_mm: float) -> dict[str, float]:
    """Shares of the volume that openings take away and a closing adds."""
    outer = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    inner = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    found = {"inscribed_over_diameter": 2 * float(inner.max())}  # to be divided by the diameter
    for mm in OPENING_MM:
        core = inner > mm
        opened = inside & (ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= mm) if core.any() else core
        found[f"lost_by_opening_{mm:g}_mm"] = 1 - float(opened.sum() / inside.sum())
    mm = OPENING_MM[1]
    closed = ndimage.distance_transform_edt(outer <= mm, sampling=spacing_mm) > mm
    return found | {"gained_by_closing": float((closed & ~inside).sum() / inside.sum())}


def _steps(inside: np.ndarray) -> dict[str, float]:
    """How the mask changes from slice to slice: thick slices leave steps of several equal slices along z."""
    found, faces = {}, []
    for axis in range(3):
        slices = np.moveaxis(inside, axis, 0)
        kept = slices[slices.any(axis=(1, 2))]
        changed = (kept[1:] != kept[:-1]).sum(axis=(1, 2)) / inside.sum() ** (2 / 3)
        faces.append(float((slices[1:] != slices[:-1]).sum()))
        found[axis] = (float((changed == 0).mean()), float(changed.std())) if len(changed) else (float("nan"),) * 2
    return {
        "faces_z_share": faces[0] / sum(faces),
        "equal_slices_z": found[0][0],
        "step_deviation_z": found[0][1],
        "equal_slices_xy": (found[1][0] + found[2][0]) / 2,
        "step_deviation_xy": (found[1][1] + found[2][1]) / 2,
    }


def _neighbourhood(inside: np.ndarray) -> dict[str, float]:
    """How full the surroundings of the border's voxels are."""
    filled = ndimage.uniform_filter(inside.astype(np.float32), 3)
    border = inside & ~ndimage.binary_erosion(inside)
    around = filled[border]
    return {
        "thin_voxels": float((around < 0.4).mean()),
        "neighbours_mean": float(around.mean()),
        "neighbours_deviation": float(around.std()),
    }


def _skew(values: np.ndarray) -> float:
    off = values - values.mean()
    return float((off**3).mean() / max(float((off**2).mean()) ** 1.5, 1e-9))
