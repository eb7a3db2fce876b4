"""Volumes in NIfTI, MetaImage and DICOM, with hostile versions of them."""

import gzip
import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from dicom_factory import contours_of, write_dicom_series, write_structure_set
from fuzz.made import GIB, Files, made_ct, made_image, made_mask
from fuzz.mutations import deflated_zeros

from imaging.files.ct import find_dicom_slices, read_ct, read_dicom_slices
from imaging.files.dicom_nodules import annotated_series, is_dicom_annotation, read_dicom_nodules
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import read_headers


def volume(suffix: str, dtype: type = np.int16, compressed: bool = False) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        sitk.WriteImage(made_image(made_ct().astype(dtype)), str(folder / f"ct{suffix}"), compressed)

    return make


def read_volume(folder: Path) -> None:
    read_ct(next(path for path in sorted(folder.iterdir()) if path.suffix != ".raw"), crop=True)


def make_labels(folder: Path) -> None:
    sitk.WriteImage(made_image(made_ct()), str(folder / "ct.nii"))
    sitk.WriteImage(made_image(made_mask((5, 8, 9))), str(folder / "labels.nii.gz"))


def nifti_bombs(files: Files) -> Iterator[Files]:
    (name, content), *_ = files.items()
    zipped = name.endswith(".gz")
    plain = gzip.decompress(content) if zipped else content

    def with_sizes(*sizes: int) -> bytes:
        dim = np.array([len(sizes), *sizes, *[1] * (7 - len(sizes))], "<i2").tobytes()
        return plain[:40] + dim + plain[56:]

    for sizes in ((2000, 2000, 2000), (32767, 32767, 1), (-1, 8, 5), (0, 8, 5), (9, 8, 5, 32767), (9, 8)):
        yield {name: gzip.compress(with_sizes(*sizes)) if zipped else with_sizes(*sizes)}
    if zipped:
        zeros = deflated_zeros(3 * GIB, "gzip")
        yield {name: zeros}
        yield {name: content + zeros}  # a second member
        header = gzip.compress(plain[:352])
        yield {name: header + zeros}


def metaimage_bombs(files: Files) -> Iterator[Files]:
    name = next(iter(files))
    content = files[name]
    for wanted in (
        b"DimSize = 20000 20000 20000",
        b"DimSize = 2000 2000 1000",
        b"DimSize = -9 8 5",
        b"DimSize = 9 8",
        b"DimSize = 0 0 0",
        b"DimSize = 9 8 5 4 3 2 1 1 1 1 1 1 1",
        b"NDims = 100000\nDimSize = 9 8 5",
        b"ElementNumberOfChannels = 100000000\nDimSize = 9 8 5",
        b"HeaderSize = -1\nDimSize = 9 8 5",
        b"ElementDataFile = LIST\n" + b"x.raw\n" * 1000,
        b"ElementDataFile = %s.raw 1 2000000000 1",
        b"ElementDataFile = /dev/zero",
        b"ElementDataFile = LOCAL",
    ):
        key = b"ElementDataFile" if wanted.startswith(b"ElementDataFile") else b"DimSize"
        lines = content.split(b"\n")
        yield {**files, name: b"\n".join(wanted if line.startswith(key + b" =") else line for line in lines)}
    if name.endswith("mha"):
        head = content[: content.index(b"LOCAL\n") + 6]
        bomb = deflated_zeros(3 * GIB, "zlib")
        lines = [line for line in head.split(b"\n") if not line.startswith(b"CompressedDataSize")]
        for sizes in (b"9 8 5", b"300 300 300"):
            text = b"\n".join(b"DimSize = " + sizes if line.startswith(b"DimSize") else line for line in lines)
            text = text.replace(b"CompressedData = False", b"CompressedData = True")
            size = b"CompressedDataSize = %d\nElementDataFile" % len(bomb)
            yield {name: text.replace(b"ElementDataFile", size) + bomb}
            yield {name: text + bomb}


def dicom(folder: Path, **options: Any) -> None:
    write_dicom_series(folder / "series", made_ct((3, 8, 9)), series_uid="1.2.3", **options)


def dicom_bombs(files: Files) -> Iterator[Files]:
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    name = next(name for name in sorted(files) if name.endswith(".dcm"))

    def saved(**changes: Any) -> bytes:
        image = pydicom.dcmread(io.BytesIO(files[name]))
        for keyword, value in changes.items():
            setattr(image, keyword, value)
        out = io.BytesIO()
        image.save_as(out)
        return out.getvalue()

    for rows in (0, 1, 40_000, 65_535):
        yield {**files, name: saved(Rows=rows, Columns=65_535)}
        yield files | dict.fromkeys([n for n in files if n.endswith(".dcm")], saved(Rows=rows, Columns=rows))
    yield {**files, name: saved(NumberOfFrames="2000000000")}
    yield {**files, name: saved(BitsAllocated=64, BitsStored=64)}
    yield {**files, name: saved(RescaleSlope="1e30")}
    yield {**files, name: saved(PixelSpacing=["0", "0"])}
    yield {**files, name: saved(ImagePositionPatient=["1e300", "0", "0"])}
    yield {**files, name: saved(ImageOrientationPatient=["0"] * 6)}
    image = pydicom.dcmread(io.BytesIO(files[name]))
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    out = io.BytesIO()
    image.save_as(out)
    deflated = out.getvalue()
    yield {**files, name: deflated}
    start = len(files[name]) - len(pydicom.dcmread(io.BytesIO(files[name])).PixelData)
    length = int.from_bytes(deflated[140:144], "little")
    head = deflated[: 144 + length]
    yield {**files, name: head + deflated_zeros(3 * GIB)}
    element = b"\x09\x00\x10\x00UN\x00\x00" + (2**31).to_bytes(4, "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = files[name][144 + int.from_bytes(files[name][140:144], "little") : start - 12]
    yield {
        **files,
        name: head + packer.compress(body + element) + packer.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(GIB),
    }
    nested = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    yield {**files, name: files[name][: 144 + int.from_bytes(files[name][140:144], "little")] + nested * 20_000}


def read_dicom(folder: Path) -> None:
    files = find_dicom_slices(folder)
    read_ct(folder)
    image = read_dicom_slices(files)
    read_headers(files, image)


def make_structure_set(folder: Path) -> None:
    mask, image = made_mask((5, 8, 9)), made_image(made_ct())
    write_structure_set(folder / "nodules.dcm", "1.2.3", {"Nodule": contours_of(mask, image), "Lung": []})


def make_segmentation(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as series:  # on the grid of `made_image`
        dicom(Path(series), spacing_mm=(2.0, 0.8, 0.7), origin_xyz_mm=(0, 0, 0))
        files = find_dicom_slices(series)
        ct = read_dicom_slices(files)
        mask = sitk.GetImageFromArray(made_mask((3, 8, 9)))
        mask.CopyInformation(ct)
        write_dicom_seg(read_headers(files, ct), [mask], folder / "nodules.dcm")


def read_dicom_annotation(folder: Path) -> None:
    path = folder / "nodules.dcm"
    if is_dicom_annotation(path):
        annotated_series(path)
        read_dicom_nodules(path, made_image(made_ct()))
