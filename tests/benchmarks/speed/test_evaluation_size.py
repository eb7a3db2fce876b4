import pytest

from benchmarks.speed import evaluation_size
from benchmarks.speed.evaluation_size import Config, main


def test_every_part_is_measured_at_every_size(monkeypatch, capsys):
    monkeypatch.setattr(evaluation_size, "DEEP", 20)
    monkeypatch.setattr(evaluation_size, "SHALLOW", 3)
    monkeypatch.setattr(evaluation_size, "use_threads", lambda threads: None)
    main(Config(sizes=(200, 400), before=200, permutations=3, parts="frechet,kernel,wasserstein,tests"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *("| frechet", "| kernel", "| wasserstein", "| tests", "| frechet, before")
    ]
    assert all(line.count(" MiB") == (1 if "before" in line else 2) for line in lines[2:])


def test_the_search_for_copies_is_a_part_too():
    seconds, memory = evaluation_size.measured(evaluation_size.copies, 10, Config())
    assert seconds > 0 and memory > 0


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="expected ascending numbers from 100 on, and some of frechet, kernel"):
        Config(parts="nothing")
