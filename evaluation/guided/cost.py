"""What guidance costs: distances of guided lesions to real ones, and whether goals are reached in their range."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.guided.requested_vs_achieved import ClassRow, RankRow
from evaluation.lesions.features import TEXTURE
from evaluation.lesions.set_comparison import DistanceRow

TEXTURE_DISTANCES = tuple(f"{kind} WD, standardised" for kind in TEXTURE)
FRECHET = "Fréchet 3D"
GOAL_AUROC, GOAL_RHO = 0.85, 0.9


@dataclass(frozen=True)
class CostRow:
    """The distances of one request's lesions, all its values together, at one scale.

    Attributes:
        attribute, scale: What was requested and how strongly.
        distances: To the real lesions of the same masks.
    """

    attribute: str
    scale: float
    distances: list[DistanceRow] = field(default_factory=list)

    def distance(self, metric: str) -> DistanceRow | None:
        """The distance of that name, if it could be measured."""
        return next((row for row in self.distances if row.metric == metric), None)

    @property
    def textures(self) -> list[DistanceRow]:
        """The texture distances that have a real vs real beside them."""
        found = [self.distance(metric) for metric in TEXTURE_DISTANCES]
        return [row for row in found if row is not None and row.floor is not None]

    @property
    def texture_ratio(self) -> float | None:
        """Mean over the texture distances of their ratio to real vs real; 1 for a perfect generator."""
        ratios = [row.ratio for row in self.textures if row.ratio is not None]
        return float(np.mean(ratios)) if ratios else None

    @property
    def beyond(self) -> list[str]:
        """The texture distances above 97.5 % of the splits of real vs real."""
        return [row.metric for row in self.textures if is_beyond(row)]


def is_beyond(row: DistanceRow) -> bool:
    """Whether a distance is above 97.5 % of the splits of real vs real at the same sizes, or its ratio surely above 1.

    A ratio whose whole interval lies above 1 is no chance, although single splits of real vs real reach as far.
    """
    above = row.floor is not None and row.value is not None and row.value > row.floor.high
    return above or (row.low is not None and row.low > 1)


def goal_sentences(classes: Sequence[ClassRow], ranks: Sequence[RankRow], costs: Sequence[CostRow]) -> list[str]:
    """Whether malignancy and HU are followed at a scale whose texture distances lie in the range of real vs real.

    Args:
        classes: Malignancy by scale.
        ranks: Graded requests by scale.
        costs: Distances by request and scale.
    Returns: A sentence for each goal that can be told; the second has no condition on texture.
    """
    sentences = []
    if classes:
        inside = {row.scale for row in costs if row.attribute == "malignancy" and row.textures and not row.beyond}
        good = [row for row in classes if row.equal_size >= GOAL_AUROC]
        both = [row.scale for row in good if row.scale in inside]
        best = max(classes, key=lambda row: row.equal_size)
        if both:
            verdict = f"reached at scale {', '.join(f'{scale:g}' for scale in both)}"
        elif good and not any(row.textures for row in costs if row.attribute == "malignancy"):
            scales = ", ".join(f"{row.scale:g}" for row in good)
            verdict = f"the AUROC is reached at scale {scales}; texture distances to real vs real were not measured"
        elif good:
            verdict = (
                f"the AUROC is reached at scale {', '.join(f'{row.scale:g}' for row in good)}, but not with all "
                "texture distances in range"
            )
        else:
            verdict = f"not reached; the highest is {best.equal_size:.2f} at scale {best.scale:g}"
        sentences.append(
            "Malignancy: the judge's AUROC between lesions requested as benign and as malignant, at their masks' size, "
            f"at least {GOAL_AUROC:g} at a scale whose texture distances lie within 95 % of real vs real: {verdict}. "
            f"At scale {best.scale:g} the judge calls {best.share_benign:.0%} of the benign and "
            f"{best.share_malignant:.0%} of the malignant what they were requested."
        )
    means = [row for row in ranks if row.attribute == "mean_hu" and row.rho is not None]
    if means:
        good_ranks = [f"{row.scale:g}" for row in means if row.rho is not None and row.rho >= GOAL_RHO]
        top = max(means, key=lambda row: row.rho or 0.0)
        verdict = (
            f"reached at scale {', '.join(good_ranks)}"
            if good_ranks
            else f"not reached; the highest is {top.rho:.2f} at scale {top.scale:g}"
        )
        sentences.append(f"Mean HU: rank correlation of requested and achieved at least {GOAL_RHO:g}: {verdict}.")
    return sentences
