"""What is refused or warned about because it is no CT in Hounsfield units, whatever file it comes in."""

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series

from imaging.files.ct import read_ct
from imaging.files.hounsfield import check_hu
from imaging.phantom.chest import chest_phantom

SHAPE = (6, 20, 22)
UNIT = np.random.default_rng(0).random(SHAPE)


def chest():
    return np.where(UNIT < 0.5, -850, 40) + np.rint(20 * UNIT)


NO_HU = {
    "one value": (0 * UNIT - 1024, "every voxel is -1024, expected a chest CT in Hounsfield units"),
    "normalised": (UNIT, r"values from .* to .*, expected .* it looks normalised: undo that, or read the original"),
    "signed unit": (2 * UNIT - 1, "it looks normalised"),
    "8-bit picture": (
        np.rint(255 * UNIT),
        "values from 0 to 255, .* it looks like an 8-bit picture: read the original",
    ),
    "stored values": (chest() + 1024, "it looks like stored values: apply the rescale slope and intercept"),
}


@pytest.mark.parametrize("kind", NO_HU)
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_a_file_that_is_no_hu_is_refused_by_its_range(kind, suffix, tmp_path):
    values, message = NO_HU[kind]
    if kind == "stored values":
        values = values + 1000 * (UNIT > 0.99)  # bone
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.float32)), str(path))
    with pytest.raises(ValueError, match=f"scan{suffix}: {message}" if message[0] in "ev" else message):
        read_ct(path)


def test_a_rescale_slope_of_zero_is_named_with_its_file(tmp_path):
    write_dicom_series(tmp_path, chest(), RescaleSlope=0)
    with pytest.raises(ValueError, match=r"\.dcm: rescale slope 0, expected the factor from stored values to HU"):
        read_ct(tmp_path)


def test_a_scan_without_air_is_warned_about_and_a_crop_is_not():
    tissue = 40 + 60 * UNIT
    with pytest.warns(UserWarning, match="scan: values from .* neither lung nor air; is it a chest CT"):
        check_hu(tissue - 200, "scan")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_hu(tissue - 200, "crop", crop=True)
        check_hu(0 * tissue, "crop", crop=True)
    with pytest.raises(ValueError, match=r"crop: .* it looks normalised"):
        check_hu(UNIT, "crop", crop=True)


def test_chests_pass_also_clipped_or_with_a_scanners_padding():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ct_hu in (chest(), chest().clip(-1000, 400), np.where(UNIT < 0.2, -3024, chest())):
            check_hu(ct_hu, "scan")
        check_hu(chest_phantom((24, 40, 40), (8.0, 8.0, 8.0)).ct_hu, "phantom")


@pytest.mark.real_data
def test_real_scans_and_crops_pass(real_data_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_ct(real_data_dir / "lidc_dicom/LIDC-IDRI-0001")
        read_ct(real_data_dir / "whole_ct/LIDC-IDRI-0002_ct.nii.gz")
        for folder in ("nodules_iso51", "nodules_native"):
            for path in sorted((real_data_dir / folder).glob("*_ct.nii.gz"))[::40]:
                read_ct(path, crop=True)
