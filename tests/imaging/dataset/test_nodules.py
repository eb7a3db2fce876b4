import json
import pickle
import subprocess
import sys

import datasets
import numpy as np
import pytest

from imaging.dataset.nodules import (
    RATINGS,
    check_output,
    crop_size_of,
    load_nodules,
    nodule_features,
    read_nodule,
    save_nodule_dataset,
    spacing_mm_of,
)
from imaging.dataset.rows import RowReader

S = 5


def make_row(nodule="a", patient=None, split="train", seed=0, **changes):
    rng = np.random.default_rng(seed)
    lesion_mask = np.zeros((S, S, S), np.uint8)
    lesion_mask[1:3, 2, 1:4] = 1
    row = {
        "nodule_id": nodule,
        "patient_id": patient or f"patient of {nodule}",
        "source": "made",
        "split": split,
        "ct_hu": rng.integers(-1024, 3000, (S, S, S)).astype(np.int16),
        "lesion_mask": lesion_mask,
        "valid_mask": np.ones((S, S, S), np.uint8),
        "spacing_mm": (2.0, 0.7, 0.8),
        "diameter_mm": 4.25,
        "volume_mm3": 40.5,
        "malignancy": 3.5,
    }
    return row | changes


def test_rows_come_back_with_the_types_and_values_that_were_saved(tmp_path):
    rows = [make_row("a"), make_row("b", split="test", seed=1), make_row("c", seed=2)]
    saved = save_nodule_dataset(iter(rows), tmp_path / "out", S)
    assert {split: len(nodules) for split, nodules in saved.items()} == {"train": 2, "test": 1}
    dataset = load_nodules(tmp_path / "out", "train")
    assert dataset.features == nodule_features(S)
    nodule = read_nodule(dataset, -1)
    for name in ("ct_hu", "lesion_mask", "valid_mask"):
        assert nodule[name].dtype == rows[2][name].dtype
        np.testing.assert_array_equal(nodule[name], rows[2][name])
    assert nodule["nodule_id"] == "c" and nodule["malignancy"] == 3.5 and nodule["diameter_mm"] == 4.25
    assert nodule["spacing_mm"].dtype == np.float32
    np.testing.assert_allclose(nodule["spacing_mm"], (2.0, 0.7, 0.8))


def test_a_row_is_read_in_the_stored_types_whatever_the_format_which_stays(tmp_path, monkeypatch):
    row = make_row()
    dataset = save_nodule_dataset([row], tmp_path / "out", S)["train"].with_format("numpy")
    monkeypatch.setattr(datasets.table.Table, "__deepcopy__", None)  # it would take as long as the table has batches
    nodule = read_nodule(dataset, 0)
    assert nodule["ct_hu"].dtype == np.int16 and np.array_equal(nodule["ct_hu"], row["ct_hu"])
    assert dataset.format["type"] == "numpy"


def test_a_reader_gives_the_rows_of_read_row_filtered_or_shuffled_and_in_another_process(tmp_path):
    rows = [make_row(str(number), seed=number, malignancy=[None, 2.5][number % 2]) for number in range(40)]
    whole = save_nodule_dataset(rows, tmp_path / "out", S)["train"]
    views = [whole, whole.select(range(5, 30)), whole.select([7, 3, 38]), whole.shuffle(seed=0).select([4, 1])]
    views.append(whole.select_columns(["ct_hu", "nodule_id", "spacing_mm"]).select([9, 8]))
    for dataset in views:
        reader = RowReader(dataset)
        assert len(reader) == len(dataset)
        for index in (0, 1, len(dataset) - 1, -1):
            for found in (reader[index], pickle.loads(pickle.dumps(reader))[index]):
                np.testing.assert_equal(found, read_nodule(dataset, index))
                assert found["ct_hu"].dtype == np.int16 and found["ct_hu"].flags.writeable
    assert len(pickle.dumps(RowReader(whole))) < whole.data.nbytes / 2
    with pytest.raises(IndexError):
        reader[2]


