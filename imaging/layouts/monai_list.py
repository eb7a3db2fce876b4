"""Data lists in the form of the Medical Segmentation Decathlon, for `monai.data.load_decathlon_datalist`.

datalist.json has all cases under "training", each with its fold, as MONAI's Auto3DSeg reads it. For each fold,
datalist_fold0.json and so on have "training" and "validation". Paths are relative to the files.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from imaging.layouts.folds import Split
from imaging.layouts.layout import CLASS, Layout, Title, WrittenCase


def write_index(folder: Path, title: Title, cases: Sequence[WrittenCase], splits: Sequence[Split]) -> None:
    """Write the lists."""
    known = {"name": title.name, "modality": {"0": "CT"}, "labels": {"0": "background", "1": CLASS}}
    entries = {
        case.case.name: {
            "image": case.image,
            "label": case.labels,
            "fold": case.fold,
            "patient": case.case.patient,
            "synthetic": case.case.synthetic,
        }
        for case in cases
    }

    def write(name: str, training: list[dict], **more: list[dict]) -> None:
        content = {**known, "numTraining": len(training), "training": training, **more}
        (folder / name).write_text(json.dumps(content, indent=2))

    write("datalist.json", list(entries.values()))
    for fold, split in enumerate(splits):
        train, val = ([entries[name] for name in names] for names in split)
        write(f"datalist_fold{fold}.json", train, validation=val)


LAYOUT = Layout(
    image="imagesTr/{case}.nii.gz",
    labels="labelsTr/{case}.nii.gz",
    instances=False,
    write_index=write_index,
    next_step='monai.data.load_decathlon_datalist("{out}/datalist_fold0.json", data_list_key="training")',
)
