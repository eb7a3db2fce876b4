"""The character of a nodule: what readers rate and what can be measured in every one of them."""

import numpy as np

RATED_RANGE = (1.0, 5.0)
MEASURED = ("mean_hu", "p10_hu", "p50_hu", "p90_hu")


def measured_attributes(ct_hu: np.ndarray, lesion_mask: np.ndarray) -> dict[str, float]:
    """Mean and 10th, 50th and 90th percentile of HU in a lesion's mask.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: Same shape, non-zero inside.
    Raises: ValueError: If the mask is empty.
    """
    inside = np.asarray(ct_hu)[np.asarray(lesion_mask) != 0].astype(np.float64)
    if inside.size == 0:
        raise ValueError("lesion_mask is empty; the lesion has no HU")
    return dict(zip(MEASURED, [inside.mean(), *np.percentile(inside, (10, 50, 90))], strict=True))
