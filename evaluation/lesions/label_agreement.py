"""Whether a lesion is where its label says: what training with synthetic labels needs.

The lesion's own border at half maximum (`imaging.lesions.outline`) is drawn again, in the finished image, and compared
with its label.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imaging.lesions.outline import half_maximum_outline


class LabelAgreement(NamedTuple):
    """Attributes:
    dice: Of the lesion's own outline and its label; NaN where no outline can be drawn beside the lung.
    empty_share: Share of the label below half maximum between the lung and the lesion.
    contrast_hu: Of the lesion above the lung around.
    """

    dice: float
    empty_share: float
    contrast_hu: float


def label_agreement(
    ct_hu: np.ndarray,
    lesion_mask: np.ndarray,
    spacing_mm: Sequence[float],
    valid_mask: np.ndarray | None = None,
    texture: float | None = None,
) -> LabelAgreement:
    """Compare a lesion with its label.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask: Same shape, the label, non-zero inside.
        spacing_mm: (z, y, x), mm.
        valid_mask: Same shape, 0 on padding; None if there is none.
        texture: 1 (ground glass) to 5 (solid), where it is known: it decides whether ground glass around a solid core
            belongs to the lesion.
    Raises: ValueError: If the label is empty or a shape differs.
    """
    label = np.asarray(lesion_mask) > 0
    found = half_maximum_outline(ct_hu, label, spacing_mm, texture, valid_mask)
    contrast_hu = found.lesion_hu - found.lung_hu
    if found.fallback == "nothing above half maximum" or found.fallback == "low contrast":
        return LabelAgreement(0.0, 1.0, contrast_hu)
    if np.isnan(found.threshold_hu):  # no lung around
        return LabelAgreement(np.nan, np.nan, np.nan)
    empty_share = float((ct_hu[label] < found.threshold_hu).mean())
    outline = found.mask > 0
    if found.fallback is not None:
        return LabelAgreement(float(1 - empty_share), empty_share, contrast_hu)
    dice = 2 * (outline & label).sum() / (outline.sum() + label.sum())
    return LabelAgreement(float(dice), empty_share, contrast_hu)
