"""The task of nnDetection (Baumgartner et al. 2021): instance labels, and the class of each instance in a JSON file.

nnDetection reads its splits from a pickle, which is not written here; docs/guides/many_lesions.md has the line that
makes it of splits_final.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from imaging.layouts.folds import Split
from imaging.layouts.layout import CLASS, Layout, Title, WrittenCase

TASK = "Task{number:03d}_{name}"


def write_index(folder: Path, title: Title, cases: Sequence[WrittenCase], splits: Sequence[Split]) -> None:
    """Write dataset.json, splits_final.json, and a JSON file beside the labels of each case."""
    name = TASK.format(number=title.number, name=title.name)
    described = {
        "task": name,
        "name": title.name,
        "dim": 3,
        "target_class": None,
        "test_labels": False,
        "labels": {"0": CLASS},
        "modalities": {"0": "CT"},
    }
    (folder / name / "dataset.json").write_text(json.dumps(described, indent=2))
    (folder / name / "splits_final.json").write_text(json.dumps([split._asdict() for split in splits], indent=2))
    for case in cases:
        assert case.labels is not None  # the layout has labels
        path = folder / case.labels.replace(".nii.gz", ".json")
        path.write_text(json.dumps({"instances": {str(nodule.label): 0 for nodule in case.nodules}}))


LAYOUT = Layout(
    image=f"{TASK}/raw_splitted/imagesTr/{{case}}_0000.nii.gz",
    labels=f"{TASK}/raw_splitted/labelsTr/{{case}}.nii.gz",
    instances=True,
    write_index=write_index,
    next_step="export det_data={out}; nndet_prep {number} --full_check",
)
