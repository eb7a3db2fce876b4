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
    Examples:
        >>> ct_hu = np.full((8, 8, 8), -850.0)  # lung
        >>> lesion_mask = np.zeros((8, 8, 8), np.uint8)
        >>> lesion_mask[2:6, 2:6, 2:6] = 1
        >>> ct_hu[lesion_mask > 0] = np.linspace(-100, 60, 64)
        >>> {name: round(float(hu)) for name, hu in measured_attributes(ct_hu, lesion_mask).items()}
        {'mean_hu': -20, 'p10_hu': -84, 'p50_hu': -20, 'p90_hu': 44}
    """
    inside = np.asarray(ct_hu)[np.asarray(lesion_mask) != 0].astype(np.float64)
    if inside.size == 0:
        raise ValueError("lesion_mask is empty; the lesion has no HU")
    return dict(zip(MEASURED, [inside.mean(), *np.percentile(inside, (10, 50, 90))], strict=True))
