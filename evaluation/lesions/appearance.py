"""What a lesion looks like, as some forty figures of its image: HU, shells at the border, sharpness, texture, shape.

The figures are measured, not learned, on noise-free images of 1 mm. They are the input of the judge. All of them are
figures of the image, so two lesions in one mask differ only by their appearance.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_gradient_magnitude, uniform_filter

from evaluation.lesions.lesion_sets import Lesion, lesion_cube

SHELLS_MM = ((-99, -3), (-3, -2), (-2, -1), (-1, 0), (0, 1), (1, 2), (2, 3), (3, 5))  # from the border, outside > 0
SURROUNDINGS_MM = (2, 6)
PERCENTILES = (5, 25, 50, 75, 95)
BRIGHT, DARK = 0.75, -0.6  # ct_norm: 160 HU, calcium rather than soft tissue, and -850 HU, air
MIN_SHELL = 4  # voxels; a smaller shell takes the figures of the next inner one
EPS = 1e-2  # ct_norm, 7.5 HU: below it a deviation is noise


def appearance_features(lesion: Lesion) -> dict[str, float]:
    """The figures of one lesion by name, without unit; intensities and deviations in ct_norm, sizes as logarithms.

    - `p5` ... `p95`, `mean`, `deviation`, `skewness`, `kurtosis`, `bright`, `dark`: of the voxels in the mask.
    - `shell0` ... and `shell0_deviation` ...: mean and deviation at the distances `SHELLS_MM` from the mask's border.
    - `gradient_border`, `gradient_inside`, `gradient_p95`: of the image smoothed by 0.7 mm.
    - `detail_fine`, `detail_coarse`: log deviation of what averages over 3 and over 5 mm take away.
    - `rough_outside`, `rough_inside`: log deviation of details below 2 mm, within 3 mm outside the mask and 2 inside.
    - `filled`, `beyond`, `contrast`, `compactness`: of the tissue, which is what lies above the mean of the bright part
      and the surroundings: its share of the mask, log of what lies within 3 mm outside, the difference of the two
      levels, log of surface over volume^(2/3).

    Args:
        lesion: Any spacing; the nearest 32 mm around its centre are looked at.
    """
    ct_norm, mask = lesion_cube(lesion)
    distance_mm = np.where(mask, -distance_transform_edt(mask), distance_transform_edt(~mask))
    inside = ct_norm[mask]
    return {
        **_intensity(inside),
        **_shells(ct_norm, mask, distance_mm),
        **_sharpness(ct_norm, mask, distance_mm),
        **_tissue(ct_norm, mask, distance_mm, inside),
    }


def appearance_matrix(lesions: list[Lesion]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N, F) figures of several lesions, and the F names.

    Args:
        lesions: At least one.
    """
    rows = [appearance_features(lesion) for lesion in lesions]
    return np.array([list(row.values()) for row in rows]), tuple(rows[0])


def volume_mm3(lesion: Lesion) -> float:
    """Of the mask."""
    return float(lesion.lesion_mask.sum() * np.prod(lesion.spacing_mm))


def _intensity(inside: np.ndarray) -> dict[str, float]:
    centred, deviation = inside - inside.mean(), inside.std() + EPS
    found = {f"p{p}": float(value) for p, value in zip(PERCENTILES, np.percentile(inside, PERCENTILES), strict=True)}
    return found | {
        "mean": float(inside.mean()),
        "deviation": float(inside.std()),
        "skewness": float((centred**3).mean() / deviation**3),
        "kurtosis": float(np.log((centred**4).mean() / deviation**4 + 0.1)),
        "bright": float((inside > BRIGHT).mean()),
        "dark": float((inside < DARK).mean()),
    }


def _shells(ct_norm: np.ndarray, mask: np.ndarray, distance_mm: np.ndarray) -> dict[str, float]:
    found, values = {}, ct_norm[mask]
    for number, (low, high) in enumerate(SHELLS_MM):
        shell = ct_norm[(distance_mm > low) & (distance_mm <= high)]
        values = shell if shell.size >= MIN_SHELL else values
        found[f"shell{number}"], found[f"shell{number}_deviation"] = float(values.mean()), float(values.std())
    return found


def _sharpness(ct_norm: np.ndarray, mask: np.ndarray, distance_mm: np.ndarray) -> dict[str, float]:
    gradient = gaussian_gradient_magnitude(ct_norm, 0.7)
    smooth = uniform_filter(ct_norm, 3)
    smoother = uniform_filter(smooth, 3)
    detail = ct_norm - gaussian_filter(ct_norm, 2.0)

    def log_deviation(values: np.ndarray) -> float:
        return float(np.log((values.std() if values.size else 0.0) + EPS))

    return {
        "gradient_border": float(gradient[np.abs(distance_mm) <= 1].mean()),
        "gradient_inside": float(gradient[mask].mean()),
        "gradient_p95": float(np.percentile(gradient[mask], 95)),
        "detail_fine": log_deviation((ct_norm - smooth)[mask]),
        "detail_coarse": log_deviation((smooth - smoother)[mask]),
        "rough_outside": log_deviation(detail[(distance_mm > 1) & (distance_mm <= 3)]),
        "rough_inside": log_deviation(detail[(distance_mm > -2) & (distance_mm <= 0)]),
    }


def _tissue(ct_norm: np.ndarray, mask: np.ndarray, distance_mm: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    around = ct_norm[(distance_mm >= SURROUNDINGS_MM[0]) & (distance_mm <= SURROUNDINGS_MM[1])]
    high = float(np.percentile(inside, 90))
    low = float(np.percentile(around, 10)) if around.size else -1.0
    tissue = ct_norm > (low + high) / 2
    near = tissue & (distance_mm <= 1.5)
    padded = np.pad(near, 1).astype(np.int8)
    faces = sum(int(np.abs(np.diff(padded, axis=axis)).sum()) for axis in range(3))
    beyond = (tissue & (distance_mm > 0) & (distance_mm <= 3)).sum()
    return {
        "filled": float(tissue[mask].mean()),
        "beyond": float(np.log1p(beyond / mask.sum())),
        "contrast": high - low,
        "compactness": float(np.log((faces + 1) / (near.sum() + 1) ** (2 / 3))),
    }
