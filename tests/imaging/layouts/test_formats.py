"""Layouts are what their readers want: checked by the readers of MONAI and COCO, and by the rules of the others."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from layout_factory import Made, write_made
from monai.data import load_decathlon_datalist
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from pycocotools.coco import COCO

from imaging.layouts.cases import read_case
from imaging.layouts.export import LAYOUTS, export_layout
from imaging.layouts.layout import Title

TITLE = Title(512, "Nodules")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return write_made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module", params=list(LAYOUTS))
def layout(request) -> str:
    return request.param


def written(made, layout: str, out: Path, **options) -> Path:
    export_layout(layout, made.cases(), out, TITLE, **options)
    return out


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def same_grid(first: Path, second: Path) -> bool:
    one, other = sitk.ReadImage(str(first)), sitk.ReadImage(str(second))
    return one.GetSize() == other.GetSize() and all(
        np.allclose(getattr(one, f"Get{name}")(), getattr(other, f"Get{name}")(), atol=1e-6)
        for name in ("Spacing", "Origin", "Direction")
    )


def check_splits(made, splits) -> None:
    """Every case validates once, and never beside training cases of its patient."""
    patient_of = {case.name: case.patient for case in made.cases()}
    assert len(splits) == 3
    assert sorted(name for split in splits for name in split["val"]) == sorted(patient_of)
    for split in splits:
        assert set(split) == {"train", "val"}
        assert not {patient_of[name] for name in split["train"]} & {patient_of[name] for name in split["val"]}


def test_nnunet_finds_its_folders_channels_labels_and_splits(made, tmp_path):
    """The rules of nnU-Net's dataset format and of its integrity check."""
    out = written(made, "nnunet", tmp_path / "out")
    (raw,) = (out / "nnUNet_raw").iterdir()
    assert re.fullmatch(r"Dataset\d{3}_[A-Za-z0-9]+", raw.name) and raw.name == "Dataset512_Nodules"
    assert sorted(path.name for path in raw.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]
    described = json.loads((raw / "dataset.json").read_text())
    assert set(described) == {"channel_names", "labels", "numTraining", "file_ending"}
    assert described["channel_names"] == {"0": "CT"} and described["labels"] == {"background": 0, "nodule": 1}
    images = {path.name.removesuffix("_0000.nii.gz"): path for path in (raw / "imagesTr").iterdir()}
    labels = {path.name.removesuffix(described["file_ending"]): path for path in (raw / "labelsTr").iterdir()}
    assert images.keys() == labels.keys() and len(images) == described["numTraining"] == 6
    for case in made.cases():
        assert same_grid(images[case.name], labels[case.name])
        found = array(labels[case.name])
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, sitk.GetArrayFromImage(read_case(case).labels) > 0)
    splits = json.loads((out / "nnUNet_preprocessed" / raw.name / "splits_final.json").read_text())
    check_splits(made, splits)
    assert {name for split in splits for name in split["train"]} == set(images)


def test_nndetection_finds_consecutive_instances_with_a_class_each(made, tmp_path):
    """The rules of nnDetection's full check; and two processes write it as well as one."""
    out = written(made, "nndetection", tmp_path / "out", workers=2)
    task = out / "Task512_Nodules"
    described = json.loads((task / "dataset.json").read_text())
    assert described["task"] == task.name and described["dim"] == 3
    assert described["labels"] == {"0": "nodule"} and described["modalities"] == {"0": "CT"}
    for case in made.cases():
        image, labels = (
            task / f"raw_splitted/imagesTr/{case.name}_0000.nii.gz",
            task / "raw_splitted/labelsTr" / case.name,
        )
        assert same_grid(image, labels.with_suffix(".nii.gz"))
        instances = json.loads(labels.with_suffix(".json").read_text())["instances"]
        assert set(instances.values()) <= {0} and list(instances) == [str(i + 1) for i in range(len(instances))]
        found = array(labels.with_suffix(".nii.gz"))
        assert set(np.unique(found)) == {0, *map(int, instances)}
        np.testing.assert_array_equal(found, sitk.GetArrayFromImage(read_case(case).labels))
    check_splits(made, json.loads((task / "splits_final.json").read_text()))


