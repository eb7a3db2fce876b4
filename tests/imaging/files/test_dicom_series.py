"""A derived series holds the CT to the bit for every reader, says that it is synthetic, and hides whose it was."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from imaging.files.ct import find_dicom_slices, read_ct, read_dicom_slices, write_ct
from imaging.files.dicom_series import on_stored_steps, read_headers
from imaging.files.dicom_series import write_dicom_series as write_derived

SHAPE = (4, 6, 8)
COSINE, SINE = np.cos(0.3), np.sin(0.3)
OBLIQUE = (COSINE, SINE, 0.0, 0.0, 0.0, -1.0)  # a coronal stack, turned
PAINTED = (slice(1, 3), slice(2, 5), slice(3, 6))
TEXT = "Painted for a test"
CASES = {
    "signed": {},
    "padded": {"PixelPaddingValue": -2000, "orientation": OBLIQUE},
    "unsigned": {"unsigned_bits": 12},
    "offset": {"unsigned_bits": 16, "intercept": -8192.0, "orientation": OBLIQUE},
    "steps of two": {"slope": 2.0, "intercept": -1000.0},
    "half steps": {"slope": 0.5, "intercept": -1000.25, "orientation": OBLIQUE},
    "tenth steps": {"slope": 0.1, "intercept": -1000.0},
    "compressed": {"compressed": True, "unsigned_bits": 12},
}
NAME, NUMBER, STREET, HOSPITAL, DAY = "Kowalska", "PID-77310", "Lipowa", "Szpital-Miejski", "19871203"


def scan_hu(name: str) -> np.ndarray:
    """Values that the case can store, from below air to metal."""
    rng = np.random.default_rng(0)
    options = CASES[name]
    low, high = (0, 2 ** options["unsigned_bits"] - 1) if "unsigned_bits" in options else (-900, 4000)
    return rng.integers(low, high, SHAPE, endpoint=True) * options.get("slope", 1.0) + options.get("intercept", -1024)


def edit(folder: Path, change: Callable[[Dataset, int], None]) -> None:
    """Change every file of a series; gets the dataset and the slice's number."""
    for path in folder.glob("*.dcm"):
        header = pydicom.dcmread(path)
        change(header, int(header.InstanceNumber) - 1)
        header.save_as(path)


def identify(header: Dataset, index: int) -> None:
    """Put a patient wherever one has been seen: standard, nested, private and overlay attributes."""
    header.PatientName, header.PatientID = f"{NAME}^Anna", NUMBER
    header.PatientBirthDate, header.StudyDate, header.AcquisitionDate = DAY, DAY, DAY
    header.OtherPatientIDs, header.PatientAddress, header.AccessionNumber = NUMBER, STREET, NUMBER
    header.InstitutionName, header.StationName, header.OperatorsName = HOSPITAL, HOSPITAL, NAME
    header.ReferringPhysicianName = header.PerformingPhysicianName = NAME
    header.StudyDescription = header.SeriesDescription = header.ProtocolName = f"Thorax {NAME}"
    header.ImageComments, header.DeviceSerialNumber = f"{NAME}, {NUMBER}", HOSPITAL
    request = Dataset()
    request.RequestedProcedureDescription = f"CT {NAME}"
    header.RequestAttributesSequence = [request]
    block = header.private_block(0x0011, "MAKER 1.0", create=True)
    block.add_new(1, "LO", NAME)
    header.add_new(0x60003000, "OW", NAME.encode())
    header.add_new(0x60000022, "LO", NUMBER)


def read(folder: Path) -> tuple[sitk.Image, list[Dataset]]:
    files = find_dicom_slices(folder)
    ct = read_dicom_slices(files)
    return ct, read_headers(files, ct)


def painted(ct: sitk.Image) -> sitk.Image:
    """Something in the middle, in HU that no case stores exactly."""
    array = sitk.GetArrayFromImage(ct)
    array[PAINTED] = np.random.default_rng(1).uniform(-700, 100, array[PAINTED].shape)
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(ct)
    return image


