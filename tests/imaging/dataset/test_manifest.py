import datasets
import pyarrow.parquet as pq
import pytest

from imaging.dataset.manifest import SCHEMA, join_manifests, write_rows

MADE = {
    "lesion": 0,
    "attempt": 1,
    "accepted": True,
    "label": 1,
    "center_zyx": [1.0, 2.0, 3.5],
    "requested_texture": 4.0,
}
REJECTED = {"lesion": 0, "attempt": 0, "accepted": False, "reason": "no site", "detail": "found 0 places"}


def test_datasets_reads_the_rows_of_joined_manifests_in_order_with_null_for_what_is_not_known(tmp_path):
    write_rows([REJECTED, MADE], tmp_path / "a.parquet")
    write_rows([{**REJECTED, "lesion": 1}], tmp_path / "b.parquet")
    join_manifests([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "manifest.parquet")
    files = str(tmp_path / "manifest.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    nothing = dict.fromkeys(SCHEMA.names)
    assert list(rows) == [{**nothing, **REJECTED}, {**nothing, **MADE}, {**nothing, **REJECTED, "lesion": 1}]


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_rows([MADE, REJECTED], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pq.read_schema(tmp_path / "a") == SCHEMA


def test_a_column_too_many_and_a_broken_part_are_refused(tmp_path):
    with pytest.raises(ValueError, match="columns colour: not in the manifest, which has lesion, attempt"):
        write_rows([{"colour": 1}], tmp_path / "a")
    (tmp_path / "broken").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"broken: cannot be read as a manifest .*; delete its folder, and run again"):
        join_manifests([tmp_path / "broken"], tmp_path / "manifest.parquet")
    assert not (tmp_path / "manifest.parquet").exists()


def test_a_damaged_page_is_refused_in_one_line(tmp_path):
    write_rows([MADE], tmp_path / "part")
    content = bytearray((tmp_path / "part").read_bytes())
    content[4:24] = bytes(range(230, 250))  # the header of the first page
    (tmp_path / "part").write_bytes(content)
    with pytest.raises(ValueError, match=r"part: cannot be read as a manifest .*page header") as raised:
        join_manifests([tmp_path / "part"], tmp_path / "manifest.parquet")
    assert "\n" not in str(raised.value)
