"""What goes wrong in real archives: each case ends in the report with its reason, and stops nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import write_dicom_series
from lidc_factory import RATINGS, nodule, outline, roi, write_annotation

from imaging.lidc.scan_nodules import ScanSettings, prepare_scan
from imaging.lidc.scans import find_scans

SPACING = (2.0, 1.0, 1.0)
ORIGIN = (-20.0, -30.0, 100.0)
SHAPE = (8, 40, 44)
SETTINGS = ScanSettings(crop_size=16, mask_policy="consensus", with_semantic_map=False)


def nodule_mask() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    return ((z - 4) * 2) ** 2 + (y - 20) ** 2 + (x - 22) ** 2 <= 5**2


def make_ct() -> np.ndarray:
    ct_hu = np.random.default_rng(0).integers(-900, -800, SHAPE)
    ct_hu[nodule_mask()] = 30
    return ct_hu


def make_rois(mask: np.ndarray) -> list[str]:
    slices = [z for z in range(len(mask)) if mask[z].any()]
    return [roi(outline(mask[z]), ORIGIN[2] + z * SPACING[0]) for z in slices]


def make_scan(folder: Path, sessions=None, patient: str = "P1", with_xml: bool = True, **dicom) -> str:
    uid = write_dicom_series(folder, make_ct(), SPACING, origin_xyz_mm=ORIGIN, PatientID=patient, **dicom)
    if with_xml:
        rois = make_rois(nodule_mask())
        sessions = [[nodule("a", rois)], [nodule("b", rois)]] if sessions is None else sessions
        write_annotation(folder / "reading.xml", uid, sessions)
    return uid


def run(root: Path, settings: ScanSettings = SETTINGS):
    """All rows and everything left out of a folder."""
    scans, left_out = find_scans(root)
    results = [prepare_scan(scan, settings) for scan in scans]
    return [row for r in results for row in r.rows], left_out + [entry for r in results for entry in r.left_out]


def slices_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def edit_headers(folder: Path, count: int | None = None, **tags) -> None:
    for path in slices_of(folder)[:count]:
        header = pydicom.dcmread(path)
        for keyword, value in tags.items():
            setattr(header, keyword, value)
        header.save_as(path)


def test_a_good_scan_gives_its_nodule_and_leaves_nothing_out(tmp_path):
    make_scan(tmp_path / "deep" / "er")
    rows, left_out = run(tmp_path)
    assert left_out == [] and len(rows) == 1
    assert rows[0]["volume_mm3"] == nodule_mask().sum() * 2.0
    assert rows[0]["readers"] == 2 and rows[0]["malignancy"] == RATINGS["malignancy"]
    assert rows[0]["ct_hu"][rows[0]["lesion_mask"] > 0].mean() > -100


def truncated_pixels(folder):
    make_scan(folder)
    path = slices_of(folder)[3]
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_header(folder):
    make_scan(folder)
    path = slices_of(folder)[3]
    path.write_bytes(path.read_bytes()[:300])


def compressed_without_decoder(folder):
    make_scan(folder)
    for path in slices_of(folder):
        header = pydicom.dcmread(path)
        header.PixelData = pydicom.encaps.encapsulate([header.PixelData])
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # high-throughput JPEG 2000
        header["PixelData"].VR = "OB"
        header.save_as(path)


def broken_jpeg(folder):
    make_scan(folder)
    for path in slices_of(folder):
        header = pydicom.dcmread(path)
        header.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 no JPEG " * 20])
        header.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        header["PixelData"].VR = "OB"
        header.save_as(path)


def broken_xml(folder):
    make_scan(folder)
    path = folder / "reading.xml"
    path.write_text(path.read_text()[:400])


def radiograph_annotation(folder):
    uid = make_scan(folder, with_xml=False)
    write_annotation(folder / "x.xml", uid, [], root="IdriReadMessage", namespace="http://www.nih.gov/idri")


def contradicting_annotations(folder):
    uid = make_scan(folder)
    write_annotation(folder / "other.xml", uid, [[nodule("a", make_rois(nodule_mask()), RATINGS | {"margin": 1})]])


def two_patients(folder):
    make_scan(folder)
    edit_headers(folder, 2, PatientID="somebody else")


def missing_position(folder):
    make_scan(folder)
    for path in slices_of(folder):
        header = pydicom.dcmread(path)
        del header.ImagePositionPatient
        header.save_as(path)


def marks(*sessions):
    return lambda folder: make_scan(folder, sessions=sessions)


def series(**dicom):
    return lambda folder: make_scan(folder, **dicom)


def far_rois():
    return [roi([(x, y + 30) for x, y in outline(nodule_mask()[4])], 108.0)]


SQUARE = [(18, 18), (24, 18), (24, 24), (18, 24)]
OTHER_SQUARE = [(23, 23), (29, 23), (29, 29), (23, 29)]

# What is made, the kind of entry in the report, and the reason given there.
CASES = {
    "pixel data cut short": (truncated_pixels, "scan", "cannot be read"),
    "header cut short": (truncated_header, "file", "without SeriesInstanceUID; is it complete?"),
    "compressed without a decoder": (compressed_without_decoder, "scan", "cannot be read"),
    "damaged JPEG": (broken_jpeg, "scan", "cannot be read"),
    "missing slice": (series(left_out=(3,)), "scan", "missing or unequally spaced slices"),
    "doubled position": (series(doubled=(3,)), "scan", "doubled slice positions"),
    "tilted gantry": (series(shift_per_slice_mm=(0, 0.6, 0)), "scan", "tilted gantry"),
    "wrong modality": (series(modality="DX"), "scan", "modality DX, expected CT"),
    "localizer": (series(image_type="LOCALIZER"), "scan", "localizer, expected CT slices"),
    "colour": (series(colour=True), "scan", "colour image"),
    "no position": (missing_position, "scan", "no position or orientation"),
    "single slice": (series(left_out=range(1, 8)), "scan", "single slice"),
    "thick slices": (series(SliceThickness="5.0"), "scan", "slice thickness 5 mm, expected at most 2.5 mm"),
    "no patient": (series(patient=""), "scan", "no PatientID"),
    "two patients in one series": (two_patients, "scan", "its slices name different patients"),
    "no annotation": (series(with_xml=False), "scan", "no readable LIDC annotation (XML) names this series"),
    "broken annotation": (broken_xml, "annotation", "broken XML"),
    "annotation of a radiograph": (radiograph_annotation, "annotation", "expected `LidcReadMessage`"),
    "contradicting annotations": (contradicting_annotations, "annotation", "contradicts another of the same series"),
    "nobody marked a nodule": (marks([], []), "scan", "no reader marked a nodule"),
    "outline without ratings": (marks([nodule("a", [roi(SQUARE, 108.0)], None)]), "mark", "without ratings"),
    "outline outside the image": (marks([nodule("a", far_rois())]), "mark", "outline outside the image"),
    "outline between slices": (marks([nodule("a", [roi(SQUARE, 109.0)])]), "mark", "is not in the scan"),
    "outline above the scan": (marks([nodule("a", [roi(SQUARE, 150.0)])]), "mark", "is not in the scan"),
    "outline on an unknown slice": (marks([nodule("a", [roi(SQUARE, None, "1.2.3")])]), "mark", "is not in the scan"),
    "zero area": (marks([nodule("a", [roi([(9, 9), (14, 9)], 108.0)])]), "mark", "zero area"),
    "hole as large as the nodule": (
        marks([nodule("a", [roi(SQUARE, 108.0), roi(SQUARE, 108.0, inclusion="FALSE")])]),
        "mark",
        "zero area",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_scan_is_left_out_with_its_reason(tmp_path, name):
    make, kind, reason = CASES[name]
    make(tmp_path / "scan")
    rows, left_out = run(tmp_path)
    found = [entry.reason for entry in left_out if entry.kind == kind]
    assert rows == [] and any(reason in text for text in found), left_out
    assert not any("unexpected" in entry.reason for entry in left_out), "each case should be foreseen"


def test_a_slice_without_area_is_reported_and_the_rest_of_the_nodule_used(tmp_path):
    rois = make_rois(nodule_mask())
    make_scan(tmp_path, [[nodule("a", [*rois, roi([(3, 3), (4, 3)], 100.0)])]])
    rows, left_out = run(tmp_path)
    assert rows[0]["volume_mm3"] == nodule_mask().sum() * 2.0
    assert [(entry.kind, entry.reason) for entry in left_out] == [
        ("outline", "outline of 2 points on slice 0 encloses no pixel")
    ]


def test_copies_of_a_slice_and_of_the_annotation_are_reported_and_harmless(tmp_path):
    make_scan(tmp_path / "a")
    copies = [slices_of(tmp_path / "a")[2], tmp_path / "a" / "reading.xml"]
    (tmp_path / "b").mkdir()
    for path in copies:
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    rows, left_out = run(tmp_path)
    assert len(rows) == 1 and {entry.kind for entry in left_out} == {"file", "annotation"}
    assert all("copy of" in entry.reason for entry in left_out)


def test_an_annotation_without_its_series_and_a_false_dicom_file_are_reported(tmp_path):
    make_scan(tmp_path)
    write_annotation(tmp_path / "lost.xml", "1.2.3.4", [])
    (tmp_path / "false.dcm").write_text("no DICOM")
    (tmp_path / "LICENSE").write_text("neither")
    rows, left_out = run(tmp_path)
    assert len(rows) == 1
    assert {(entry.kind, Path(entry.item).name) for entry in left_out} == {
        ("file", "false.dcm"),
        ("annotation", "lost.xml"),
    }


def test_few_readers_and_no_common_voxel_are_reasons(tmp_path):
    squares = [[nodule("a", [roi(SQUARE, z)])] for z in (106.0, 108.0)]
    common = [nodule("c", [roi(SQUARE, 106.0), roi(SQUARE, 108.0)])]
    make_scan(tmp_path, [*squares, common])
    unanimous = ScanSettings(crop_size=16, mask_policy="consensus", with_semantic_map=False, consensus_level=1.0)
    _, left_out = run(tmp_path, unanimous)
    assert "its 2 readers" not in left_out[0].reason and "share no voxel at consensus level 1" in left_out[0].reason
    _, left_out = run(tmp_path, replace(SETTINGS, min_readers=4))
    assert {entry.reason for entry in left_out} == {"marked by 3 readers, expected at least 4"}


def test_a_slice_named_by_its_uid_needs_no_position(tmp_path):
    uid = make_scan(tmp_path, with_xml=False)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in slices_of(tmp_path)]
    sop_uid = {round((float(h.ImagePositionPatient[2]) - ORIGIN[2]) / SPACING[0]): h.SOPInstanceUID for h in headers}
    mask = nodule_mask()
    rois = [roi(outline(mask[z]), None, sop_uid[z]) for z in range(len(mask)) if mask[z].any()]
    write_annotation(tmp_path / "a.xml", uid, [[nodule("a", rois)]])
    rows, left_out = run(tmp_path)
    assert left_out == [] and rows[0]["volume_mm3"] == mask.sum() * 2.0


def test_a_prone_scan_is_cropped_where_its_pixels_say(tmp_path):
    make_scan(tmp_path, orientation=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    rows, left_out = run(tmp_path)
    assert left_out == [] and rows[0]["ct_hu"][rows[0]["lesion_mask"] > 0].mean() > -100
