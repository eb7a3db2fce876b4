"""A prepared dataset on the loopback Hub and back, and the card that goes along."""

import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from huggingface_hub import snapshot_download

from imaging.dataset.card import DatasetSummary, dataset_card
from imaging.dataset.licence import is_lidc, licence_of
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.dataset.publishing import push_dataset
from imaging.dataset.rows import SPLITS
from imaging.phantom.chest import phantom_nodules

REPO = "tester/nodules"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Eighteen phantom nodules of all three splits, and a file that Datasets has left beside them."""
    folder = tmp_path_factory.mktemp("made")
    save_nodule_dataset(phantom_nodules(18, 8, 4.0), folder / "nodules", 8)
    (folder / "nodules" / "train" / "cache-0123.arrow").write_bytes(b"computed")
    return folder / "nodules"


@pytest.fixture
def nodules(made: Path, tmp_path: Path) -> Path:
    """A copy of them for one test."""
    return shutil.copytree(made, tmp_path / "nodules")


def files_of(server) -> set[str]:
    commits = list(server.load(f"datasets/{REPO}")["commits"].values())
    return set(commits[-1]["files"])


def test_a_pushed_dataset_is_downloaded_as_the_dataset_it_was(hub_server, nodules, tmp_path):
    url = push_dataset(nodules, REPO)
    assert url.startswith(f"{hub_server.endpoint}/datasets/{REPO}/commit/")
    assert hub_server.load(f"datasets/{REPO}")["private"]
    assert not any("cache-" in name for name in files_of(hub_server))
    copy = Path(snapshot_download(REPO, repo_type="dataset", local_dir=tmp_path / "copy"))
    for split in SPLITS:
        mine, other = load_nodules(nodules, split), load_nodules(copy, split)
        assert len(mine) == len(other) > 0 and mine.features == other.features
        for index in range(len(mine)):
            expected, row = read_nodule(mine, index), read_nodule(other, index)
            for name, value in expected.items():
                np.testing.assert_array_equal(row[name], value)


def test_the_card_counts_the_rows_and_tells_datasets_which_file_is_which_split(hub_server, nodules, tmp_path):
    push_dataset(nodules, REPO)
    card = (nodules / "README.md").read_text()
    header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])
    stated = {entry["split"]: entry["path"] for entry in header["configs"][0]["data_files"]}
    assert stated == {split: f"{split}/*.arrow" for split in SPLITS} and header["license"] == "other"
    assert "licence is not recorded" in card and "LIDC" not in card and "left_out" not in card
    for split in SPLITS:
        rows = load_nodules(nodules, split)
        assert f"| {split} | {rows[0]['source']} | {len(rows)} | {len(set(rows['patient_id']))} |" in card
    (nodules / "train" / "cache-0123.arrow").unlink()
    read = datasets.load_dataset(str(nodules), data_files=stated, cache_dir=str(tmp_path / "cache"), name="default")
    assert {split: len(rows) for split, rows in read.items()} == {s: len(load_nodules(nodules, s)) for s in SPLITS}


def test_a_card_that_is_there_goes_along_as_it_is(hub_server, nodules):
    (nodules / "README.md").write_text("# Ours\n")
    push_dataset(nodules, REPO)
    assert (nodules / "README.md").read_text() == "# Ours\n" and "README.md" in files_of(hub_server)


def test_a_folder_that_is_no_prepared_dataset_is_refused_before_the_hub_is_requested(hub_server, nodules, tmp_path):
    with pytest.raises(ValueError, match="not a prepared dataset of nodules"):
        push_dataset(tmp_path, REPO)
    (nodules / "test" / "state.json").unlink()
    with pytest.raises((ValueError, OSError), match="test"):
        push_dataset(nodules, REPO)
    assert hub_server.requests == []


def test_only_lidcs_rows_are_put_under_lidcs_licence(made):
    row = read_nodule(load_nodules(made, "train"), 0)

    def card_of(*sources: str) -> str:
        summary = DatasetSummary()
        for source in sources:
            summary.add({**row, "source": source})
        return dataset_card("a", summary)

    lidc, own = card_of("LIDC-IDRI"), card_of("ours")
    assert "license: cc-by-3.0\n" in lidc and "TCIA.2015.LO9QL9SX" in lidc
    assert "license: other\n" in own and "TCIA" not in own
    card = card_of("LIDC-IDRI", "ours")
    assert "license: other\n" in card and "Rows of another `source`" in card


@pytest.mark.parametrize(
    ("sources", "patients", "lidc"),
    [
        (["LIDC-IDRI"], ["1"], True),
        (["nodules"], ["LIDC-IDRI-0001", "LIDC-IDRI-1012"], True),
        (["nodules"], ["LIDC-IDRI-0001", "NLST-7"], False),
        (["lidc", "ours"], ["1"], False),
        ([], [], False),
    ],
)
def test_lidc_is_told_by_sources_or_by_patients(sources, patients, lidc, tmp_path):
    assert is_lidc(sources, patients) is lidc
    assert licence_of(tmp_path, lidc) == ("cc-by-3.0" if lidc else None)


@pytest.mark.parametrize(
    "header", ["[" * 100_000, "a: 2001-99-99", "a: " + "9" * 5000, "a: !!int x", "a: !!timestamp x", "? {a: b}\n: c"]
)
def test_a_card_with_a_broken_header_states_no_licence(tmp_path, header):
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n")
    assert licence_of(tmp_path, lidc=False) is None


@pytest.mark.parametrize(("content", "fault"), [(b"---\n\xff", "no text in UTF-8"), (b"a" * 2**19, "expected at most")])
def test_a_card_that_is_no_text_is_refused(tmp_path, content, fault):
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(ValueError, match=rf"README\.md: .*{fault}"):
        licence_of(tmp_path, lidc=False)
