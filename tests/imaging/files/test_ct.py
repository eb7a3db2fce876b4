from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series

from imaging.files.ct import read_ct, read_mask, write_ct

SHAPE = (4, 5, 6)
COSINE, SINE = np.cos(0.3), np.sin(0.3)
OBLIQUE = (COSINE, SINE, 0.0, 0.0, 0.0, -1.0)  # a coronal stack, turned


def make_ct(dtype=np.int16, direction=None):
    ct_hu = np.random.default_rng(0).integers(-2000, 3000, SHAPE).astype(dtype)
    image = sitk.GetImageFromArray(ct_hu)
    image.SetSpacing((0.6123, 0.7, 2.5))
    image.SetOrigin((-123.456, 78.9, -310.25))
    image.SetDirection(direction or (COSINE, -SINE, 0, SINE, COSINE, 0, 0, 0, 1))
    return image, ct_hu


@pytest.fixture
def ct_hu():
    return np.random.default_rng(0).integers(-2048, 3000, SHAPE).astype(np.int16)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE])
def test_a_dicom_series_is_read_in_hounsfield_units_with_its_geometry(tmp_path, ct_hu, orientation):
    write_dicom_series(tmp_path, ct_hu, (2.5, 0.7, 0.6), origin_xyz_mm=(-10, 20, 30), orientation=orientation)
    image = read_ct(tmp_path)
    assert image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ct_hu)
    np.testing.assert_allclose(image.GetSpacing(), (0.6, 0.7, 2.5), rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), (-10, 20, 30))
    normal = np.cross(orientation[:3], orientation[3:])
    axes = np.stack([orientation[:3], orientation[3:], normal], axis=1)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), axes, atol=1e-6)


def test_a_slope_with_fractions_gives_float_hounsfield_units(tmp_path):
    ct_hu = np.arange(120).reshape(SHAPE) * 0.5 - 1000
    write_dicom_series(tmp_path, ct_hu, slope=0.5, intercept=-1000)
    image = read_ct(tmp_path)
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ct_hu)


def test_a_series_is_found_in_nested_folders_and_joined_across_them(tmp_path, ct_hu):
    uid = write_dicom_series(tmp_path / "a" / "b", ct_hu, left_out=[2, 3])
    write_dicom_series(tmp_path / "a" / "c", ct_hu, series_uid=uid, left_out=[0, 1])
    (tmp_path / "notes.xml").write_text("<no-dicom/>")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(tmp_path)), ct_hu)


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path, ct_hu):
    first = write_dicom_series(tmp_path / "a", ct_hu, description="sharp")
    second = write_dicom_series(tmp_path / "b", ct_hu[:3] + 1, description="soft")
    with pytest.raises(ValueError, match="2 series, name one as series_uid") as error:
        read_ct(tmp_path)
    assert f"{first} (CT, sharp, 4 slices)" in str(error.value)
    assert f"{second} (CT, soft, 3 slices)" in str(error.value)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(tmp_path, second)), ct_hu[:3] + 1)
    with pytest.raises(ValueError, match=r"no series 1\.2\.3; found: .*sharp"):
        read_ct(tmp_path, "1.2.3")


def test_localizers_and_other_modalities_beside_the_ct_are_passed_over(tmp_path, ct_hu):
    write_dicom_series(tmp_path, ct_hu)
    write_dicom_series(tmp_path, ct_hu[:2], image_type="LOCALIZER")
    write_dicom_series(tmp_path, ct_hu[:2], modality="PT")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(tmp_path)), ct_hu)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "MR"}, "modality MR, expected CT"),
        ({"left_out": [2]}, r"missing or unequally spaced slices: 1 distances .* 42\.50 to 47\.50 mm \(5\.00 mm\)"),
        (
            {"doubled": [1, 2]},
            r"2 doubled slice positions: 42\.50 mm \(.*_1_\d_\d+\.dcm, .*_1_\d_\d+\.dcm\), 45\.00 mm",
        ),
        ({"shift_per_slice_mm": (0, 1.2, 0)}, r"shift sideways by 4\.80 mm .* tilted gantry"),
        ({"colour": True}, "colour image"),
        ({"left_out": [1, 2, 3, 4]}, "single slice, expected a volume"),
    ],
)
def test_a_series_that_is_no_regular_ct_volume_is_refused(tmp_path, options, message):
    ct_hu = np.zeros((5, 6, 7))
    write_dicom_series(tmp_path, ct_hu, **options)
    with pytest.raises(ValueError, match=message):
        read_ct(tmp_path)