def derived(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


@pytest.fixture
def source(tmp_path) -> Path:
    """A series with a patient in every corner."""
    write_dicom_series(tmp_path / "source", scan_hu("signed"))
    edit(tmp_path / "source", identify)
    return tmp_path / "source"


@pytest.mark.parametrize("name", CASES)
def test_a_derived_series_is_the_nifti_output_for_simpleitk_pydicom_and_highdicom(name, tmp_path):
    write_dicom_series(tmp_path / "source", scan_hu(name), (2.5, 0.7, 0.6), **CASES[name])
    edit(tmp_path / "source", lambda header, index: move(header, 0.04 * (index == 1)))
    ct, headers = read(tmp_path / "source")
    result = on_stored_steps(painted(ct), headers)
    write_derived(result, headers, tmp_path / "out", TEXT)
    write_ct(result, tmp_path / "ct.nii.gz")
    expected = sitk.GetArrayFromImage(read_ct(tmp_path / "ct.nii.gz"))
    changed = sitk.GetArrayFromImage(ct)
    changed[PAINTED] = expected[PAINTED]
    np.testing.assert_array_equal(changed, expected)
    assert (expected != sitk.GetArrayFromImage(ct)).mean() > 0.8 * 18 / expected.size

    back = read_ct(tmp_path / "out")
    assert back.GetPixelID() == result.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), expected)
    for ours, theirs in zip(geometry(back), geometry(ct), strict=True):
        assert ours == theirs
    files = derived(tmp_path / "out")
    hu = np.stack([file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept) for file in files])
    np.testing.assert_array_equal(hu.astype(expected.dtype), expected)
    volume = hd.get_volume_from_series([hd.imread(path) for path in (tmp_path / "out").glob("*")], rtol=0.1)
    first = [volume.map_indices_to_reference(np.array([[k, 0, 0]]))[0] for k in range(len(files))]
    order = np.argsort(np.array(first) @ np.array(ct.GetDirection())[2::3])
    np.testing.assert_array_equal(volume.array[order].astype(expected.dtype), expected)


def move(header: Dataset, mm: float) -> None:
    """Further along the stack, as rounded positions are."""
    rows, columns = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
    place = np.array(header.ImagePositionPatient, float) + mm * np.cross(rows, columns)
    header.ImagePositionPatient = [f"{x:.6f}" for x in place]


def geometry(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("name", CASES)
def test_stored_values_outside_what_was_painted_are_those_of_the_source_file(name, tmp_path):
    write_dicom_series(tmp_path / "source", scan_hu(name), **CASES[name])
    ct, headers = read(tmp_path / "source")
    write_derived(on_stored_steps(painted(ct), headers), headers, tmp_path / "out", TEXT)
    sources = sorted(derived(tmp_path / "source"), key=lambda header: header.InstanceNumber)
    outside = np.ones(SHAPE, bool)
    outside[PAINTED] = False
    for before, after, kept in zip(sources, derived(tmp_path / "out"), outside, strict=True):
        np.testing.assert_array_equal(after.pixel_array[kept], before.pixel_array[kept])
        assert after.pixel_array.dtype == before.pixel_array.dtype
        for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope"):
            assert after[keyword].value == before[keyword].value
        for keyword in ("RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert after[keyword].value == before[keyword].value
        assert after.FrameOfReferenceUID == before.FrameOfReferenceUID
        assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID


def test_each_slice_is_stored_by_its_own_rescale(tmp_path):
    ct_hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE)
    write_dicom_series(tmp_path / "source", ct_hu)

    def shift(header: Dataset, index: int) -> None:
        header.PixelData = (header.pixel_array - 100 * index).astype(np.int16).tobytes()
        header.RescaleIntercept += 100 * index

    edit(tmp_path / "source", shift)
    ct, headers = read(tmp_path / "source")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ct), ct_hu)
    write_derived(ct, headers, tmp_path / "out", TEXT)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(tmp_path / "out")), ct_hu)
    assert [int(file.RescaleIntercept) for file in derived(tmp_path / "out")] == [-1024, -924, -824, -724]


def test_a_padding_value_written_as_unsigned_is_that_of_the_signed_pixels(tmp_path):
    ct_hu = scan_hu("signed")
    ct_hu[:, 0] = -2000 - 1024
    write_dicom_series(tmp_path / "source", ct_hu)
    edit(tmp_path / "source", lambda header, index: header.add_new("PixelPaddingValue", "US", 63536) or None)
    ct, headers = read(tmp_path / "source")
    write_derived(ct, headers, tmp_path / "out", TEXT)
    for file in derived(tmp_path / "out"):
        assert file["PixelPaddingValue"].VR == "SS" and (file.pixel_array[0] == file.PixelPaddingValue).all()


