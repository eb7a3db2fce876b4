"""What is fuzzed: each reader of files with a valid input for it, and hostile files made by hand."""

import numpy as np
import yaml
from fuzz.images import (
    dicom,
    dicom_bombs,
    make_labels,
    make_segmentation,
    make_structure_set,
    metaimage_bombs,
    nifti_bombs,
    read_dicom,
    read_dicom_annotation,
    read_volume,
    volume,
)
from fuzz.made import Reader, made_ct
from fuzz.stored import (
    card_bombs,
    dataset_bombs,
    json_bombs,
    make_config,
    make_latents,
    make_manifest,
    make_nodules,
    make_result,
    make_settings,
    manifest_bombs,
    npz_bombs,
    read_config,
    read_latents,
    read_manifest,
    read_nodules,
    read_scans,
    yaml_bombs,
)
from fuzz.tables import (
    csv_bombs,
    make_lab,
    make_lesions,
    make_lidc,
    make_pairs,
    make_scan_table,
    mat73_bombs,
    mat_bombs,
    npy_bombs,
    read_lab,
    read_pairs,
    xml_bombs,
)

from evaluation.lesions.balance import read_balance
from foundation.claimed_folder import claim_folder
from imaging.dataset.licence import licence_of
from imaging.dataset.patients import read_patients
from imaging.dataset.scan_volumes import save_scans
from imaging.dataset.splits import read_splits, write_splits
from imaging.files.ct import read_ct, read_labels
from imaging.lesions.table import read_lesion_table
from imaging.lidc.scan_nodules import load_result
from imaging.lidc.scans import find_scans, read_scan_table
from imaging.lidc.xml import read_annotation

READERS = {
    "nifti": Reader(volume(".nii"), read_volume, bombs=nifti_bombs),
    "nifti_float": Reader(volume(".nii", np.float32), read_volume, bombs=nifti_bombs),
    "nifti_gz": Reader(volume(".nii.gz", compressed=True), read_volume, bombs=nifti_bombs),
    "labels": Reader(
        make_labels, lambda f: read_labels(f / "labels.nii.gz", read_ct(f / "ct.nii", crop=True)), spared=("ct.nii",)
    ),
    "metaimage_mha": Reader(volume(".mha"), read_volume, True, metaimage_bombs),
    "metaimage_zlib": Reader(volume(".mha", np.float32, True), read_volume, True, metaimage_bombs),
    "metaimage_mhd": Reader(volume(".mhd"), read_volume, True, metaimage_bombs),
    "dicom": Reader(dicom, read_dicom, bombs=dicom_bombs),
    "dicom_jpegls": Reader(lambda f: dicom(f, compressed=True), read_dicom),
    "structure_set": Reader(make_structure_set, read_dicom_annotation),
    "segmentation": Reader(make_segmentation, read_dicom_annotation),
    "lidc_folder": Reader(lambda f: (dicom(f), make_lidc(f)), find_scans, bombs=dicom_bombs, spared=(".xml",)),
    "lidc_xml": Reader(make_lidc, lambda f: read_annotation(f / "071.xml"), True, xml_bombs),
    "lidc_result": Reader(make_result, lambda f: load_result(f / "a.npz"), bombs=npz_bombs),
    "lesion_table": Reader(make_lesions, lambda f: read_lesion_table(f / "lesions.csv"), True, csv_bombs),
    "nodule_table": Reader(make_pairs, read_pairs, True, csv_bombs, (".nii.gz",)),
    "lab_table": Reader(make_lab(".npy"), read_lab, True, csv_bombs, (".npy",)),
    "lab_npy": Reader(make_lab(".npy"), read_lab, bombs=npy_bombs, spared=(".csv",)),
    "lab_mat": Reader(make_lab(".mat"), read_lab, bombs=mat_bombs, spared=(".csv",)),
    "lab_mat73": Reader(make_lab(".mat73"), read_lab, bombs=mat73_bombs, spared=(".csv",)),
    "scan_table": Reader(make_scan_table, lambda f: read_scan_table(f / "scans.csv"), True, csv_bombs, (".gz", ".xml")),
    "split_table": Reader(
        lambda f: write_splits(f / "splits.csv", {"p1": "train", "p2": "test"}),
        lambda f: read_splits(f / "splits.csv"),
        True,
        csv_bombs,
    ),
    "patient_table": Reader(
        lambda f: (f / "p.csv").write_text("scan,patient\na,p1\nb,p2\n"),
        lambda f: read_patients(f / "p.csv"),
        True,
        csv_bombs,
    ),
    "balance_table": Reader(
        lambda f: (f / "b.csv").write_text("attribute,low,high,share\ntexture,1,3,0.5\ntexture,3,5,0.5\n"),
        lambda f: read_balance(str(f / "b.csv")),
        True,
        csv_bombs,
    ),
    "dataset_records": Reader(make_nodules, read_nodules, True, dataset_bombs, (".arrow",)),
    "dataset_arrow": Reader(make_nodules, read_nodules, spared=(".json",)),
    "latents": Reader(make_latents, read_latents),
    "scan_volumes": Reader(lambda f: save_scans([("a", made_ct())], f / "scans", 1.0), read_scans, True, json_bombs),
    "manifest": Reader(make_manifest, read_manifest, bombs=manifest_bombs),
    "config": Reader(make_config, read_config, True, yaml_bombs),
    "settings": Reader(make_settings, lambda f: claim_folder(f, {"seed": 3}), True, json_bombs),
    "card": Reader(
        lambda f: (f / "README.md").write_text("---\n" + yaml.safe_dump({"license": "mit"}) + "---\n# Data\n"),
        lambda f: licence_of(f, False),
        True,
        card_bombs,
    ),
}
