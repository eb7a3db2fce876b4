"""A small, seeded share of the damaged files that `fuzz_readers.py` makes: no reader may fail on one of them."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("fuzz_readers.py")
READERS = (
    *("nifti", "nifti_float", "nifti_gz", "labels", "metaimage_mha", "metaimage_zlib", "metaimage_mhd", "dicom"),
    *("dicom_jpegls", "lidc_folder", "lidc_xml", "lidc_result", "lesion_table", "nodule_table", "lab_table"),
    *("structure_set", "segmentation", "patient_table", "balance_table"),
    *("scan_table", "dataset_records", "dataset_arrow", "latents", "scan_volumes", "manifest", "config"),
)
BEYOND_BOMBS = 100  # MOST_BOMBS there; files that unpack to gigabytes take too long here


def test_readers_read_or_refuses_damaged_files_by_a_clear_sentence():
    options = ["--files", "6", "--first", str(BEYOND_BOMBS), "--readers", ",".join(READERS)]
    ended = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert ended.stdout.count("\n| ") == len(READERS)
