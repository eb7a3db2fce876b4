"""A prepared dataset on the Hugging Face Hub: its files as they are, with its card.

Whoever downloads them (`hf download OWNER/NAME --repo-type dataset --local-dir data/nodules`) has the folder that was
pushed and hands it to any script as `--data`; `datasets.load_dataset("OWNER/NAME")` reads the same files.
"""

import json
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from foundation.atomic import write_atomically
from foundation.upload import prepare_repository, push_folder
from imaging.dataset.card import DatasetSummary, dataset_card
from imaging.dataset.label_policy import malignancy_label
from imaging.dataset.licence import card_of
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.dataset.rows import SPLITS


def push_dataset(
    folder: Path, repo: str, private: bool = True, revision: str | None = None, message: str = "Upload the dataset"
) -> str:
    """Push all splits of a prepared dataset with its card: the one in the folder, or else beside it, or else a new one.

    Args:
        folder: The dataset's; a card that was not in it is written into it.
        repo, private, revision, message: As `foundation.upload.push_folder`.
    Returns: The commit's address.
    Raises: ValueError, OSError: If it is no prepared dataset, or as `push_folder` says.
    """
    splits = splits_of(folder)
    prepare_repository(repo, "dataset", private)
    card = folder / "README.md"
    if not card.is_file():
        beside = card_of(folder)
        text = beside.read_text() if beside else made_card(folder, splits, repo)
        write_atomically(card, lambda temporary: temporary.write_text(text))
    return push_folder(folder, repo, "dataset", private, revision, message)


def splits_of(folder: Path) -> list[str]:
    """The splits of a prepared dataset. Raises ValueError if it is none, or a split of it is not."""
    load_nodules(folder, "train")
    splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
    for split in splits:
        load_nodules(folder, split)
    return [split for split in SPLITS if split in splits]


def made_card(folder: Path, splits: list[str], name: str) -> str:
    """The card of a dataset that was prepared without one; reads every row, as the counts are of voxels."""
    summary = DatasetSummary()
    for split in splits:
        nodules = load_nodules(folder, split)
        for index in tqdm(range(len(nodules)), desc=f"counting {split}"):
            summary.add(_row(read_nodule(nodules, index)))
    return dataset_card(name, summary)


def _row(nodule: dict[str, Any]) -> dict[str, Any]:
    """As `dataset_card` counts it: what is missing is None, and the label is there."""
    row = {name: None if isinstance(value, float) and value != value else value for name, value in nodule.items()}
    label = row.get("label")
    return row | {"label": malignancy_label(row["malignancy"], "exclude_between") if label is None else label}
