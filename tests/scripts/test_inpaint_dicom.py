"""A DICOM scan in gives a derived DICOM series and its segmentation, with the voxels of the NIfTI output."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from scipy.ndimage import distance_transform_edt

from foundation.config import launch, parse_config
from imaging.files.ct import read_ct, write_ct
from imaging.phantom.chest import chest_phantom, phantom_image
from scripts.inpaint import InpaintConfig
from scripts.inpaint import main as inpaint_main

NAME, NUMBER = "Kowalska", "PID-77310"
STEP_HU = 0.5  # of stored values, so that a lesion is not on it by itself


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A DICOM folder with a patient, and the voxel (z, y, x) deepest in the lung."""
    phantom = chest_phantom((40, 56, 64), (5.0, 4.0, 4.0), n_nodules=0, seed=2)
    folder = tmp_path_factory.mktemp("scan") / "dicom"
    write_dicom_series(
        folder,
        phantom.ct_hu + STEP_HU,
        phantom.spacing_mm,
        slope=STEP_HU,
        PatientName=f"{NAME}^Anna",
        PatientID=NUMBER,
        InstitutionName=NAME,
    )
    depth_mm = distance_transform_edt(phantom.lung_mask, sampling=phantom.spacing_mm)
    return folder, ",".join(str(int(index)) for index in np.unravel_index(depth_mm.argmax(), depth_mm.shape))


def inpaint(scan, chain, out: Path, *argv: object) -> Path:
    """scripts/inpaint.py in this process."""
    common = ["--ct", scan[0], "--center", scan[1], "--diameter-mm", 14, "--pipeline", chain.ldm / "pipeline"]
    common += ["--steps", 2, "--device", "cpu", "--out", out, *argv]
    launch(inpaint_main, parse_config(InpaintConfig, [*map(str, common)]))
    return out


@pytest.fixture(scope="module")
def both(scan, chain, tmp_path_factory):
    """Results in both formats."""
    return inpaint(scan, chain, tmp_path_factory.mktemp("both") / "out", "--output-format", "both")


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_ct(path))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_dicom_and_nifti_hold_the_same_voxels_and_only_the_painted_ones_changed(both, scan):
    before, after = voxels(scan[0]), voxels(both / "ct")
    np.testing.assert_array_equal(after, voxels(both / "ct.nii.gz"))
    painted = sitk.GetArrayFromImage(sitk.ReadImage(str(both / "paint_mask.nii.gz"))) > 0
    np.testing.assert_array_equal(after[~painted], before[~painted])
    assert (after[painted] != before[painted]).mean() > 0.5 and (after % STEP_HU == 0).all()
    assert set(np.unique(after[painted] % 1)) == {0, STEP_HU}
    slices = [pydicom.dcmread(path) for path in sorted((both / "ct").glob("*"))]
    hu = np.stack([file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept) for file in slices])
    np.testing.assert_array_equal(hu, after)


def test_the_segmentation_is_the_masks_on_the_derived_series(both):
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in sorted((both / "ct").glob("*"))]
    segmentation = hd.seg.segread(both / "lesions_seg.dcm")
    found = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    for number, name in enumerate(("lesion_mask", "paint_mask")):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(both / f"{name}.nii.gz")))
        np.testing.assert_array_equal(found[..., number], mask)


def test_no_file_names_the_patient(both, scan):
    assert all(NUMBER.encode() in path.read_bytes() for path in scan[0].iterdir())
    for path in both.rglob("*"):
        if path.is_file():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert NAME.encode() not in content and NUMBER.encode() not in content


def test_dicom_in_is_dicom_out_and_the_same_run_gives_the_same_files(both, scan, chain, tmp_path):
    again = inpaint(scan, chain, tmp_path / "again")
    assert names(again) == {"ct", "lesions_seg.dcm", "overview.png", "record.json"}
    for path in [both / "lesions_seg.dcm", *(both / "ct").iterdir()]:
        assert (again / path.relative_to(both)).read_bytes() == path.read_bytes()


def test_the_patient_and_nifti_alone_are_there_where_requested_for(both, scan, chain, tmp_path):
    kept = inpaint(scan, chain, tmp_path / "kept", "--keep-patient", "true")
    for path in (kept / "lesions_seg.dcm", kept / "ct/slice_0001.dcm"):
        assert pydicom.dcmread(path).PatientID == NUMBER
    nifti = inpaint(scan, chain, tmp_path / "nifti", "--output-format", "nifti")
    assert names(nifti) == {"ct.nii.gz", "lesion_mask.nii.gz", "paint_mask.nii.gz", "overview.png", "record.json"}
    np.testing.assert_array_equal(voxels(nifti / "ct.nii.gz"), voxels(both / "ct"))


def test_the_record_compares_the_noise_of_the_lesion_with_that_around_it(both):
    noise = json.loads((both / "record.json").read_text())["noise"]
    assert set(noise) == {"lesion_hu", "surroundings_hu", "ratio"} and noise["surroundings_hu"] > 0


def test_a_file_cannot_become_a_derived_series(scan, chain, tmp_path):
    path = tmp_path / "scan.nii.gz"
    write_ct(phantom_image(chest_phantom((20, 28, 32), (10.0, 8.0, 8.0), n_nodules=0, seed=2)), path)
    with pytest.raises(SystemExit, match=r"--output-format both with --ct .*scan\.nii\.gz: a derived series needs the"):
        inpaint((path, scan[1]), chain, tmp_path / "out", "--output-format", "both")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy, of Debian's dicom3tools")
def test_dciodvfy_finds_no_error(both):
    for path in (both / "lesions_seg.dcm", both / "ct/slice_0001.dcm"):
        ended = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert "Error" not in ended.stderr, ended.stderr