def test_a_rating_that_was_not_given_is_null_on_disk_and_nan_when_read(tmp_path):
    dataset = save_nodule_dataset([make_row()], tmp_path / "out", S)["train"]
    assert dataset["texture"][:] == [None] and np.isnan(read_nodule(dataset, 0)["texture"])
    assert set(RATINGS) < set(dataset.column_names)


def test_crop_size_and_common_spacing_are_read_from_the_dataset(tmp_path):
    dataset = save_nodule_dataset([make_row("a"), make_row("b")], tmp_path / "one", S)["train"]
    assert crop_size_of(dataset) == S
    np.testing.assert_allclose(spacing_mm_of(dataset), (2.0, 0.7, 0.8), rtol=1e-6)
    mixed = save_nodule_dataset([make_row("a"), make_row("b", spacing_mm=(1, 1, 1))], tmp_path / "two", S)["train"]
    assert spacing_mm_of(mixed) is None


def test_reading_follows_a_filtered_and_shuffled_dataset(tmp_path):
    rows = [make_row(name, seed=seed) for seed, name in enumerate("abcd")]
    dataset = save_nodule_dataset(rows, tmp_path / "out", S)["train"]
    chosen = dataset.filter(lambda name: name != "b", input_columns="nodule_id").select([2, 0])
    np.testing.assert_array_equal(read_nodule(chosen, 0)["ct_hu"], rows[3]["ct_hu"])


def test_extra_columns_are_kept(tmp_path):
    row = make_row(manufacturer="Some", kernel_mm=None)
    saved = save_nodule_dataset([row], tmp_path / "out", S, {"manufacturer": "string", "kernel_mm": "float32"})
    assert read_nodule(saved["train"], 0)["manufacturer"] == "Some"
    with pytest.raises(ValueError, match=r"'split'.* fixed columns"):
        nodule_features(S, {"split": "string"})


def test_an_extra_column_may_be_an_array(tmp_path):
    labels = np.arange(S**3, dtype=np.uint8).reshape(S, S, S)
    extra = {"semantic_map": datasets.Array3D((S, S, S), "uint8")}
    saved = save_nodule_dataset([make_row(semantic_map=labels)], tmp_path / "out", S, extra)
    read = read_nodule(saved["train"], 0)["semantic_map"]
    np.testing.assert_array_equal(read, labels)
    assert read.dtype == np.uint8


def test_floating_hounsfield_units_are_rounded(tmp_path):
    row = make_row(ct_hu=np.full((S, S, S), -12.6, np.float32))
    assert (read_nodule(save_nodule_dataset([row], tmp_path / "out", S)["train"], 0)["ct_hu"] == -13).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows to save"),
        ([make_row("a"), make_row("a")], "a: comes twice"),
        ([make_row("a", "p"), make_row("b", "p", "test")], "b: patient p is in 'test' and in 'train'"),
        ([make_row(split="val")], "a: split 'val', expected one of 'train', 'validation', 'test'"),
        ([make_row(ct_hu=np.zeros((S, S, 4)))], r"ct_hu has shape \(5, 5, 4\), expected \(5, 5, 5\)"),
        ([make_row(ct_hu=np.full((S, S, S), -2000))], "ct_hu spans -2000 ... -2000 HU, expected finite values"),
        ([make_row(ct_hu=np.full((S, S, S), np.nan))], "ct_hu spans nan"),
        ([make_row(lesion_mask=np.zeros((S, S, S)))], "lesion_mask is empty"),
        ([make_row(valid_mask=np.full((S, S, S), 2))], "valid_mask has values other than 0 and 1"),
        (
            [make_row(valid_mask=np.eye(S, dtype=int)[None].repeat(S, 0))],
            "lesion_mask covers voxels where valid_mask is 0",
        ),
        ([make_row(texture=0)], "texture 0, expected a rating from 1 to 6"),
        ([make_row(spacing_mm=(1.0, 0.0, 1.0))], "expected three positive numbers"),
        ([make_row(diameter_mm=None)], "lacks diameter_mm"),
        ([make_row(manufacturer="Some")], "unknown columns manufacturer"),
    ],
)
def test_rows_that_break_the_contract_are_refused_and_nothing_is_left(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        save_nodule_dataset(rows, tmp_path / "out", S)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_dataset_is_replaced_only_when_asked(tmp_path):
    out = tmp_path / "out"
    save_nodule_dataset([make_row("a")], out, S)
    with pytest.raises(ValueError, match=r"is a prepared dataset already.*--overwrite"):
        save_nodule_dataset([make_row("b")], out, S)
    with pytest.raises(ValueError, match="empty"):
        save_nodule_dataset([make_row("b", lesion_mask=np.zeros((S, S, S)))], out, S, overwrite=True)
    assert load_nodules(out, "train")["nodule_id"][:] == ["a"]
    save_nodule_dataset([make_row("b")], out, S, overwrite=True)
    assert load_nodules(out, "train")["nodule_id"][:] == ["b"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="exists and is not a prepared dataset"):
        check_output(tmp_path, overwrite=True)


def test_opening_says_what_is_wrong_with_the_folder(tmp_path):
    with pytest.raises(ValueError, match="no such folder; prepare"):
        load_nodules(tmp_path / "absent", "train")
    with pytest.raises(ValueError, match="not a prepared dataset"):
        load_nodules(tmp_path, "train")
    save_nodule_dataset([make_row()], tmp_path / "out", S)
    with pytest.raises(ValueError, match="no split 'test'; it has 'train'"):
        load_nodules(tmp_path / "out", "test")
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"split": ["train"]})).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="not a prepared dataset of nodules, lacks the columns nodule_id, patient_id"):
        load_nodules(tmp_path / "other", "train")
    (tmp_path / "other" / "dataset_dict.json").write_text(json.dumps(["train"]))
    with pytest.raises(ValueError, match="not a prepared dataset"):
        load_nodules(tmp_path / "other", "train")


