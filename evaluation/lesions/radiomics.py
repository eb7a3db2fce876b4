"""GLCM-24 and GLRLM-16 features of a lesion's foreground, by pyradiomics.

pyradiomics is optional at run time (it does not build on Python 3.12); ask `radiomics_available` first.
"""

import importlib.util
import warnings

import numpy as np

from evaluation.lesions.texture import MIN_VOXELS
from imaging.boxes import mask_box
from imaging.window import WINDOW_LEVEL, WINDOW_WIDTH

GLCM_COUNT, GLRLM_COUNT = 24, 16
BIN_WIDTH_HU = 25.0  # pyradiomics' default for CT: 60 grey levels over the lung window
MISSING = (
    "pyradiomics is not installed, so GLCM and GLRLM are left out; "
    "install it into Python 3.11 (pip install numpy versioneer 'setuptools<81', then pip install --no-build-isolation "
    "pyradiomics==3.0.1; uv run does so by itself)"
)


def radiomics_available() -> bool:
    """Whether pyradiomics can be imported, without importing it."""
    return importlib.util.find_spec("radiomics") is not None


def radiomics_features(
    ct_hu: np.ndarray,
    lesion_mask: np.ndarray,
    spacing_mm: tuple[float, float, float],
    bin_width_hu: float = BIN_WIDTH_HU,
) -> tuple[dict[str, float], dict[str, float]]:
    """All GLCM and GLRLM features, as pyradiomics gives them with `binWidth` set and all other settings at default.

    HU are first clipped to the lung window (-1150 ... 350 HU), outside of which models of this project produce nothing.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: (D, H, W), non-zero inside the lesion.
        spacing_mm: (z, y, x).
        bin_width_hu: Width of a grey level, HU.
    Returns: 24 GLCM and 16 GLRLM features, by pyradiomics' names.
    Raises: ValueError: If pyradiomics is missing, shapes differ, the mask has fewer than 8 voxels, or a feature of this
        lesion is not finite (named).
    """
    if not radiomics_available():
        raise ValueError(MISSING)
    mask = np.asarray(lesion_mask) != 0
    if mask.shape != ct_hu.shape:
        raise ValueError(f"ct_hu has shape {ct_hu.shape} and lesion_mask {mask.shape}, expected the same")
    if mask.sum() < MIN_VOXELS:
        raise ValueError(f"lesion_mask has {mask.sum()} voxels, expected at least {MIN_VOXELS}; leave the lesion out")
    import radiomics
    import SimpleITK as sitk
    from radiomics.glcm import RadiomicsGLCM
    from radiomics.glrlm import RadiomicsGLRLM

    radiomics.setVerbosity(60)
    lowest, highest = WINDOW_LEVEL - WINDOW_WIDTH / 2, WINDOW_LEVEL + WINDOW_WIDTH / 2
    box = mask_box(mask, margin=1)
    image = sitk.GetImageFromArray(np.clip(ct_hu[box], lowest, highest).astype(np.float64))
    mask_image = sitk.GetImageFromArray(mask[box].astype(np.uint8))
    for volume in (image, mask_image):
        volume.SetSpacing(tuple(float(s) for s in reversed(spacing_mm)))
    results = []
    for feature_class in (RadiomicsGLCM, RadiomicsGLRLM):
        calculator = feature_class(image, mask_image, binWidth=bin_width_hu)
        calculator.enableAllFeatures()
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # a non-finite value is reported below, by name
            results.append({name: float(value) for name, value in calculator.execute().items()})
    broken = [name for result in results for name, value in result.items() if not np.isfinite(value)]
    if broken:
        raise ValueError(f"{', '.join(broken)} not finite; leave the lesion out")
    return results[0], results[1]