def test_slices_of_another_size_or_orientation_are_named(tmp_path, ct_hu):
    uid = write_dicom_series(tmp_path / "a", ct_hu, left_out=[3])
    write_dicom_series(tmp_path / "b", ct_hu[:, :4], series_uid=uid, left_out=[0, 1, 2])
    with pytest.raises(ValueError, match=r"021_3_0_\d+\.dcm: \(6, 4\) pixels .* has \(6, 5\)"):
        read_ct(tmp_path)


def test_rounded_slice_positions_are_accepted_and_do_not_add_up(tmp_path, ct_hu):
    uid = write_dicom_series(tmp_path, ct_hu, left_out=[1])
    shifted = (-100.0, -80.0, 40.04)
    write_dicom_series(tmp_path, ct_hu, series_uid=uid, origin_xyz_mm=shifted, left_out=[0, 2, 3])
    image = read_ct(tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ct_hu)
    np.testing.assert_allclose(image.GetSpacing(), (0.7, 0.7, 2.5), rtol=1e-6)


def test_a_missing_path_and_a_folder_without_dicom_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="absent: no such file or folder"):
        read_ct(tmp_path / "absent")
    with pytest.raises(ValueError, match="no DICOM image series here or in the folders below"):
        read_ct(tmp_path)
    (tmp_path / "scan.txt").write_text("HU")
    with pytest.raises(ValueError, match=r"scan.txt: expected \.nii\.gz, .* the folder that holds the whole series"):
        read_ct(tmp_path / "scan.txt")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_file_that_is_cut_off_is_named(tmp_path, suffix, dtype):
    path = tmp_path / f"ct{suffix}"
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 100, (20, 30, 40)).astype(dtype))
    sitk.WriteImage(image, str(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"ct\{suffix}: (cut off|cannot be read as an image)"):
        read_ct(path)


def test_files_that_are_no_nifti_are_named(tmp_path):
    for name, content in (("a.nii.gz", b"\x1f\x8b\x08 and no more"), ("b.nii", b"hello"), ("c.nii", b"\0" * 9000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as an image"):
            read_ct(tmp_path / name)


def test_a_dicom_slice_that_is_cut_off_is_named(tmp_path, ct_hu):
    write_dicom_series(tmp_path / "series", ct_hu)
    last = next((tmp_path / "series").glob("*_3_0_*"))
    last.write_bytes(last.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{last.name}: CT slice that cannot be read"):
        read_ct(tmp_path / "series")


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((4, 5), np.float32), {}, r"2D image of size \(5, 4\), expected a 3D volume"),
        (np.zeros((2, 3, 4, 5), np.float32), {"isVector": False}, "4D image"),
        (np.zeros((3, 4, 5, 3), np.float32), {"isVector": True}, r"\(colour\), expected one number per voxel"),
    ],
)
def test_files_that_are_no_finite_scalar_volume_are_refused(tmp_path, array, options, message):
    path = tmp_path / "ct.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(array, **options), str(path))
    with pytest.raises(ValueError, match=message):
        read_ct(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_written_ct_is_read_back_equal_in_values_type_and_geometry(tmp_path, suffix, dtype):
    image, ct_hu = make_ct(dtype)
    path = tmp_path / "new" / "folder" / f"ct{suffix}"
    write_ct(image + (0.5 if dtype == np.float32 else 0), path)
    back = read_ct(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), ct_hu + (0.5 if dtype == np.float32 else 0))
    assert back.GetPixelID() == image.GetPixelID()
    for ours, theirs in (
        (back.GetSpacing(), image.GetSpacing()),
        (back.GetOrigin(), image.GetOrigin()),
        (back.GetDirection(), image.GetDirection()),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_whole_numbers_in_a_wider_type_become_int16_when_they_fit(tmp_path):
    image, ct_hu = make_ct(np.float64)
    write_ct(image, tmp_path / "fits.mha")
    assert read_ct(tmp_path / "fits.mha").GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(tmp_path / "fits.mha")), ct_hu)
    write_ct(image * 100, tmp_path / "wide.mha")
    assert read_ct(tmp_path / "wide.mha").GetPixelID() == sitk.sitkFloat32


