"""Outlines to a component: who is left out, what is kept, and which folders are refused."""

import zipfile

import numpy as np
import pandas as pd
import pytest
from shape_factory import nodule_shapes, write_shapes

from diffusion.shapes import LesionShapes
from foundation.config import launch, parse_config
from imaging.dataset.nodules import load_nodules
from imaging.dataset.rows import SPLITS
from imaging.dataset.shape_files import NoduleShape, read_nodule_shapes, shapes_by_split
from scripts.prepare_shapes import PrepareShapesConfig, main


def test_a_folder_gives_the_outlines_and_ratings_that_were_written(tmp_path):
    made = nodule_shapes(10)
    for shape, read in zip(made, read_nodule_shapes(write_shapes(tmp_path / "shapes", made)), strict=True):
        assert np.array_equal(shape.outline, read.outline)
        assert (read.name, read.patient_id, read.slice_mm) == (shape.name, shape.patient_id, shape.slice_mm)
        assert read.ratings == pytest.approx(shape.ratings)


def test_no_shape_of_a_validation_or_test_patient_is_kept(tmp_path, chain):
    present = [split for split in SPLITS if (chain.nodules / split).is_dir()]
    patients = {split: sorted(set(load_nodules(chain.nodules, split)["patient_id"])) for split in present}
    watched = [patient for split in present if split != "train" for patient in patients[split]]
    names = [*patients["train"][:3], *watched, *(f"new{n}" for n in range(20))]
    made = [
        NoduleShape(f"{n}", name, shape.outline, 1.0, shape.ratings | {"lobulation": 1 + n / 20})
        for n, (name, shape) in enumerate(zip(names, nodule_shapes(len(names)), strict=True))
    ]
    folder, out = write_shapes(tmp_path / "shapes", made), tmp_path / "component"
    argv = ["--data", str(folder), "--nodules", str(chain.nodules), "--out", str(out)]
    launch(main, parse_config(PrepareShapesConfig, argv))
    kept = LesionShapes.from_pretrained(out)
    known = {name: split for split, some in patients.items() for name in some}
    expected = shapes_by_split(made, known)["train"]
    allowed = {shape.patient_id for shape in expected}
    assert watched and allowed.isdisjoint(watched) and set(patients["train"][:3]) <= allowed
    assert 3 < len(allowed) < 23  # some of the new patients are set aside
    np.testing.assert_allclose(kept.ratings[:, 0], [shape.ratings["lobulation"] for shape in expected], rtol=1e-5)
    assert kept.config["record"]["patients"] == len(allowed)


def test_the_split_of_a_new_patient_does_not_depend_on_the_others():
    shapes = nodule_shapes(80)
    whole = shapes_by_split(shapes, {"other": "validation"})
    half = shapes_by_split(shapes[:40], {})
    for split in ("train", "validation"):
        names = {shape.name for shape in whole[split]}
        assert {shape.name for shape in half[split]} == names & {shape.name for shape in shapes[:40]}
    assert not {shape.patient_id for shape in whole["train"]} & {shape.patient_id for shape in whole["validation"]}


def broken(folder, change):
    table = pd.read_csv(folder / "shapes.csv")
    if change == "no table":
        (folder / "shapes.csv").unlink()
    elif change == "no archive":
        (folder / "shapes.npz").write_bytes(b"not a zip")
    elif change == "pickle":
        np.savez(folder / "shapes.npz", **{name: np.array([{}], dtype=object) for name in table["shape"]})
    elif change == "bomb":
        with zipfile.ZipFile(folder / "shapes.npz", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("n0.npy", bytes(2**26 + 1))
    else:
        name, value = change
        table[name] = table[name].astype(object)
        table.loc[0, name] = value
        table.to_csv(folder / "shapes.csv", index=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no archive", r"shapes\.npz: cannot be read as packed outlines"),
        ("pickle", r"shapes\.npz: cannot be read as packed outlines \(.*pickle"),
        ("bomb", r"unpacks to 671\d+ bytes, expected at most 67108864"),
        (("shape", "other"), r"shapes\.npz: cannot be read as packed outlines \(.*other"),
        (("depth", 99), r"n0 is uint8 \(\d+,\), expected the \d+ bits of \(99, "),
        (("lobulation", 7), r"n0 is rated .*'lobulation': 7.0.*, expected 1 to 5"),
        (("lobulation", "much"), r"shapes\.csv: column lobulation holds text, expected numbers"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(tmp_path, change, message):
    folder = write_shapes(tmp_path / "shapes", nodule_shapes(4))
    broken(folder, change)
    with pytest.raises(ValueError, match=message):
        read_nodule_shapes(folder)


def test_outlines_without_a_shape_or_a_rating_are_left_out(tmp_path):
    made = nodule_shapes(4)
    small = NoduleShape("small", "p", np.ones((1, 1, 3), bool), 1.0, made[0].ratings)
    unrated = NoduleShape("unrated", "p", made[0].outline, 1.0, {**made[0].ratings, "texture": float("nan")})
    read = read_nodule_shapes(write_shapes(tmp_path / "shapes", [*made, small, unrated]))
    assert [shape.name for shape in read] == [shape.name for shape in made]
