"""The dataset of nnU-Net version 2 (Isensee et al. 2021), semantic labels.

nnU-Net reads raw data below the folder that the environment variable nnUNet_raw names, and splits_final.json in the
dataset's folder below nnUNet_preprocessed, which `nnUNetv2_plan_and_preprocess` leaves in place.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from imaging.layouts.folds import Split
from imaging.layouts.layout import CLASS, Layout, Title, WrittenCase

DATASET = "Dataset{number:03d}_{name}"


def write_index(folder: Path, title: Title, cases: Sequence[WrittenCase], splits: Sequence[Split]) -> None:
    """Write dataset.json beside the images, and splits_final.json where nnU-Net looks for it."""
    name = DATASET.format(number=title.number, name=title.name)
    described = {
        "channel_names": {"0": "CT"},  # nnU-Net normalises this channel as HU
        "labels": {"background": 0, CLASS: 1},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "nnUNet_raw" / name / "dataset.json").write_text(json.dumps(described, indent=2))
    preprocessed = folder / "nnUNet_preprocessed" / name
    preprocessed.mkdir(parents=True)
    (preprocessed / "splits_final.json").write_text(json.dumps([split._asdict() for split in splits], indent=2))


LAYOUT = Layout(
    image=f"nnUNet_raw/{DATASET}/imagesTr/{{case}}_0000.nii.gz",
    labels=f"nnUNet_raw/{DATASET}/labelsTr/{{case}}.nii.gz",
    instances=False,
    write_index=write_index,
    next_step="export nnUNet_raw={out}/nnUNet_raw nnUNet_preprocessed={out}/nnUNet_preprocessed "
    "nnUNet_results={out}/nnUNet_results; nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity",
)
