import csv
import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_factory import write_dicom_series
from forked import expect, start
from huggingface_hub import snapshot_download
from lidc_factory import RATINGS, nodule, outline, roi, write_annotation

import imaging.lidc.run
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.dataset.rows import SPLITS
from imaging.lidc.scan_nodules import prepare_scan
from scripts.prepare_lidc import PrepareLidcConfig, main

SHAPE, SPACING, ORIGIN = (8, 40, 44), (2.0, 1.0, 1.0), (-20.0, -30.0, 100.0)
SIZE = 12


def add_scan(root, patient, malignancy, **dicom):
    """A tissue block with a lung and a nodule of 5 mm radius in it, marked by two readers."""
    z, y, x = np.indices(SHAPE)
    ct_hu = np.full(SHAPE, 40)
    ct_hu[(y - 20) ** 2 + (x - 22) ** 2 < 14**2] = -850
    ct_hu[:, [0, -1]] = ct_hu[:, :, [0, -1]] = -1000
    mask = ((z - 4) * 2) ** 2 + (y - 20) ** 2 + (x - 22) ** 2 <= 5**2
    ct_hu[mask] = 30
    ct_hu += np.random.default_rng(len(patient)).integers(-9, 9, SHAPE)
    uid = write_dicom_series(root / patient, ct_hu, SPACING, origin_xyz_mm=ORIGIN, PatientID=patient, **dicom)
    rois = [roi(outline(mask[k]), ORIGIN[2] + k * SPACING[0]) for k in np.flatnonzero(mask.any(axis=(1, 2)))]
    ratings = RATINGS | {"malignancy": malignancy}
    write_annotation(root / patient / "a.xml", uid, [[nodule("a", rois, ratings)], [nodule("b", rois, ratings)]])


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "archive"
    for patient, malignancy in (("A", 1), ("B", 5), ("C", 3), ("D", 2)):
        add_scan(root, patient, malignancy)
    add_scan(root, "E", 5, left_out=(3,))
    return root


def make_config(archive, out, **options):
    options = {"crop_size": SIZE, "test_share": 0.34} | options
    return PrepareLidcConfig(out=out, scans=archive, **options)


def left_out(out):
    with (out / "left_out.csv").open(newline="") as file:
        return {(row["kind"], row["patient_id"]): row["reason"] for row in csv.DictReader(file)}


def files_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_archive_becomes_a_dataset_with_reports_and_a_second_run_does_only_what_is_missing(
    archive, tmp_path, capsys
):
    out = tmp_path / "out"
    main(make_config(archive, out))
    rows = {}
    for split in SPLITS:
        dataset = load_nodules(out / "dataset", split)
        rows |= {dataset[i]["patient_id"]: read_nodule(dataset, i) for i in range(len(dataset))}
    assert {patient: row["label"] for patient, row in rows.items()} == {"A": "benign", "B": "malignant", "D": "benign"}
    assert sorted(row["split"] for row in rows.values()) == ["test", "train", "validation"]
    assert rows["A"]["source"] == "LIDC-IDRI" and rows["A"]["readers"] == 2 and rows["A"]["scan_id"]
    assert json.loads(rows["B"]["reader_ratings"])["malignancy"] == [5, 5]
    assert rows["A"]["semantic_map"].shape == (SIZE,) * 3 and len(np.unique(rows["A"]["semantic_map"])) > 1

    reasons = left_out(out)
    assert set(reasons) == {("nodule", "C"), ("scan", "E")}
    assert "lies between 2 and 4" in reasons["nodule", "C"] and "missing or unequally" in reasons["scan", "E"]
    card, page = (out / "README.md").read_text(), (out / "qc.html").read_text()
    assert "cc-by-3.0" in card and "| exclude_between | 2 | 1 | 1 |" in card and str(archive) not in card
    assert page.count("data:image/png;base64,") == 2 and "missing or unequally" in page
    for attribute in ("src='http", 'src="http', "href="):
        assert attribute not in page
    assert pd.read_csv(out / "scans.csv").set_index("patient_id").loc["A", "slices"] == SHAPE[0]

    splits, before = (out / "splits.csv").read_text(), files_of(out / "work")
    add_scan(archive, "F", 1)
    capsys.readouterr()
    main(make_config(archive, out, seed=5))
    assert "5 of 6 scans are done already" in capsys.readouterr().out
    after = files_of(out / "work")
    assert before.items() <= after.items() and len(after) == len(before) + 1
    assert set(splits.splitlines()) <= set((out / "splits.csv").read_text().splitlines())
    assert sum(len(load_nodules(out / "dataset", split)) for split in SPLITS) == 4


def test_the_dataset_does_not_depend_on_the_number_of_processes(archive, tmp_path):
    hashes = set()
    for workers in (1, 3):
        main(make_config(archive, tmp_path / str(workers), workers=workers, labels="keep_all"))
        card = (tmp_path / str(workers) / "README.md").read_text()
        hashes.add(next(line for line in card.splitlines() if line.startswith("SHA-256")))
    assert len(hashes) == 1


