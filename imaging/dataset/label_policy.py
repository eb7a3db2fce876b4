"""Which nodules are called benign and malignant, and how many that makes.

LIDC readers rate malignancy from 1 (highly unlikely) to 5 (highly suspicious); a nodule has the mean of its readers.
"""

from collections.abc import Sequence
from typing import Literal

LabelPolicy = Literal["exclude_between", "malignant_from_3", "keep_all"]

# Policy -> (highest mean rating called benign, lowest called malignant).
LIMITS: dict[str, tuple[float, float]] = {
    "exclude_between": (2.0, 4.0),  # the texture-loss proposal: 1-2 benign, 4-5 malignant, about 3 left out
    "malignant_from_3": (2.0, 3.0),  # LSDM's classifiers
}


def malignancy_label(mean_rating: float | None, policy: LabelPolicy) -> str:
    """Label of a nodule: "benign", "malignant", or "" where the policy calls it neither.

    Args:
        mean_rating: Mean of the readers' malignancy ratings, 1 to 5, or None if nobody rated it.
        policy: Key of `LIMITS`; "keep_all" labels like "malignant_from_3" but asks for no exclusion.
    Raises: ValueError: If the policy is unknown.
    """
    if policy not in (*LIMITS, "keep_all"):
        raise ValueError(f"label policy {policy!r}, expected one of {', '.join((*LIMITS, 'keep_all'))}")
    benign, malignant = LIMITS["malignant_from_3" if policy == "keep_all" else policy]
    if mean_rating is None:
        return ""
    return "benign" if mean_rating <= benign else "malignant" if mean_rating >= malignant else ""


def exclusion_reason(mean_rating: float | None, policy: LabelPolicy) -> str:
    """Why the policy leaves a nodule out; empty if it keeps it. Arguments as in `malignancy_label`."""
    if malignancy_label(mean_rating, policy) or policy == "keep_all":
        return ""
    if mean_rating is None:
        return f"no malignancy rating, needed by label policy {policy}"
    low, high = LIMITS[policy]
    return f"mean malignancy {mean_rating:.2f} lies between {low:g} and {high:g} (label policy {policy})"


def label_table(mean_ratings: Sequence[float | None], reader_counts: Sequence[int | None]) -> str:
    """Markdown table of nodules by mean malignancy and number of readers, then what each policy makes of them.

    On the whole LIDC-IDRI the row "exclude_between" can be held against the proposal's 883 benign and 492 malignant
    nodules; the row "rounded" is the other reading of "1-2" and "4-5", with the mean rounded to a whole number.

    Args:
        mean_ratings: One for each nodule before any label exclusion.
        reader_counts: Readers who marked it, same order; None if unknown.
    """
    names = ["1 to 2", "above 2 to 2.5", "above 2.5, below 3", "3", "above 3, below 3.5", "3.5 to below 4", "4 to 5"]
    counts = [[0] * 6 for _ in range(len(names) + 1)]
    for rating, readers in zip(mean_ratings, reader_counts, strict=True):
        row = _bin(rating)
        counts[row][min(readers, 4) - 1 if readers else 4] += 1
        counts[row][5] += 1
    lines = ["| mean malignancy | 1 reader | 2 | 3 | 4 or more | unknown | all |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip([*names, "not rated"], counts, strict=True)
    ]
    rated = [rating for rating in mean_ratings if rating is not None]
    lines += ["", "| policy | benign | malignant | neither |", "|---|---|---|---|"]
    for policy, (low, high) in LIMITS.items():
        lines.append(
            _policy_row(policy, sum(r <= low for r in rated), sum(r >= high for r in rated), len(mean_ratings))
        )
    lines.append(_policy_row("rounded", sum(r < 2.5 for r in rated), sum(r >= 3.5 for r in rated), len(mean_ratings)))
    return "\n".join(lines)


def _policy_row(name: str, benign: int, malignant: int, total: int) -> str:
    return f"| {name} | {benign} | {malignant} | {total - benign - malignant} |"


def _bin(rating: float | None) -> int:
    if rating is None:
        return 7
    for row, inside in enumerate((rating <= 2, rating <= 2.5, rating < 3, rating == 3, rating < 3.5, rating < 4)):
        if inside:
            return row
    return 6
