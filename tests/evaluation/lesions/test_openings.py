import csv
from concurrent.futures import ThreadPoolExecutor

import pytest

from evaluation.lesions import openings
from evaluation.lesions.openings import FILE, open_test_split


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    return tmp_path


def test_openings_are_counted_with_their_settings(dataset):
    assert open_test_split(dataset, "test", "evaluate", {"seed": 0}).endswith(
        "opened 1 time, with 1 different settings."
    )
    open_test_split(dataset, "all", "evaluate_vae", {"seed": 1})
    sentence = open_test_split(dataset, "test", "evaluate", {"seed": 0})
    assert sentence == "The test split of this dataset has been opened 3 times, with 2 different settings."
    rows = list(csv.DictReader((dataset / FILE).open()))
    assert [row["script"] for row in rows] == ["evaluate", "evaluate_vae", "evaluate"]
    assert rows[0]["settings_hash"] == rows[2]["settings_hash"] != rows[1]["settings_hash"]


def test_openings_at_once_lose_none(dataset):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: open_test_split(dataset, "test", "evaluate", {"n": n}), range(64)))
    assert "opened 65 times, with 65 different" in open_test_split(dataset, "test", "evaluate", {"n": 64})
    lines = (dataset / FILE).read_text().splitlines()
    assert len(lines) == 66 and lines.count(",".join(openings.COLUMNS)) == 1


def test_training_lesions_and_folders_without_splits_open_nothing(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    assert open_test_split(dataset, "train", "evaluate", {}) is open_test_split(folder, "test", "evaluate", {}) is None
    assert not (dataset / FILE).exists() and not (folder / FILE).exists()


def test_a_folder_that_cannot_be_written_is_said_and_no_error(dataset, monkeypatch):
    open_test_split(dataset, "test", "evaluate", {})

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(openings.os, "open", refuse)
    sentence = open_test_split(dataset, "test", "evaluate", {})
    assert "opened 1 time" in sentence and "could not be written down (Permission denied" in sentence