def test_laboratory_files_and_prepared_datasets_join_and_a_patient_stays_in_one_split(archive, tmp_path):
    main(make_config(archive, tmp_path / "first"))
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 9, 10), np.uint8)
    mask[2:4, 3:6, 4:7] = 1
    np.save(tmp_path / "ct.npy", rng.uniform(-1, 1, mask.shape))
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "empty.npy", 0 * mask)
    table = pd.DataFrame({"nodule": ["x", "y"], "patient_id": ["L", "M"], "ct": "ct.npy", "malignancy": 5.0})
    table = table.assign(mask=["mask.npy", "empty.npy"], spacing_z_mm=1.0, spacing_y_mm=1.0, spacing_x_mm=1.0)
    table.assign(split="test").to_csv(tmp_path / "lab.csv", index=False)
    options = {"crop_size": SIZE, "lab_table": tmp_path / "lab.csv", "lab_intensity": "signed_unit"}
    out = tmp_path / "second"
    main(PrepareLidcConfig(out=out, merge=(tmp_path / "first" / "dataset",), **options))
    merged = dict(line.split(",") for line in (out / "splits.csv").read_text().splitlines()[1:])
    first = dict(line.split(",") for line in (tmp_path / "first" / "splits.csv").read_text().splitlines()[1:])
    assert merged == first | {"L": "test"}
    assert "the lesion mask is empty" in left_out(out)["nodule", "M"]
    assert sum(len(load_nodules(out / "dataset", split)) for split in SPLITS) == 4

    test_patient = next(patient for patient, split in first.items() if split == "train")
    table.assign(split="test", patient_id=[test_patient, "M"]).to_csv(tmp_path / "lab.csv", index=False)
    with pytest.raises(ValueError, match=f"1 patients are in two splits: {test_patient}"):
        main(PrepareLidcConfig(out=tmp_path / "third", merge=(tmp_path / "first" / "dataset",), **options))


def die_on_b(scan, settings):
    if scan.patient_id == "B":
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare_scan(scan, settings)


def test_a_scan_that_kills_its_process_is_left_out_and_the_others_are_done(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(imaging.lidc.run, "prepare_scan", die_on_b)
    main(make_config(archive, tmp_path / "out", labels="keep_all", workers=2, semantic_maps=False))
    assert "the process that read it was killed" in left_out(tmp_path / "out")["scan", "B"]
    patients = {
        patient for split in SPLITS for patient in load_nodules(tmp_path / "out" / "dataset", split)["patient_id"]
    }
    assert patients == {"A", "C", "D"}


@pytest.mark.slow
def test_a_killed_run_is_continued_and_gives_the_same_dataset(archive, tmp_path):
    for patient in "GH":
        add_scan(archive, patient, 5)
    out, log = tmp_path / "out", tmp_path / "log"

    def prepare(folder: Path) -> BaseProcess:
        return start("prepare_lidc", ["--scans", archive, "--crop-size", SIZE, "--out", folder], log)

    process = prepare(out)
    while not list((out / "work").glob("[!.]*.npz")) if (out / "work").is_dir() else True:
        assert process.exitcode is None, log.read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    expect(process, log, -signal.SIGKILL)
    assert not (out / "dataset").exists() and len(list((out / "work").glob("[!.]*.npz"))) < 7
    kept = files_of(out / "work")
    for folder in (out, tmp_path / "fresh"):
        expect(prepare(folder), log)
    assert all(
        files_of(out / "work")[name] == time_ns
        for name, time_ns in kept.items()
        if name.endswith(".npz") and name[0] != "."
    )
    cards = [(folder / "README.md").read_text() for folder in (out, tmp_path / "fresh")]
    assert cards[0] == cards[1]


def test_the_old_name_of_scans_works_with_a_warning_and_not_beside_the_new_one(tmp_path, capsys):
    old = PrepareLidcConfig(out=tmp_path / "out", dicom_root=tmp_path)
    assert "warning: --dicom-root is now --scans" in capsys.readouterr().err
    assert old == PrepareLidcConfig(out=tmp_path / "out", scans=tmp_path)
    with pytest.raises(ValueError, match="--scans and --dicom-root are the same option"):
        PrepareLidcConfig(out=tmp_path / "out", dicom_root=tmp_path, scans=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scans": None}, "nothing to read"),
        ({"spacing_mm": 0.0}, "spacing_mm 0"),
        ({"consensus_level": 0.0}, "consensus_level 0"),
        ({"workers": 0}, "workers 0, expected at least 1"),
        ({"crop_size": 0}, "crop_size 0"),
        ({"test_share": 2.0}, "test_share 2"),
        ({"validation_share": -0.1}, "validation_share -0.1"),
        ({"splits": Path("none.csv")}, r"none\.csv: no such file"),
        ({"merge": (Path("none"),)}, "none: not a prepared dataset"),
    ],
)
def test_wrong_options_are_refused_before_any_file_is_read(tmp_path, options, message):
    config = {"out": tmp_path / "out", "scans": tmp_path} | options
    with pytest.raises(ValueError, match=message):
        main(PrepareLidcConfig(**config))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_written_to(archive):
    with pytest.raises(ValueError, match="is not empty and was not written by this command"):
        main(make_config(archive, archive))


def test_the_dataset_is_uploaded_as_its_files_with_its_card(archive, tmp_path, hub_server):
    main(make_config(archive, tmp_path / "out", push_to_hub="tester/nodules", semantic_maps=False))
    assert hub_server.load("datasets/tester/nodules")["private"]
    copy = Path(snapshot_download("tester/nodules", repo_type="dataset", local_dir=tmp_path / "copy"))
    assert (copy / "README.md").read_text() == (tmp_path / "out" / "README.md").read_text()
    for split in SPLITS:
        mine, other = load_nodules(tmp_path / "out" / "dataset", split), load_nodules(copy, split)
        assert mine["nodule_id"] == other["nodule_id"] and len(mine)


def test_an_upload_that_cannot_succeed_ends_the_preparation_before_it_starts(archive, tmp_path, hub_server):
    with pytest.raises(ValueError, match="repository 'nodules': expected OWNER/NAME"):
        main(make_config(archive, tmp_path / "out", push_to_hub="nodules"))
    assert not (tmp_path / "out").exists()
