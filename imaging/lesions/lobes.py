"""The lobes of the lung, from the segmentation of another program."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.files.ct import read_label_values
from imaging.lesions.site_names import LOBES

# TotalSegmentator, task "total": lung_upper_lobe_left ... lung_lower_lobe_right. lungmask, model LTRCLobes.
TOTALSEGMENTATOR = dict(zip((10, 11, 12, 13, 14), LOBES, strict=True))
LUNGMASK = dict(zip((1, 2, 3, 4, 5), LOBES, strict=True))
SIDES = (("LUL", "LLL"), ("RUL", "RML", "RLL"))


def read_lobes(path: str | Path, ct_image: sitk.Image) -> sitk.Image:
    """Read a segmentation of TotalSegmentator or lungmask.

    Args:
        path: Label image on the grid of the CT: of TotalSegmentator (task total, one file of all labels), or of
            lungmask (model LTRCLobes or LTRCLobes_R231).
        ct_image: The CT.
    Returns: uint8 image, 1 + the place in `LOBES`, 0 elsewhere.
    Raises: ValueError: Naming the path, if it cannot be read, lies on another grid, or names no lobes.
    """
    array = read_label_values(path, ct_image)
    values = set(np.unique(array).tolist()) - {0}
    if values & set(TOTALSEGMENTATOR):
        numbers = TOTALSEGMENTATOR
    elif len(values) > 2 and values <= set(LUNGMASK):
        numbers = LUNGMASK
    else:
        shown = ", ".join(f"{value:g}" for value in sorted(values)[:5]) or "none"
        raise ValueError(
            f"{path}: labels {shown}, expected the lobes of TotalSegmentator (10 to 14) or of lungmask's model "
            "LTRCLobes (1 to 5)"
        )
    lobes = np.zeros(array.shape, np.uint8)
    for value, name in numbers.items():
        lobes[array == value] = 1 + LOBES.index(name)
    image = sitk.GetImageFromArray(lobes)
    image.CopyInformation(ct_image)
    return image


def fissure_distance_mm(lobes: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Distance of each voxel of a lobe to the next lobe of the same lung, mm; infinite elsewhere.

    Args:
        lobes: (D, H, W), as :func:`read_lobes`.
        spacing_mm: (z, y, x).
    """
    distance = np.full(lobes.shape, np.inf)
    for side in SIDES:
        numbers = [1 + LOBES.index(name) for name in side]
        for number in numbers:
            own = lobes == number
            others = np.isin(lobes, [other for other in numbers if other != number])
            if own.any() and others.any():
                distance[own] = ndimage.distance_transform_edt(~others, sampling=spacing_mm)[own]
    return distance
