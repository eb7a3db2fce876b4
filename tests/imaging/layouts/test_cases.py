"""Cases: the labels and the nodules of a finished set and of real scans, and what is refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from layout_factory import BOXES, OUTPUTS, OWN, SHAPE, SPACING_MM, Made, image_of, write_made, write_set

from imaging.dataset.patients import patient_of, read_patients
from imaging.files.ct import write_ct
from imaging.layouts.cases import read_case, synthetic_cases


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return write_made(tmp_path_factory.mktemp("made"))


def test_a_synthetic_case_has_its_lesions_and_the_nodules_of_its_scan_numbered_without_gaps(made):
    cases = synthetic_cases(made.synthetic, {})
    assert [case.name for case in cases] == [f"synthetic_{output}" for output in OUTPUTS]
    assert [case.patient for case in cases] == list(OUTPUTS.values())
    ct, labels, nodules = read_case(cases[0])
    masks = [np.zeros(SHAPE, bool) for _ in BOXES] + [OWN > 0]
    for mask, box in zip(masks, BOXES.values(), strict=False):
        mask[box] = True
    assert ct is None and [nodule.label for nodule in nodules] == [1, 2, 3]
    array = sitk.GetArrayFromImage(labels)
    for nodule, mask in zip(nodules, masks, strict=True):
        np.testing.assert_array_equal(array == nodule.label, mask)
        indices = np.argwhere(mask)
        assert list(nodule.box_zyx) == [*indices.min(0), *indices.max(0) + 1]
        center = labels.TransformContinuousIndexToPhysicalPoint(indices.mean(0)[::-1])
        assert nodule.center_mm == pytest.approx(center)
        assert nodule.volume_mm3 == pytest.approx(mask.sum() * np.prod(SPACING_MM), rel=1e-6)
    assert [nodule.synthetic for nodule in nodules] == [True, True, False]
    assert nodules[2].source == "a.nii.gz: nodule 1" and nodules[0].requested == {"texture": 4.0}


def test_a_real_case_has_the_nodules_that_its_file_names_or_none(made):
    first, second = (case for case in made.cases() if not case.synthetic)
    assert (first.scan, second.scan) == ("a.nii.gz", "sub/b.nii.gz")
    ct, labels, nodules = read_case(first)
    assert ct is not None and ct.GetSize() == SHAPE[::-1]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), OWN)
    assert [(nodule.source, nodule.synthetic) for nodule in nodules] == [("a.nii.gz: nodule 1", False)]
    assert read_case(second).nodules == []


def test_a_set_that_is_not_finished_holds_crops_or_other_labels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest.parquet; run scripts/synthesize.py to its end first"):
        synthetic_cases(tmp_path, {})
    write_set(tmp_path / "crops", "crops")
    with pytest.raises(ValueError, match=r"000000/ct.nii.gz: no such file; .*make the set with --write scans or both"):
        synthetic_cases(tmp_path / "crops", {})
    write_set(tmp_path / "set")
    write_ct(image_of(OWN), tmp_path / "set/scans/000001/lesions.nii.gz")
    with pytest.raises(ValueError, match=r"000001/lesions.nii.gz: labels \[1\], expected those of the manifest"):
        read_case(synthetic_cases(tmp_path / "set", {})[1])


def test_the_patient_is_a_code_of_the_dicom_patient_the_scan_or_what_a_table_says(made, tmp_path):
    ct_hu = np.zeros((2, 8, 8), np.int16)
    for name, patient in (("x/1", "Kowalska"), ("x/2", "Kowalska"), ("y", "Nowak"), ("z", "")):
        write_dicom_series(tmp_path / name, ct_hu, PatientID=patient)
    (tmp_path / "n.nii.gz").touch()
    found = {name: patient_of(tmp_path / name, tmp_path) for name in ("x/1", "x/2", "y", "z", "n.nii.gz")}
    assert found["x/1"] == found["x/2"] != found["y"] and "Kowalska" not in str(found)
    assert (found["z"], found["n.nii.gz"]) == ("z", "n.nii.gz")
    (tmp_path / "p.csv").write_text("scan,patient\nc.nii.gz,a.nii.gz\n")
    patients = read_patients(tmp_path / "p.csv")
    named = [case.patient for case in synthetic_cases(made.synthetic, patients)]
    assert named == ["a.nii.gz", "sub/b.nii.gz", "a.nii.gz", "a.nii.gz"]
    for text, message in (
        ("scan,who\na,b\n", "columns scan, who, expected scan and patient"),
        ("scan,patient\na,\n", "line 2: scan 'a' of patient '', expected a name of each"),
        ("scan,patient\na,b\na,c\n", "line 3: scan a is of b and of c; keep one"),
    ):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(ValueError, match=rf"p.csv.* ?{message}"):
            read_patients(tmp_path / "p.csv")


def test_a_manifest_without_patients_is_read_and_its_scans_are_the_patients(tmp_path):
    write_set(tmp_path)
    table = pq.read_table(tmp_path / "manifest.parquet").drop_columns(["patient"])
    pq.write_table(table, tmp_path / "manifest.parquet")
    assert [case.patient for case in synthetic_cases(tmp_path, {})] == list(OUTPUTS.values())
