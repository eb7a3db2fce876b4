"""Whether an image is in Hounsfield units at all."""

import warnings

import numpy as np

AIR_SEEN_HU = -500.0  # a chest CT with less than 1 % of its voxels below this shows neither lung nor air
NO_AIR_HU = -200.0  # no voxel below this, with
STORED_SPAN = 1500.0  # more than this between the darkest and the brightest: stored values, air at 0 and water at 1024
SAMPLED = 1_000_000  # voxels that the percentile is taken of


def check_hu(ct_hu: np.ndarray, name: str, crop: bool = False) -> None:
    """Refuse an image that cannot be CT in Hounsfield units, and warn of a scan without air.

    Refused are images of one value (a rescale slope of 0, an empty export), values within [-1, 1] (normalised for a
    network), within 0 ... 255 (an 8-bit picture), and stored values that were never rescaled. A scan that shows no
    air may have been cut to soft tissue, so it is warned about.

    Args:
        ct_hu: (D, H, W) or any other shape, finite.
        name: How the message names it: a file, or an argument.
        crop: Whether it is a part of a scan, which may be all tissue or all lung; then it is not asked for air, and
            one value is one value.
    Raises: ValueError: With the range found and the remedy.
    """
    low, high = float(ct_hu.min()), float(ct_hu.max())
    found = f"{name}: values from {low:g} to {high:g}"
    remedy = "expected a chest CT in Hounsfield units, about -1000 in air and 0 in water"
    if low == high:
        if crop:
            return
        raise ValueError(f"{name}: every voxel is {low:g}, {remedy}; is its rescale slope 0, or the export empty?")
    if low >= -1 and high <= 1:
        raise ValueError(f"{found}, {remedy}; it looks normalised: undo that, or read the original")
    if low >= 0 and high <= 255:
        raise ValueError(f"{found}, {remedy}; it looks like an 8-bit picture: read the original")
    if crop:
        return
    if low >= NO_AIR_HU and high - low > STORED_SPAN:
        raise ValueError(f"{found}, {remedy}; it looks like stored values: apply the rescale slope and intercept")
    voxels = ct_hu.reshape(-1)[:: max(ct_hu.size // SAMPLED, 1)]
    darkest = float(np.percentile(voxels, 1))
    if darkest > AIR_SEEN_HU:
        warnings.warn(f"{found}, 99 % of them above {darkest:g}: neither lung nor air; is it a chest CT?", stacklevel=2)
