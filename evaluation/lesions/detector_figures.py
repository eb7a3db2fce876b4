"""Interpretable figures of one lesion that a reader's eye compares: its rim, its detail, its evenness, its HU.

They are what the detector (`evaluation.lesions.detector`) sees. None of them describes the shape of the mask.
"""

from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, laplace

from evaluation.lesions.hu_and_seam import core_deviation
from evaluation.lesions.lesion_sets import Lesion
from imaging.boxes import mask_box

REACH_MM = 6.0  # of the box around the lesion that is looked at
PROFILE_MM = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # shells of 1 mm, negative inside
DETAIL_MM = (0.6, 1.0, 2.0)  # Gaussians whose residual is detail
PERCENTILES = (5, 25, 50, 75, 95)

FIGURES = (
    *(f"p{share}_hu" for share in PERCENTILES),
    "deviation_hu",
    *(f"step_at_{mm:+g}_mm" for mm in PROFILE_MM[1:-1]),
    "rim_gradient_mean",
    "rim_gradient_p95",
    "rim_gradient_min",
    *(f"{place}_detail_{mm:g}_mm" for place in ("inside", "rim") for mm in DETAIL_MM),
    *(f"relative_detail_{mm:g}_mm" for mm in DETAIL_MM),
    "inside_laplacian",
    "rim_laplacian",
    "anisotropy_inside",
    "anisotropy_rim",
    "core_deviation",
    "overshoot",
    "share_at_lung",
)


def detector_figures(lesion: Lesion) -> np.ndarray:
    """The figures `FIGURES` of one lesion.

    - p*_hu, deviation_hu: percentiles and standard deviation of HU in the mask.
    - step_at_a_mm: step of the mean HU at signed distance a from the border, between the 1 mm shells beside it.
    - rim_gradient_*: mean, 95th percentile and 10th percentile ("min") of |∇HU| per mm within 1 mm of the border.
    - *_detail_s_mm: standard deviation of HU minus its Gaussian of s mm, in the mask, in the rim (up to 2 mm outside),
      and in the mask relative to the surroundings (3 to 6 mm outside).
    - *_laplacian: mean |∇²HU| in the mask and in the rim.
    - anisotropy_*: log ratio of the mean absolute difference of neighbours along z and in the plane.
    - core_deviation: as `evaluation.lesions.hu_and_seam.core_deviation`; NaN where the lesion has no solid core.
    - overshoot: 95th percentile of HU within 2 mm inside the border minus the median deeper than 3 mm.
    - share_at_lung: share of the mask below the midpoint of the mask's median and the surroundings' median.

    Args:
        lesion: Any spacing; what is not valid does not count.
    Returns: (F,) float64; NaN where a figure is not defined.
    """
    lesion = _box_around(lesion)
    ct, inside, valid = lesion.ct_hu.astype(np.float64), lesion.lesion_mask, lesion.valid_mask
    spacing = np.asarray(lesion.spacing_mm, float)
    outer = distance_transform_edt(~inside, sampling=spacing)
    depth = distance_transform_edt(inside, sampling=spacing)
    signed = np.where(inside, 0.5 - depth, outer - 0.5)  # 0 at the border between two voxels of 1 mm
    around = (outer > 3) & (outer <= REACH_MM) & valid
    rim = (outer > 0) & (outer <= 2) & valid
    border = (np.abs(signed) <= 1) & valid

    values = ct[inside]
    figures = [*np.percentile(values, PERCENTILES), values.std()]
    shells = [_mean(ct, (signed >= low) & (signed < high) & valid) for low, high in pairwise(PROFILE_MM)]
    figures += list(np.diff(shells))
    gradient = np.sqrt(sum(g**2 for g in np.gradient(ct, *spacing)))
    slopes = gradient[border]
    figures += [slopes.mean(), np.percentile(slopes, 95), np.percentile(slopes, 10)] if slopes.size else 3 * [np.nan]
    details = {mm: ct - gaussian_filter(ct, mm / spacing, mode="nearest") for mm in DETAIL_MM}
    for region in (inside, rim):
        figures += [_deviation(details[mm], region) for mm in DETAIL_MM]
    figures += [_deviation(details[mm], inside) / max(_deviation(details[mm], around), 1.0) for mm in DETAIL_MM]
    curvature = np.abs(laplace(ct, mode="nearest"))
    figures += [_mean(curvature, inside), _mean(curvature, rim)]
    figures += [_anisotropy(ct, inside), _anisotropy(ct, rim)]
    even = core_deviation(lesion.ct_hu, inside, lesion.spacing_mm)
    figures.append(np.nan if even is None else even)
    deep, shallow = inside & (depth > 3), inside & (depth <= 2)
    figures.append(np.percentile(ct[shallow], 95) - np.median(ct[deep]) if deep.any() and shallow.any() else np.nan)
    lung = np.median(ct[around]) if around.any() else np.nan
    figures.append(float((values < (np.median(values) + lung) / 2).mean()) if around.any() else np.nan)
    return np.asarray(figures, float)


def _box_around(lesion: Lesion) -> Lesion:
    """The lesion cut to its mask's box and `REACH_MM` around it; what is not valid repeats the nearest voxel."""
    box = mask_box(lesion.lesion_mask, [int(np.ceil(REACH_MM / mm)) + 1 for mm in lesion.spacing_mm])
    ct_hu, lesion_mask, valid_mask = (array[box] for array in (lesion.ct_hu, lesion.lesion_mask, lesion.valid_mask))
    if not valid_mask.all():
        nearest = distance_transform_edt(~valid_mask, return_distances=False, return_indices=True)
        ct_hu = ct_hu[tuple(nearest)]
    return Lesion(lesion.name, lesion.patient_id, ct_hu, lesion_mask, valid_mask, lesion.spacing_mm)


def _mean(values: np.ndarray, region: np.ndarray) -> float:
    return float(values[region].mean()) if region.any() else float("nan")


def _deviation(values: np.ndarray, region: np.ndarray) -> float:
    return float(values[region].std()) if region.any() else float("nan")


def _anisotropy(ct: np.ndarray, region: np.ndarray) -> float:
    """log of mean |difference of neighbours| along z over that in the plane, both voxels in the region."""
    steps = []
    for axis in range(3):
        first, second = (np.moveaxis(region, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        both = first & second
        difference = np.abs(np.diff(np.moveaxis(ct, axis, 0), axis=0))
        steps.append(_mean(difference, both))
    plane = np.nanmean(steps[1:]) if not np.isnan(steps[1:]).all() else np.nan
    return float(np.log(max(steps[0], 1e-3) / max(plane, 1e-3))) if not np.isnan(steps[0]) else float("nan")
