"""Tables and annotations, and the volumes that they name, with hostile versions."""

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
from fuzz.made import EDGE, GIB, Files, made_ct, made_image, made_mask
from fuzz.mutations import deflated_zeros
from lidc_factory import nodule, roi, write_annotation
from scipy.io import savemat

from imaging.dataset.lab_files import read_lab_nodule, read_lab_table
from imaging.dataset.nifti_pairs import read_nodule_pair, read_nodule_table


def make_lidc(folder: Path) -> None:
    contour = roi([(3, 3), (4, 3), (4, 4), (3, 4)], -100.0, "1.2.3.4")
    sessions = [[nodule("a", [contour])], [nodule("b", [contour, roi([(5, 5)], 1.0)]), nodule("c", [], None)]]
    write_annotation(folder / "071.xml", "1.2.3", sessions)


def xml_bombs(files: Files) -> Iterator[Files]:
    (name, content), *_ = files.items()
    body = content.partition(b"?>")[2]
    for size in (10, 30):
        entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * size}">' for i in range(9))
        bomb = f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a0 "lollollol">{entities}]>'.encode()
        yield {name: bomb + body.replace(b"1.2.3", b"&a9;", 1)}
    long = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "' + b"x" * 1_000_000 + b'">]>'
    yield {name: long + body.replace(b"1.2.3", b"&a;" * 3000, 1)}
    yield {name: b'<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + body.replace(b"1.2.3", b"&a;", 1)}
    yield {name: b'<!DOCTYPE l [<!ENTITY a "&b;"><!ENTITY b "&a;">]>' + body.replace(b"1.2.3", b"&a;", 1)}
    yield {name: b"<a>" * 1_000_000}
    yield {name: b"<LidcReadMessage>" + b"<a>" * 300_000 + b"</a>" * 300_000 + b"</LidcReadMessage>"}
    yield {name: b"<a " + b" ".join(b'b%d="c"' % i for i in range(100_000)) + b"/>"}
    for encoding in (b"utf-7", b"utf-16", b"klingon", b"idna", b"zlib", b"hex", b"big5", b"utf-32"):
        yield {name: b'<?xml version="1.0" encoding="' + encoding + b'"?>' + body}


def make_lesions(folder: Path) -> None:
    rows = "x,y,z,diameter_mm,seed,malignancy,mean_hu\n10,11,12,8.5,3,malignant,-40\n,,,12,,,\n1.5,2,3,4,7,,-600\n"
    (folder / "lesions.csv").write_text(rows)


def csv_bombs(files: Files) -> Iterator[Files]:
    name = next(name for name in sorted(files) if name.endswith(".csv"))
    head, _, body = files[name].partition(b"\n")
    yield {**files, name: head + b"\n" + b'"' + b"x" * 50_000_000}
    yield {**files, name: b"," * 10_000_000 + b"\n" + body}
    yield {**files, name: head + b"\n" + body * 10 + b"\n" + b"," * 10_000_000}
    yield {**files, name: head + b"," + head + b"\n" + body}
    yield {**files, name: head.replace(b"nodule", b"nodule_id,nodule") + b"\n" + body.replace(b"\n", b",\n")}
    yield {**files, name: head.upper() + b"\n" + body}
    yield {**files, name: head + b"\n" + body.replace(b",", b",\xff\xfe")}
    yield {**files, name: head + b"\n" + body.replace(b"1", b"\0")}
    yield {**files, name: (head + b"\n" + body).decode().encode("utf-16")}
    yield {**files, name: head + b"\r" + body.replace(b"\n", b"\r")}


def make_pairs(folder: Path) -> None:
    for name in ("a", "b"):
        sitk.WriteImage(made_image(made_ct()), str(folder / f"{name}_ct.nii.gz"))
        sitk.WriteImage(made_image(made_mask((5, 8, 9))), str(folder / f"{name}_mask.nii.gz"))
    (folder / "nodules.csv").write_text(
        "nodule,patient_id,split,diameter_mm,malignancy,manufacturer,slice_mm\na,p1,train,4.5,3,GE,2\nb,p2,test,,,,\n"
    )
    (folder / "readers.csv").write_text("nodule,reader,malignancy,texture\na,1,3,5\na,2,4,5\nb,1,2,\n")
    (folder / "patients.csv").write_text("nodule,patient_id,confirmed\na,LIDC-IDRI-0001,1\nb,,0\n")


def read_pairs(folder: Path) -> None:
    for row in read_nodule_table(folder, "made").rows:
        read_nodule_pair(folder, row, EDGE, None, outline="union")


def make_lab(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        ct, mask = made_ct((4, 6, 7)), made_mask((4, 6, 7))
        names = {"TDM_VOI": ct.transpose(1, 2, 0), "Seg_VOI": mask.transpose(1, 2, 0)}
        if suffix == ".npy":
            np.save(folder / "a.npy", ct)
            np.save(folder / "a_mask.npy", mask)
        elif suffix == ".mat":
            savemat(folder / "a.mat", {"nodule": names}, do_compression=True)
        else:
            with h5py.File(folder / "a.mat", "w", userblock_size=512) as file:
                for name, array in names.items():
                    file.create_dataset(name, data=array.T, compression="gzip")
            with (folder / "a.mat").open("r+b") as raw:
                raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
        ending = ".npy" if suffix == ".npy" else ".mat"
        (folder / "table.csv").write_text(
            "nodule,patient_id,ct,mask,spacing_z_mm,spacing_y_mm,spacing_x_mm,split,malignancy\n"
            f"a,p1,a{ending},a_mask.npy,2,0.7,0.8,train,3\n"
        )

    return make


def read_lab(folder: Path) -> None:
    for row in read_lab_table(folder / "table.csv"):
        read_lab_nodule(row, EDGE, None, "hu")


def npy_bombs(files: Files) -> Iterator[Files]:
    for header in (
        "{'descr': '<i2', 'fortran_order': False, 'shape': (100000, 100000, 10000), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (-1, 6, 7), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4, 6, 7), }",
        "{'descr': '<V2147483647', 'fortran_order': False, 'shape': (4, 6, 7), }",
        "{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (4, 6, 7), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (" + "1, " * 100 + "), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': " + "(" * 9000 + ")" * 9000 + ", }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (10**9**9, 1, 1), }",
    ):
        text = header.encode()
        yield {**files, "a.npy": b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text}


def mat_bombs(files: Files) -> Iterator[Files]:
    head = files["a.mat"][:128]
    for size in (GIB, 3 * GIB):
        packed = deflated_zeros(size, "zlib")
        yield {**files, "a.mat": head + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed}
    element = (14).to_bytes(4, "little") + (2**32 - 8).to_bytes(4, "little")
    packer = zlib.compressobj(9)
    packed = packer.compress(element) + packer.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(GIB)
    yield {**files, "a.mat": head + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed}


def mat73_bombs(files: Files) -> Iterator[Files]:
    for shape in ((100_000, 100_000, 100), (2000, 2000, 400)):
        out = io.BytesIO()
        with h5py.File(out, "w", userblock_size=512) as file:
            for name in ("TDM_VOI", "Seg_VOI"):
                file.create_dataset(name, shape, "i2", chunks=(100, 100, 100), compression="gzip")
        yield {**files, "a.mat": files["a.mat"][:128] + out.getvalue()[128:]}


def make_scan_table(folder: Path) -> None:
    (folder / "ct.nii.gz").write_bytes(b"")
    (folder / "a.xml").write_text("")
    (folder / "scans.csv").write_text(
        "ct,annotation,patient_id,manufacturer,slice_thickness_mm\nct.nii.gz,a.xml,p1,GE,1.25\n"
    )
