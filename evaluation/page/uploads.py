"""Scans that arrive from outside: a NIfTI file or a zip of DICOM files, bounded in size, count and unpacked size.

A zip's names are checked and then not used: its files are written as 00000.dcm and so on. So no name leads out of the
session's folder.
"""

import asyncio
import os
import stat
import zipfile
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import SimpleITK as sitk
from fastapi import HTTPException

from imaging.files.ct import NIFTI_SUFFIXES
from imaging.files.dicom_check import check_dicom
from imaging.files.nifti_check import check_nifti

BLOCK = 2**20
NAME_BYTES = 512  # of a zip's directory for one file, more than usual tools write
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class UploadLimits:
    """What an upload may be.

    Attributes:
        bytes: Of the body.
        files: In a zip.
        unpacked_bytes: Of a zip's files together.
        voxels: Of the scan.
        transfer_s: Time to send it, beside `bytes_per_s`.
        bytes_per_s: Slowest client that is served.
    """

    bytes: int = 2**30
    files: int = 3000
    unpacked_bytes: int = 2**31
    voxels: int = 2**28  # 1024 slices of 512 x 512
    transfer_s: float = 30.0
    bytes_per_s: float = 2.0**19

    def __post_init__(self) -> None:
        if min(self.bytes, self.files, self.unpacked_bytes, self.voxels) < 1:
            raise ValueError(f"limits of uploads {self}, expected numbers of at least 1")


def stored_name(name: str) -> str:
    """Under which name an upload is kept: only the ending of its own name counts.

    Raises: ValueError: For a kind of file that is not taken.
    """
    for suffix in (*NIFTI_SUFFIXES, ".zip"):
        if name.lower().endswith(suffix):
            return "upload.zip" if suffix == ".zip" else f"scan{suffix}"
    raise ValueError("the file's name must end in .nii.gz, .nii or .zip (a zip of the DICOM files of one series)")


async def receive(stream: AsyncIterator[bytes], path: Path, limits: UploadLimits, declared: int | None) -> None:
    """Write a request's body to a file.

    Raises: HTTPException: 413 if it is too large, 408 if it comes too slowly, 400 if it is empty.
    """
    too_large = HTTPException(413, f"the upload has more than {limits.bytes} bytes", {"Connection": "close"})
    if declared is not None and declared > limits.bytes:
        raise too_large
    received = 0
    try:
        async with asyncio.timeout(limits.transfer_s + limits.bytes / limits.bytes_per_s):
            with path.open("xb") as file:
                async for part in stream:
                    received += len(part)
                    if received > limits.bytes:
                        raise too_large
                    file.write(part)
    except TimeoutError as error:
        raise HTTPException(408, f"{received} bytes came in too long a time; send the file faster") from error
    if not received:
        raise HTTPException(400, "the upload is empty, expected a NIfTI file or a zip of DICOM files")


def unpacked(path: Path, folder: Path, limits: UploadLimits) -> None:
    """Unpack the files of a zip into a new folder.

    Raises: ValueError: If it is damaged, encrypted, holds links, names that lead elsewhere, too many files or too much.
    """
    with path.open("rb") as file:
        _check_directory(file, limits)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise ValueError(f"the zip cannot be read ({error}); is it complete?") from error
        members = [member for member in archive.infolist() if not member.is_dir()]
        if not 1 <= len(members) <= limits.files:
            raise ValueError(f"the zip holds {len(members)} files, expected 1 to {limits.files}")
        for member in members:
            _check_member(member)
        folder.mkdir()
        left = limits.unpacked_bytes
        for number, member in enumerate(members):
            try:
                left -= _write(archive, member, folder / f"{number:05}.dcm", left)
            except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OSError, zlib.error) as error:
                raise ValueError(
                    f"file {number + 1} of the zip cannot be unpacked ({error}); is it damaged?"
                ) from error


def _check_directory(file: BinaryIO, limits: UploadLimits) -> None:
    """Refuse a zip whose directory is larger than its files can need, before it is read into memory."""
    try:
        record = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # what ZipFile itself believes
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"the zip cannot be read ({error}); is it complete?") from error
    if record is None:
        raise ValueError("this is no zip file; is it complete?")
    size = record[zipfile._ECD_SIZE]  # type: ignore[attr-defined]
    if size > limits.files * NAME_BYTES:
        raise ValueError(f"the zip's directory has {size} bytes, expected at most {limits.files} files")
    file.seek(0)


def _check_member(member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in str(name) or "\0" in member.orig_filename:
        raise ValueError("the zip holds a name that leads out of its folder; expected plain relative names")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ValueError("the zip holds a link or a special file; expected plain files")
    if member.flag_bits & 1:
        raise ValueError("the zip is encrypted; send it without a password")
    if member.compress_type not in METHODS:
        raise ValueError(f"the zip uses compression method {member.compress_type}; expected stored or deflated files")


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, most: int) -> int:
    """Unpack one file, and count what really comes: a declared size may lie."""
    written = 0
    with archive.open(member) as source, path.open("xb") as target:
        while block := source.read(BLOCK):
            written += len(block)
            if written > most:
                raise ValueError("the zip unpacks to more than is taken; send the files of one series alone")
            target.write(block)
    return written


def check_voxels(path: Path, limits: UploadLimits) -> None:
    """Refuse a scan with too many voxels from its headers, before memory is taken for them.

    Raises: ValueError: If there are too many, or a file is damaged.
    """
    if path.is_file():
        check_nifti(path)
    files = [path] if path.is_file() else sorted(path.iterdir())
    voxels = 0
    for file in files:
        if path.is_dir():
            check_dicom(file)
            with file.open("rb") as opened:
                if opened.read(132)[128:] != b"DICM":
                    os.remove(file)  # a note or a picture beside the slices
                    continue
        voxels += _declared_voxels(file, "" if path.is_file() else "GDCMImageIO")
        if voxels > limits.voxels:
            raise ValueError(f"the scan has more than {limits.voxels} voxels; crop it, or use scripts/inpaint.py")


def _declared_voxels(file: Path, kind: str) -> int:
    reader = sitk.ImageFileReader()
    if kind:
        reader.SetImageIO(kind)
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return 0  # DICOM without an image; the reader of the series decides
    voxels = reader.GetNumberOfComponents()
    for size in reader.GetSize():
        voxels *= size
    return voxels
