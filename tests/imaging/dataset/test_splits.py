import pytest

from imaging.dataset.splits import merge_splits, read_splits, set_validation_aside, split_patients, write_splits


def make_strata(n):
    return {f"p{i:03d}": ("malignant", "benign", "")[i % 3] for i in range(n)}


@pytest.mark.parametrize(("n", "share"), [(100, 0.1), (97, 0.1), (10, 0.1), (33, 0.25), (5, 0.0), (5, 1.0)])
def test_the_test_share_holds_overall_and_in_each_stratum(n, share):
    strata = make_strata(n)
    splits = split_patients(strata, share)
    assert set(splits) == set(strata)
    assert sum(s == "test" for s in splits.values()) == int(n * share + 0.5)
    for stratum in set(strata.values()):
        members = [p for p in strata if strata[p] == stratum]
        assert abs(sum(splits[p] == "test" for p in members) - share * len(members)) <= 1


def test_splits_depend_on_the_seed_and_not_on_the_order():
    strata = make_strata(60)
    assert split_patients(strata) == split_patients(dict(reversed(strata.items())))
    assert split_patients(strata, seed=1) != split_patients(strata, seed=2)


def test_a_known_patient_keeps_its_split_when_others_come():
    few, many = make_strata(20), make_strata(80)
    first = split_patients(few, 0.25)
    second = split_patients(many, 0.25, fixed=first)
    assert all(second[p] == first[p] for p in few)
    assert sum(s == "test" for s in second.values()) == 20


def test_validation_patients_come_from_the_training_patients_alone():
    splits = split_patients(make_strata(600), 0.1)
    aside = set_validation_aside(splits, 0.15)
    moved = [patient for patient in splits if aside[patient] != splits[patient]]
    assert {splits[patient] for patient in moved} == {"train"} and {aside[p] for p in moved} == {"validation"}
    assert abs(len(moved) / 540 - 0.15) < 0.04
    assert set_validation_aside(splits, 0.15, seed=1) != aside


def test_datasets_prepared_apart_agree_on_their_validation_patients():
    many = set_validation_aside(dict.fromkeys(make_strata(300), "train"), 0.2)
    few = set_validation_aside(dict.fromkeys(list(make_strata(300))[::-3], "train"), 0.2)
    assert all(many[patient] == split for patient, split in few.items())


def test_small_sets_get_a_validation_patient_and_sets_that_have_one_keep_theirs():
    pair = set_validation_aside({"a": "train", "b": "train", "c": "test"}, 1e-9)
    assert sorted(pair.values()) == ["test", "train", "validation"] and pair["c"] == "test"
    for kept in ({"a": "train"}, {"a": "train", "b": "validation", "c": "train"}, {"a": "test", "b": "test"}):
        assert set_validation_aside(kept, 0.9) == kept
    assert set_validation_aside({"a": "train", "b": "train"}, 0) == {"a": "train", "b": "train"}
    with pytest.raises(ValueError, match=r"validation_share 1\.5, expected a share from 0 to 1"):
        set_validation_aside({"a": "train"}, 1.5)


def test_a_patient_in_two_splits_is_named_across_sources():
    assert merge_splits([("a", "train")], [("b", "test"), ("a", "train")]) == {"a": "train", "b": "test"}
    with pytest.raises(ValueError, match="1 patients are in two splits: a;"):
        merge_splits([("a", "train"), ("b", "test")], [("a", "test")])


def test_stored_splits_come_back(tmp_path):
    splits = split_patients(make_strata(12))
    write_splits(tmp_path / "splits.csv", splits)
    assert read_splits(tmp_path / "splits.csv") == splits
    assert read_splits(tmp_path / "none.csv") == {}
    (tmp_path / "bad.csv").write_text("name,part\na,train\n")
    with pytest.raises(ValueError, match=r"bad\.csv: columns .* expected patient_id and split"):
        read_splits(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("patient_id,split\na,train\na,test\n")
    with pytest.raises(ValueError, match=r"bad\.csv: 1 patients are in two splits: a;"):
        read_splits(tmp_path / "bad.csv")


def test_wrong_shares_and_split_names_are_refused():
    with pytest.raises(ValueError, match=r"test_share 1\.5"):
        split_patients({"a": ""}, 1.5)
    with pytest.raises(ValueError, match="patient a: split 'val'"):
        split_patients({"a": ""}, fixed={"a": "val"})
