from dataclasses import replace

import numpy as np
import pytest

from evaluation.lesions.features import FeatureSet
from evaluation.lesions.shared_masks import comparable_sets


@pytest.fixture
def make_set(make_lesion):
    base = make_lesion(0)

    def make(**lesions: str) -> FeatureSet:
        """name -> patient; a lesion's feature is its place, plus 100 where the name has a seed."""
        found = [replace(base, name=name, patient_id=patient) for name, patient in lesions.items()]
        values = np.array([row + 100 * ("seed" in lesion.name) for row, lesion in enumerate(found)], float)
        return FeatureSet(values[:, None, None], found)

    return make


def test_samples_go_with_the_real_lesion_of_their_mask(make_set):
    real = make_set(a="p", b="p", c="q")
    made = make_set(b_seed0="p", c_seed0="q", c_seed1="q", b_seed1="p", a_seed1="p", a_seed0="p")
    sets, notes = comparable_sets(real, made)
    assert sets.shared and notes == []
    assert sets.real_patients == sets.synthetic_patients == ["p", "p", "q"]
    assert sets.real.ravel().tolist() == [1, 0, 2]
    assert sets.synthetic[..., 0, 0].tolist() == [[100, 103], [104, 105], [101, 102]]


def test_what_has_no_partner_and_surplus_samples_are_left_out_and_counted(make_set):
    sets, notes = comparable_sets(
        make_set(a="p", b="q", c="r"), make_set(a_seed0="p", a_seed1="p", b_seed0="q", d_seed0="s")
    )
    assert sets.real.ravel().tolist() == [0, 1] and sets.synthetic.ravel().tolist() == [100, 102]
    assert notes[0].startswith("2 of 4 synthetic lesions are compared with 2 of 3 real ones; a pair needs")


def test_lesions_elsewhere_in_the_same_patients_are_paired_by_patient(make_set):
    sets, notes = comparable_sets(make_set(a="p", b="p", c="q"), make_set(x="q", y="p"))
    assert sets.shared and sets.real_patients == ["p", "q"]
    assert sets.real.ravel().tolist() == [0, 2] and sets.synthetic.ravel().tolist() == [1, 0]
    assert "2 of 2 synthetic lesions are compared with 2 of 3" in notes[0]


def test_equal_names_of_different_patients_are_no_pair(make_set):
    sets, notes = comparable_sets(make_set(a="p", b="q"), make_set(a="x", b="y"))
    assert not sets.shared and notes == []
    assert (sets.real_patients, sets.synthetic_patients) == (["p", "q"], ["x", "y"])


def test_a_few_shared_patients_are_left_out_of_a_set_of_others(make_set):
    sets, notes = comparable_sets(make_set(a="p", b="q"), make_set(a="p", x="r", y="s"))
    assert not sets.shared and sets.synthetic_patients == ["r", "s"] and len(sets.real) == 2
    assert notes[0].startswith("2 of 3 synthetic lesions are compared with 2 of 2 real ones; no patient may be in both")
