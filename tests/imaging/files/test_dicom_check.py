"""Lengths, nesting and deflated parts of DICOM files, on files of pydicom."""

import zlib

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from imaging.files.ct import read_ct
from imaging.files.dicom_check import BoundedFile, check_dicom


@pytest.fixture
def slices(tmp_path):
    ct_hu = np.random.default_rng(0).integers(-1000, 300, (3, 8, 9)).astype(np.int16)
    write_dicom_series(tmp_path / "series", ct_hu)
    return sorted((tmp_path / "series").iterdir())


def saved_as(path, syntax, little=True):
    image = pydicom.dcmread(path)
    item = Dataset()
    item.CodeValue, inner = "1", Dataset()
    inner.CodeMeaning = "inner"
    item.PurposeOfReferenceCodeSequence = Sequence([inner])
    image.SourceImageSequence = Sequence([item, item])
    image["SourceImageSequence"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = syntax
    if not little:
        pixels = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
        image.PixelData = pixels
    pydicom.dcmwrite(path, image, little_endian=little, implicit_vr=syntax == ImplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_valid_files_of_every_encoding_pass(slices, syntax):
    voxels = sitk.GetArrayFromImage(read_ct(slices[0].parent))
    for path in slices:
        check_dicom(path)
        saved_as(path, syntax, little=syntax != ExplicitVRBigEndian)
        check_dicom(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_ct(slices[0].parent)), voxels)


def test_compressed_pixels_pass(tmp_path):
    write_dicom_series(tmp_path, np.full((2, 8, 9), -700, np.int16), compressed=True)
    for path in tmp_path.iterdir():
        check_dicom(path)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_a_length_beyond_the_end_is_refused_before_memory_is_taken_for_it(slices, syntax):
    if syntax is not None:
        saved_as(slices[0], syntax)
    content = bytearray(slices[0].read_bytes())
    at = content.rindex(b"\xe0\x7f\x10\x00")
    length = at + (4 if syntax else 8)
    content[length : length + 4] = (2**31).to_bytes(4, "little")
    slices[0].write_bytes(content)
    with pytest.raises(ValueError, match=r"element \(7fe0,0010\) has 2147483648 bytes where the file has 144 left"):
        read_ct(slices[0].parent)


def test_a_deflated_file_is_unpacked_up_to_the_size_of_a_slice(slices):
    saved_as(slices[0], DeflatedExplicitVRLittleEndian)
    content = slices[0].read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    slices[0].write_bytes(content[:start] + packer.compress(bytes(2**27)) + packer.flush())
    with pytest.raises(ValueError, match="unpacks to 67108864 bytes or more"):
        read_ct(slices[0].parent)


def test_deep_nesting_is_refused(slices):
    content = slices[0].read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    level = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    slices[0].write_bytes(content[:start] + level * 2000)
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        read_ct(slices[0].parent)


def test_a_file_gives_what_it_has_where_more_is_asked_for(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    for size, expected in ((2**62, b"3456789"), (-1, b"3456789"), (None, b"3456789"), (2, b"34")):
        with BoundedFile(tmp_path / "a") as file:
            file.seek(3)
            assert file.read(size) == expected