def test_monai_loads_the_lists_and_the_volumes_they_name(made, tmp_path):
    out = written(made, "monai", tmp_path / "out")
    cases = {case.name: case for case in made.cases()}
    whole = load_decathlon_datalist(out / "datalist.json", is_segmentation=True, data_list_key="training")
    assert {Path(entry["image"]).name for entry in whole} == {f"{name}.nii.gz" for name in cases}
    load = Compose([LoadImaged(keys=("image", "label")), EnsureChannelFirstd(keys=("image", "label"))])
    for entry in whole[::3]:
        volumes = load(entry)
        expected = sitk.GetArrayFromImage(read_case(cases[Path(entry["image"]).name.split(".")[0]]).labels) > 0
        np.testing.assert_array_equal(volumes["label"][0].numpy().transpose(2, 1, 0), expected)
        assert volumes["image"].shape == volumes["label"].shape
        np.testing.assert_allclose(volumes["image"].affine, volumes["label"].affine)
    splits = []
    for fold in range(3):
        parts = {
            key: load_decathlon_datalist(out / f"datalist_fold{fold}.json", data_list_key=key)
            for key in ("training", "validation")
        }
        assert {entry["fold"] for entry in parts["validation"]} == {fold}
        names = {key: [Path(entry["image"]).name.split(".")[0] for entry in parts[key]] for key in parts}
        splits.append({"train": names["training"], "val": names["validation"]})
    check_splits(made, splits)


def test_coco_indexes_boxes_that_hold_each_nodule_and_nothing_beside_it(made, tmp_path, capsys):
    out = written(made, "coco3d", tmp_path / "out")
    coco = COCO(str(out / "annotations/all.json"))
    assert coco.loadCats(coco.getCatIds(catNms=["nodule"]))[0]["id"] == 1
    cases = {case.name: case for case in made.cases()}
    assert len(coco.getImgIds()) == len(cases)
    for image in coco.loadImgs(coco.getImgIds()):
        labels = read_case(cases[Path(image["file_name"]).name.split(".")[0]]).labels
        assert array(out / image["file_name"]).shape == (image["depth"], image["height"], image["width"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        left = sitk.GetArrayFromImage(labels)
        assert len(found) == left.max()
        for annotation in found:
            x, y, z, width, height, depth = annotation["bbox"]
            box = left[z : z + depth, y : y + height, x : x + width]
            assert np.count_nonzero(box) == annotation["area"]
            assert all(box.any(axis=axes).all() for axes in ((1, 2), (0, 2), (0, 1)))
            size_mm = np.multiply((width, height, depth), labels.GetSpacing())
            np.testing.assert_allclose(annotation["size_mm"], size_mm)
            index = labels.TransformPhysicalPointToContinuousIndex(annotation["center_mm"])
            assert all(
                0 <= at - low < edge for at, low, edge in zip(index, (x, y, z), (width, height, depth), strict=True)
            )
            box[...] = 0
        assert not left.any()
    name_of = {image["id"]: Path(image["file_name"]).name.split(".")[0] for image in coco.dataset["images"]}
    parts = [
        {part: COCO(str(out / f"annotations/fold{fold}_{part}.json")) for part in ("train", "val")} for fold in range(3)
    ]
    check_splits(
        made, [{part: [name_of[i] for i in some.getImgIds()] for part, some in fold.items()} for fold in parts]
    )


def test_images_of_the_set_are_linked_and_real_scans_written_anew(made, layout, tmp_path):
    out = written(made, layout, tmp_path / "out")
    files = {path.name.split(".")[0].removesuffix("_0000"): path for path in out.rglob("*images*/*.nii.gz")}
    for case in made.cases():
        assert os.path.samefile(files[case.name], case.ct) == case.synthetic
        np.testing.assert_array_equal(array(files[case.name]), array(case.ct))


def test_what_is_there_stays_and_other_cases_or_files_are_refused(made, layout, tmp_path, capsys):
    out = written(made, layout, tmp_path / "out")
    said = capsys.readouterr().out
    assert f"{layout}: 4 synthetic and 2 real cases of 3 patients in 3 folds, 8 synthetic lesions and 5 nodules" in said
    assert "next: " in said and str(out) in said.splitlines()[-1]
    table = pd.read_csv(out / "cases.csv")
    assert (table.synthetic_lesions.sum(), table.own_nodules.sum()) == (8, 5)
    assert (table.groupby("patient").fold.nunique() == 1).all() and set(table.kind) == {"synthetic", "real"}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    written(made, layout, out)
    assert "is there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(ValueError, match=r"made with other settings \(folds: None -> 2\)"):
        written(made, layout, out, folds=2)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds \S+ and no settings.json; choose another folder or empty it"):
        written(made, layout, tmp_path)


def test_a_real_scan_that_cannot_be_used_is_named_and_left_out(made, tmp_path, capsys):
    cases = made.cases()
    (tmp_path / "bad.nii.gz").write_bytes(b"none")
    bad = type(cases[-1])("real_9", False, "bad", "bad", tmp_path / "bad.nii.gz", cases[-1].labels)
    export_layout("nnunet", [*cases, bad], tmp_path / "out", TITLE)
    assert f"left out: {tmp_path}/bad.nii.gz: " in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("real_9*"))


@pytest.mark.parametrize(
    ("number", "name", "message"),
    [(0, "A", "number 0, expected 1 to 999"), (5, "a b", "name 'a b', expected letters and digits alone")],
)
def test_titles_that_the_formats_do_not_take_are_refused(number, name, message):
    with pytest.raises(ValueError, match=message):
        Title(number, name)
