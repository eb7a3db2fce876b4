"""Hostile and broken uploads: each is refused in one sentence, leaves no file, and the session still takes a scan."""

import gzip
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from page_client import Client

from evaluation.page.uploads import UploadLimits

LIMITS = UploadLimits(bytes=2**20, files=20, unpacked_bytes=2**21, voxels=40_000)


def nifti(tmp_path, shape=(10, 12, 14), kind=np.int16, suffix=".nii.gz") -> bytes:
    ct_hu = np.full(shape, -1000, kind)
    ct_hu[tuple(slice(size // 4, size // 2) for size in shape)] = 40
    image = sitk.GetImageFromArray(ct_hu)
    path = tmp_path / f"made{suffix}"
    sitk.WriteImage(image, str(path))
    return path.read_bytes()


def patched(content: bytes, offset: int, kind: str, value: float) -> bytes:
    """A plain NIfTI header with another number."""
    changed = bytearray(content)
    struct.pack_into(kind, changed, offset, value)
    return bytes(changed)


def plain(tmp_path) -> bytes:
    return nifti(tmp_path, suffix=".nii")


def packed(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content, method)
    return file.getvalue()


def special(kind: int, content: bytes = b"/etc/passwd") -> bytes:
    member = zipfile.ZipInfo("link.dcm")
    member.external_attr = (kind | 0o777) << 16
    return packed((member, content))


def slices(tmp_path, name: str = "dicom", shape=(4, 20, 22), **options) -> list[tuple[str, bytes]]:
    folder = tmp_path / name
    write_dicom_series(folder, np.full(shape, -1000.0), **options)
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def flagged(content: bytes, flag: int) -> bytes:
    """A zip whose entries have another flag in both headers."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(signature)
        struct.pack_into("<H", changed, at + offset, flag)
    return bytes(changed)


def long_directory(tmp_path) -> bytes:
    return packed(*((f"{number}.dcm".rjust(200, "x"), b"") for number in range(300)))


def lying_size(tmp_path) -> bytes:
    """Declares one byte and unpacks to four megabytes."""
    changed = bytearray(packed(("a.dcm", bytes(2**22))))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", changed, changed.find(signature) + offset, 1)
    return bytes(changed)


def overlapping(tmp_path) -> bytes:
    """Twenty directory entries of one stored file, as in a zip bomb without recursion."""
    one = packed(("a.dcm", bytes(2**18)))
    start = one.find(b"PK\x01\x02")
    end = one.find(b"PK\x05\x06")
    entry, tail = one[start:end], bytearray(one[end:])
    struct.pack_into("<HHI", tail, 8, 20, 20, 20 * len(entry))
    return one[:start] + 20 * entry + bytes(tail)


HOSTILE: dict[str, tuple[str, Callable, str]] = {
    "no_suffix": ("scan", plain, "must end in"),
    "other_suffix": ("scan.exe", plain, "must end in"),
    "path_in_name": ("../../scan.png", plain, "must end in"),
    "empty": ("a.nii", lambda p: b"", "the upload is empty"),
    "too_large": ("a.nii", lambda p: bytes(2**20 + 1), "has more than"),
    "text": ("a.nii", lambda p: b"hello" * 200, "no NIfTI header"),
    "not_gzip": ("a.nii.gz", lambda p: b"hello" * 200, "cannot be read as an image"),
    "cut_gzip": ("a.nii.gz", lambda p: nifti(p)[:-20], "cannot be read as an image"),
    "cut_nifti": ("a.nii", lambda p: plain(p)[:-9], "cut off"),
    "gzip_bomb": ("a.nii.gz", lambda p: gzip.compress(plain(p) + bytes(2**26)), "goes on after"),
    "huge_dimensions": ("a.nii", lambda p: patched(plain(p), 42, "<h", 32767), "cut off"),
    "negative_dimensions": ("a.nii", lambda p: patched(plain(p), 42, "<h", -3), "no image"),
    "many_dimensions": ("a.nii", lambda p: patched(plain(p), 40, "<h", 99), "no image"),
    "voxels_far_away": ("a.nii", lambda p: patched(plain(p), 108, "<f", 1e9), "cut off"),
    "too_many_voxels": ("a.nii.gz", lambda p: nifti(p, (60, 60, 60)), "has more than 40000 voxels"),
    "not_finite": ("a.nii", lambda p: nifti(p, kind=np.float32, suffix=".nii")[:-4] + b"\0\0\xc0\x7f", "NaN"),
    "no_hu": ("a.nii.gz", lambda p: gzip.compress(plain(p)[:352] + bytes(2 * 10 * 12 * 14)), "Hounsfield"),
    "two_dimensions": ("a.nii.gz", lambda p: nifti(p, (12, 14)), "2"),
    "zip_of_text": ("a.zip", lambda p: b"PK" + b"hello" * 99, "no zip"),
    "cut_zip": ("a.zip", lambda p: packed(*slices(p))[:-30], "zip"),
    "empty_zip": ("a.zip", lambda p: packed(), "holds 0 files"),
    "many_files": ("a.zip", lambda p: packed(*((f"{n}.dcm", b"") for n in range(21))), "holds 21 files"),
    "long_directory": ("a.zip", long_directory, "directory has"),
    "traversal": ("a.zip", lambda p: packed(("../../evil.dcm", b"x")), "leads out of its folder"),
    "traversal_windows": ("a.zip", lambda p: packed(("..\\evil.dcm", b"x")), "leads out of its folder"),
    "absolute": ("a.zip", lambda p: packed(("/etc/evil.dcm", b"x")), "leads out of its folder"),
    "drive": ("a.zip", lambda p: packed(("C:evil.dcm", b"x")), "leads out of its folder"),
    "symlink": ("a.zip", lambda p: special(stat.S_IFLNK), "a link or a special file"),
    "device": ("a.zip", lambda p: special(stat.S_IFCHR), "a link or a special file"),
    "pipe": ("a.zip", lambda p: special(stat.S_IFIFO), "a link or a special file"),
    "encrypted": ("a.zip", lambda p: flagged(packed(("a.dcm", b"x")), 1), "encrypted"),
    "lzma": ("a.zip", lambda p: packed(("a.dcm", b"x"), method=zipfile.ZIP_LZMA), "compression method 14"),
    "zip_bomb": ("a.zip", lambda p: packed(("a.dcm", bytes(2**22))), "unpacks to more"),
    "lying_size": ("a.zip", lying_size, "the zip"),
    "overlapping": ("a.zip", overlapping, "the zip"),
    "nested_zip": ("a.zip", lambda p: packed(("a.zip", packed(*slices(p)))), "no DICOM"),
    "no_dicom": ("a.zip", lambda p: packed(("a.dcm", b"hello" * 99)), "no DICOM"),
    "cut_slice": ("a.zip", lambda p: packed(*((n, c[:-99]) for n, c in slices(p))), "is it complete"),
    "missing_slice": ("a.zip", lambda p: packed(*slices(p, left_out=(2,), shape=(6, 20, 22))), "slices"),
    "two_series": ("a.zip", lambda p: packed(*slices(p), *(("b" + n, c) for n, c in slices(p, "b"))), "series"),
    "magnetic_resonance": ("a.zip", lambda p: packed(*slices(p, modality="MR")), "MR"),
    "too_many_slices": ("a.zip", lambda p: packed(*slices(p, shape=(8, 80, 80))), "has more than 40000 voxels"),
}


@pytest.fixture(scope="module")
def url(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    with served(folder, LIMITS, most=1000) as address:
        yield address, folder


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_upload_is_refused_and_leaves_nothing(kind, url, tmp_path):
    name, make, message = HOSTILE[kind]
    address, folder = url
    client = Client(address)
    answer = client.upload(name, make(tmp_path))
    detail = answer.json()["detail"]
    assert answer.status_code in (400, 413) and message in detail, detail
    assert str(folder) not in detail and "\n" not in detail
    session = folder / client.session
    assert sorted(path.name for path in session.iterdir()) == ["results", "used"]
    assert not list(folder.parent.glob("evil*")) and not list(folder.glob("evil*"))


def test_after_a_refusal_the_session_takes_a_scan_and_then_no_other(url, tmp_path):
    address, _ = url
    client = Client(address)
    assert client.upload("a.zip", b"PK").status_code == 400
    about = client.upload("a.nii.gz", nifti(tmp_path, (20, 24, 26))).json()
    assert about["shape"] == [20, 24, 26] and not about["has_lung"]
    assert "no lung was found" in client.send("POST", "/site", json={"diameter_mm": 9}).json()["detail"]
    assert client.upload("a.nii.gz", nifti(tmp_path)).status_code == 409


@pytest.mark.parametrize(
    ("origin", "size", "content", "status"),
    [
        ("0,0,0", "2,2,99", bytes([1]) * 396, 400),
        ("-1,0,0", "2,2,2", bytes([1]) * 8, 422),
        ("0,0,0", "2,2,2", bytes([1]) * 7, 400),
        ("0,0,0", "2,2,2", bytes([1]) * 9, 413),
        ("0,0,0", "2,2,2", bytes(8), 400),
        ("0,0,0", "2,2,2", bytes([2]) * 8, 400),
        ("0,0,0", "0,2,2", b"", 400),
        ("0,0", "2,2,2", bytes([1]) * 8, 422),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(origin, size, content, status, url, tmp_path):
    client = Client(url[0])
    client.upload("a.nii.gz", nifti(tmp_path))
    answer = client.send("PUT", "/masks", params={"origin": origin, "size": size}, data=content)
    assert answer.status_code == status and isinstance(answer.json()["detail"], str)


def test_a_body_without_end_is_cut_off(url):
    def endless():
        while True:
            yield zlib.compress(b"x") * 1000

    client = Client(url[0])
    try:
        answer = client.send("PUT", "/scan", params={"name": "a.nii"}, data=endless())
        assert answer.status_code == 413
    except requests.ConnectionError:
        pass  # the server may close before the client has read the answer
    assert client.send("GET", "").json()["scan"] is None