def test_hu_between_and_beyond_the_stored_steps_go_to_the_nearest_and_the_last(tmp_path):
    write_dicom_series(tmp_path, scan_hu("unsigned"), unsigned_bits=12, slope=2.0, intercept=-1024.0)
    ct, headers = read(tmp_path)
    asked = sitk.Cast(painted(ct), sitk.sitkFloat32)
    asked[0, 0, 0], asked[1, 0, 0] = -3000.0, 9000.0
    got = sitk.GetArrayFromImage(on_stored_steps(asked, headers))
    inside = sitk.GetArrayFromImage(asked)[PAINTED]
    assert np.abs(got[PAINTED] - inside).max() <= 1 and (got[PAINTED] % 2 == 0).all()
    assert got[0, 0, 0] == -1024 and got[0, 0, 1] == 2 * 4095 - 1024
    assert on_stored_steps(ct, headers) is not ct  # in steps of two all is looked at
    np.testing.assert_array_equal(sitk.GetArrayFromImage(on_stored_steps(ct, headers)), sitk.GetArrayFromImage(ct))
    with pytest.raises(
        ValueError, match=r"slice_0001\.dcm: HU that its stored values cannot hold; pass the CT through"
    ):
        write_derived(asked, headers, tmp_path / "out", TEXT)
    assert not (tmp_path / "out").exists()


def test_a_ct_in_whole_hu_that_fits_is_passed_on_as_it_is(source):
    ct, headers = read(source)
    assert on_stored_steps(ct, headers) is ct


def test_no_trace_of_the_patient_or_the_source_is_in_the_files_but_the_frame_of_reference(source, tmp_path):
    ct, headers = read(source)
    write_derived(ct, headers, tmp_path / "out", TEXT, model_sha256="ab" * 32)
    secrets = [NAME, NUMBER, STREET, HOSPITAL, DAY, "MAKER"]
    secrets += [str(headers[0][k].value) for k in ("StudyInstanceUID", "SeriesInstanceUID")]
    secrets += [str(header.SOPInstanceUID) for header in headers]
    for path in source.glob("*"):
        assert all(secret.encode() in path.read_bytes() for secret in secrets[:6])  # or the search would say nothing
    files = derived(tmp_path / "out")
    for path, file in zip(sorted((tmp_path / "out").glob("*")), files, strict=True):
        assert not [secret for secret in secrets if secret.encode() in path.read_bytes()]
        assert not [element for element in file if element.tag.is_private or element.tag.group == 0x6000]
        assert file.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
        assert file.PatientIdentityRemoved == "YES" and file.DeidentificationMethod
        assert file.PatientName == "Synthetic^Lesion" and file.PatientID.startswith("synthetic-")
        assert "" == file.StudyDate == file.PatientBirthDate == file.AccessionNumber
    assert len({file.PatientID for file in files}) == len({file.StudyInstanceUID for file in files}) == 1


def test_patients_of_different_studies_do_not_get_the_same_number(tmp_path):
    numbers = set()
    for study in ("1.2.3.1", "1.2.3.2"):
        write_dicom_series(tmp_path / study, scan_hu("signed"), study_uid=study)
        ct, headers = read(tmp_path / study)
        numbers.add(write_derived(ct, headers, tmp_path / "out", TEXT)[0].PatientID)
    assert len(numbers) == 2


def test_the_patient_is_kept_where_asked_and_the_series_joins_the_study(source, tmp_path):
    ct, headers = read(source)
    write_derived(ct, headers, tmp_path / "out", TEXT, keep_patient=True)
    for before, after in zip(headers, derived(tmp_path / "out"), strict=True):
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyInstanceUID", "StudyID"):
            assert after[keyword].value == before[keyword].value
        for keyword in ("AccessionNumber", "InstitutionName", "StudyDescription", "RequestAttributesSequence"):
            assert after[keyword].value == before[keyword].value
        assert after[0x0011, 0x1001].value == NAME and "PatientIdentityRemoved" not in after
        assert after.SeriesDescription == f"Synthetic lesion; Thorax {NAME}"
        (item,) = after.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == before.SOPInstanceUID
        assert after.SOPInstanceUID != before.SOPInstanceUID and after.SeriesInstanceUID != before.SeriesInstanceUID


