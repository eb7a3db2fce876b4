"""Whether a lesion is where its label says: what training with synthetic labels needs.

The lesion's own border at half maximum (`imaging.lesions.outline`) is drawn again, in the finished image, and compared
with its label.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imaging.lesions.composition import SOLID_HU
from imaging.lesions.outline import half_maximum_outline

LEAST_DICE = 0.8  # one real solid lesion in twenty has less, the small ones
MOST_EMPTY, MOST_EMPTY_GLASS = 0.1, 0.3  # share of the label; one real lesion in twenty has more


class LabelAgreement(NamedTuple):
    """Attributes:
    dice: Of the lesion's own outline and its label; NaN where no outline can be drawn beside the lung.
    empty_share: Share of the label below half maximum between the lung and the lesion.
    contrast_hu: Of the lesion above the lung around.
    median_hu: In the label.
    """

    dice: float
    empty_share: float
    contrast_hu: float
    median_hu: float


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
    contrast_hu, median_hu = found.lesion_hu - found.lung_hu, float(np.median(ct_hu[label]))
    if found.fallback in ("nothing above half maximum", "low contrast"):
        return LabelAgreement(0.0, 1.0, contrast_hu, median_hu)
    if np.isnan(found.threshold_hu):  # no lung around
        return LabelAgreement(np.nan, np.nan, np.nan, median_hu)
    empty_share = float((ct_hu[label] < found.threshold_hu).mean())
    outline = found.mask > 0
    if found.fallback is not None:
        return LabelAgreement(1 - empty_share, empty_share, contrast_hu, median_hu)
    dice = 2 * (outline & label).sum() / (outline.sum() + label.sum())
    return LabelAgreement(float(dice), empty_share, contrast_hu, median_hu)


def label_fault(found: LabelAgreement, least_dice: float = LEAST_DICE) -> tuple[str, str] | None:
    """Why a lesion does not follow its label, in a few words and in figures; None where it does, or cannot be judged.

    Args:
        found: Of the finished lesion.
        least_dice: Of a lesion whose median is solid; 0 accepts all lesions.
    """
    if least_dice == 0 or np.isnan(found.dice):
        return None
    if found.dice == 0:
        return "not visible", f"{found.contrast_hu:.0f} HU above the lung around"
    solid = found.median_hu >= SOLID_HU
    most = MOST_EMPTY if solid else MOST_EMPTY_GLASS
    if found.empty_share > most:
        return "label partly empty", f"{found.empty_share:.2f} of it is lung, most {most:g}"
    if solid and found.dice < least_dice:
        return "not where its label is", f"Dice of its own outline {found.dice:.2f}, least {least_dice:g}"
    return None