def test_a_damaged_offset_in_the_middle_of_a_file_is_refused(tmp_path):
    save_nodule_dataset([make_row()], tmp_path / "out", S)
    (path,) = (tmp_path / "out/train").glob("*.arrow")
    content, offsets = path.read_bytes(), np.arange(0, S**3 + 1, S, dtype="<i4")  # of the rows of an array
    assert content.count(offsets.tobytes()) == 3
    offsets[S] = 2**30
    path.write_bytes(content.replace(np.arange(0, S**3 + 1, S, dtype="<i4").tobytes(), offsets.tobytes()))
    with pytest.raises(ValueError, match=r"out: the split 'train' cannot be read .ArrowInvalid: .*offset"):
        load_nodules(tmp_path / "out", "train")


@pytest.mark.parametrize("shape", [[-1] * 3, [2**40] * 3, [0] * 3, [S, S, S + 1], [S + 1, S, S]])
def test_another_shape_than_that_of_the_stored_arrays_is_refused(tmp_path, shape):
    save_nodule_dataset([make_row()], tmp_path / "out", S)
    info = json.loads((tmp_path / "out/train/dataset_info.json").read_text())
    info["features"]["ct_hu"]["shape"] = shape
    (tmp_path / "out/train/dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(
        ValueError, match=r"out: the split 'train' cannot be read .*arrays of ct_hu are not of the shape"
    ):
        load_nodules(tmp_path / "out", "train")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname"])
def test_a_dataset_whose_data_lie_elsewhere_is_refused(tmp_path, name):
    save_nodule_dataset([make_row()], tmp_path / "out", S)
    state = json.loads((tmp_path / "out/train/state.json").read_text()) | {"_data_files": [{"filename": name}]}
    (tmp_path / "out/train/state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"out: the split 'train' cannot be read .*expected a file beside it"):
        load_nodules(tmp_path / "out", "train")


@pytest.mark.parametrize("content", ['{"splits": null}', '{"splits": 7}', "7", "[" * 100_000])
def test_a_list_of_splits_that_is_none_is_refused(tmp_path, content):
    save_nodule_dataset([make_row()], tmp_path / "out", S)
    (tmp_path / "out/dataset_dict.json").write_text(content)
    with pytest.raises(ValueError, match="out: not a prepared dataset"):
        load_nodules(tmp_path / "out", "train")


def test_module_does_not_import_simpleitk():
    code = "import sys, imaging.dataset.nodules; sys.exit('SimpleITK' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