@pytest.mark.parametrize("keep_patient", [False, True])
def test_every_file_says_that_it_is_derived_and_synthetic(source, tmp_path, keep_patient):
    edit(source, lambda header, index: setattr(header, "BurnedInAnnotation", "NO"))
    ct, headers = read(source)
    write_derived(ct, headers, tmp_path / "out", TEXT, keep_patient, "ab" * 32)
    files = derived(tmp_path / "out")
    for number, file in enumerate(files, 1):
        assert file.ImageType == ["DERIVED", "PRIMARY", "AXIAL"] and file.DerivationDescription == TEXT
        assert "Synthetic" in file.SeriesDescription and "Synthetic" in file.ImageComments
        item = file.ContributingEquipmentSequence[-1]
        assert item.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Synthesizing Equipment"
        assert item.Manufacturer == "lesion-diffusion" and item.DeviceSerialNumber == "ab" * 32
        assert file.InstanceNumber == number and file.SeriesNumber == 1003 and file.BurnedInAnnotation == "NO"
    assert len({file.SeriesInstanceUID for file in files}) == 1
    assert len({file.SOPInstanceUID for file in files}) == len(files)


def test_what_was_true_of_the_source_pixels_alone_is_left_out(source, tmp_path):
    def add(header: Dataset, index: int) -> None:
        header.add_new("SmallestImagePixelValue", "SS", -5)
        header.add_new("LargestImagePixelValue", "SS", 5)
        header.SeriesDate, header.ContentTime, header.InstanceCreationDate = DAY, "1200", DAY
        header.IconImageSequence = [Dataset()]

    edit(source, add)
    ct, headers = read(source)
    write_derived(ct, headers, tmp_path / "out", TEXT, keep_patient=True)
    left = (
        "SmallestImagePixelValue LargestImagePixelValue SeriesDate ContentTime InstanceCreationDate IconImageSequence"
    )
    assert not [
        keyword
        for file in derived(tmp_path / "out")
        for keyword in [*left.split(), "IconImageSequence"]
        if keyword in file
    ]


def test_the_same_call_writes_the_same_bytes_and_other_voxels_get_other_uids(source, tmp_path):
    ct, headers = read(source)
    for name in ("a", "b"):
        write_derived(ct, headers, tmp_path / name, TEXT)
    other = write_derived(painted(ct), headers, tmp_path / "other", TEXT)
    ours = write_derived(ct, headers, tmp_path / "kept", TEXT, keep_patient=True)
    for path in (tmp_path / "a").glob("*"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    series = {derived(tmp_path / "a")[0].SeriesInstanceUID, other[0].SeriesInstanceUID, ours[0].SeriesInstanceUID}
    assert len(series) == 3 and all(uid.is_valid for uid in series)


def test_headers_of_another_scan_are_refused(source, tmp_path):
    ct, headers = read(source)
    files = list(source.glob("*"))
    with pytest.raises(ValueError, match=r"and 3 more are \(8, 6, 4\) voxels \(x, y, z\), the CT \(8, 6, 3\)"):
        read_headers(files, ct[:, :, 1:])
    ct.SetOrigin([x + 5 for x in ct.GetOrigin()])
    with pytest.raises(ValueError, match=r"its slice lies 8\.66 mm from the CT's; expected the series that the CT was"):
        read_headers(files, ct)
    with pytest.raises(ValueError, match="3 headers for 4 slices, expected one for each"):
        write_derived(ct, headers[1:], tmp_path / "out", TEXT)
    del headers[2].StudyInstanceUID
    with pytest.raises(ValueError, match="no StudyInstanceUID, expected one; export it again"):
        write_derived(ct, headers, tmp_path / "out", TEXT)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy, of Debian's dicom3tools")
@pytest.mark.parametrize("keep_patient", [False, True])
@pytest.mark.parametrize("name", ["padded", "unsigned"])
def test_dciodvfy_finds_no_error_in_a_derived_slice(name, keep_patient, tmp_path):
    write_dicom_series(tmp_path / "source", scan_hu(name), **CASES[name])
    ct, headers = read(tmp_path / "source")
    write_derived(ct, headers, tmp_path / "out", TEXT, keep_patient, "ab" * 32)
    ended = subprocess.run(["dciodvfy", str(tmp_path / "out/slice_0001.dcm")], capture_output=True, text=True)
    assert "CTImage" in ended.stderr and "Error" not in ended.stderr, ended.stderr
