"""Inpaint lesions into a CT scan.

python scripts/inpaint.py --ct scan_folder --center 70,250,150 --diameter-mm 12 --pipeline runs/ldm/pipeline --out out
python scripts/inpaint.py --ct scan.nii.gz --mask mask.nii.gz --attributes.malignancy malignant ...
python scripts/inpaint.py --ct scan.nii.gz --lesions table.csv --site auto ...
python scripts/inpaint.py --ct scan.nii.gz --lesions table.csv --mask mask.nii.gz ...    # rows that name a label of it
Several lesions, rows of a table or labels 1, 2, ... of a mask, are painted one after the other: each sees those before.
Writes what it was given: ct.nii.gz, lesion_mask.nii.gz (k where the k-th lesion is) and paint_mask.nii.gz for a file;
for a DICOM folder a derived series (folder ct) and its DICOM segmentation (lesions_seg.dcm), a segment for each lesion,
without the patient unless --keep-patient true; or both with --output-format both. Also overview.png (overview_2.png of
the second lesion) and record.json, which names the input's path.
"""

import os
import sys

from evaluation.inpainting.config import InpaintConfig
from foundation.config import launch, read_arguments

ARGUMENTS = read_arguments(InpaintConfig, __name__)

from evaluation.inpainting.painting import inpaint


def main(config: InpaintConfig) -> None:
    """Read, inpaint, write."""
    inpaint(config)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; Python would take the libraries apart object by object, for more than a second
