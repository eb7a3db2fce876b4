"""Parts of work: together all of it, each item once, and nearly alike in size."""

import pytest

from foundation.shards import own_part, parse_shard


@pytest.mark.parametrize(("count", "shards", "processes"), [(10, 3, 1), (7, 2, 4), (2, 3, 2), (0, 2, 1)])
def test_the_parts_of_all_processes_are_the_whole_in_order(count, shards, processes, monkeypatch):
    items = [f"item {number}" for number in range(count)]
    parts = []
    for shard in range(1, shards + 1):
        for rank in range(processes):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(processes))
            parts.append(own_part(items, f"{shard}/{shards}"))
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_that_no_launcher_started_has_its_shard_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert own_part(range(10), "1/1") == range(10) and own_part(range(10), "2/2") == range(5, 10)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/", "a/b", "1/-2", ""])
def test_what_is_no_shard_is_refused(shard):
    with pytest.raises(ValueError, match=f"shard '{shard}', expected i/n with i from 1 to n, such as 1/4"):
        parse_shard(shard)