def test_a_type_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ct\.dcm: cannot write this type, expected \.nii\.gz"):
        write_ct(make_ct()[0], tmp_path / "ct.dcm")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(image, path, **_):
        Path(path).touch()
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_ct(make_ct()[0], tmp_path / "ct.mha")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voxels_that_are_not_finite_are_counted_and_refused(tmp_path, suffix, dtype):
    ct_hu = np.zeros(SHAPE, dtype)
    ct_hu[0, 1, 2:4] = np.nan, np.inf
    sitk.WriteImage(sitk.GetImageFromArray(ct_hu), str(tmp_path / f"ct{suffix}"))
    with pytest.raises(ValueError, match="2 voxels are NaN or infinite"):
        read_ct(tmp_path / f"ct{suffix}")


def test_a_mask_is_binarised_and_takes_the_geometry_of_its_ct(tmp_path):
    image, ct_hu = make_ct()
    labels = sitk.GetImageFromArray((ct_hu > 0) * np.int16(3))
    labels.CopyInformation(image)
    sitk.WriteImage(labels, str(tmp_path / "mask.nii.gz"))
    mask_image = read_mask(tmp_path / "mask.nii.gz", image)
    assert mask_image.GetPixelID() == sitk.sitkUInt8 and mask_image.GetOrigin() == image.GetOrigin()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask_image), ct_hu > 0)


def test_a_mask_that_does_not_fit_its_ct_is_refused(tmp_path):
    image, ct_hu = make_ct()
    path = tmp_path / "mask.nii.gz"
    with pytest.raises(ValueError, match=r"mask\.nii\.gz: no such mask file"):
        read_mask(path)
    labels = sitk.GetImageFromArray(np.uint8(ct_hu > 0))
    labels.SetSpacing(image.GetSpacing())
    sitk.WriteImage(labels, str(path))
    with pytest.raises(ValueError, match=r"mask\.nii\.gz: its corners lie up to .* mm from the CT's"):
        read_mask(path, image)
    sitk.WriteImage(labels[:, :, 1:], str(path))
    with pytest.raises(ValueError, match=r"\(3, 5, 6\) voxels \(z, y, x\), but the CT has \(4, 5, 6\)"):
        read_mask(path, image)
    sitk.WriteImage(labels * 0, str(path))
    with pytest.raises(ValueError, match="the mask is empty"):
        read_mask(path)


@pytest.mark.real_data
def test_a_real_series_equals_what_pydicom_reads(real_data_dir):
    folder = real_data_dir / "lidc_dicom" / "LIDC-IDRI-0001"
    slices = [pydicom.dcmread(file) for file in folder.rglob("*.dcm")]
    slices.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    ct_hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    image = read_ct(folder)
    assert image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ct_hu)
    np.testing.assert_allclose(image.GetOrigin(), slices[0].ImagePositionPatient)
    z_mm = [float(header.ImagePositionPatient[2]) for header in slices]
    np.testing.assert_allclose(image.GetSpacing(), (*slices[0].PixelSpacing, np.diff(z_mm).mean()), rtol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-9)
