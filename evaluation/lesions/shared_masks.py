"""Which synthetic lesions share a mask, or at least a patient, with a real one: what a comparison has to respect."""

from collections import defaultdict

import numpy as np

from evaluation.lesions.features import FeatureSet
from evaluation.statistics.exchange import LesionSets


def comparable_sets(real: FeatureSet, synthetic: FeatureSet) -> tuple[LesionSets, list[str]]:
    """One kind of features of two sets, arranged for `evaluation.statistics.exchange`.

    If at least half of the synthetic set's patients are also in the real set, the comparison is of shared patients:
    each synthetic mask goes with the real lesion of its name, or, in a patient without a common name, with any real
    lesion of that patient; what has no partner is left out. Otherwise the sets count as of different patients, and
    synthetic lesions of shared patients are left out. The same number of samples of each mask takes part.

    Args:
        real, synthetic: At least one lesion each; `<mask>_seed<k>` names samples of one mask.
    Returns: The arranged sets, possibly empty, and a sentence for what was left out.
    """
    real_masks, made_masks = _rows_by_mask(real), _rows_by_mask(synthetic)
    shared = set(real_masks) & set(made_masks)
    in_pairs = 2 * len(shared) >= len(made_masks)
    if in_pairs:
        entries = [
            (patient, *pair)
            for patient in sorted(shared)
            for pair in _partners(real_masks[patient], made_masks[patient])
        ]
        real_rows, real_patients = [rows[0] for _, rows, _ in entries], [patient for patient, _, _ in entries]
    else:
        entries = [
            (p, [], rows) for p, masks in sorted(made_masks.items()) if p not in shared for rows in masks.values()
        ]
        real_rows, real_patients = list(range(len(real.lesions))), real.patients
    samples = min((len(rows) for _, _, rows in entries), default=1)
    made_rows = np.array([rows[:samples] for _, _, rows in entries], int).reshape(len(entries), samples)
    notes = []
    if made_rows.size < len(synthetic.lesions) or (in_pairs and len(real_rows) < len(real.lesions)):
        reason = (
            "a pair needs a real and a synthetic lesion of one patient, and each mask equally many samples"
            if in_pairs
            else "no patient may be in both sets, and each mask has equally many samples"
        )
        notes.append(
            f"{made_rows.size} of {len(synthetic.lesions)} synthetic lesions are compared with {len(real_rows)} of "
            f"{len(real.lesions)} real ones; {reason}"
        )
    made_patients = [patient for patient, _, _ in entries]
    return LesionSets(
        real.values[real_rows], synthetic.values[made_rows], real_patients, made_patients, in_pairs
    ), notes


def _rows_by_mask(features: FeatureSet) -> dict[str, dict[str, list[int]]]:
    """Patient -> mask name -> rows of its samples."""
    rows: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, lesion in enumerate(features.lesions):
        rows[lesion.patient_id][lesion.mask_name].append(row)
    return rows


def _partners(real: dict[str, list[int]], made: dict[str, list[int]]) -> list[tuple[list[int], list[int]]]:
    """(real rows, synthetic rows) of one patient, by mask name where any is common."""
    common = [(real[mask], made[mask]) for mask in made if mask in real]
    return common or list(zip(real.values(), made.values(), strict=False))
