"""The sizes of the U-Net, with two tiny ones."""

import pytest

from benchmarks.speed import unet_sizes


@pytest.mark.slow
def test_unet_sizes_measures_steps_and_calls_in_processes_of_their_own(capsys, monkeypatch, forked_processes):
    small = {"channels": (8, 16), "blocks_per_level": 1, "map_channels": 4, "num_labels": 3}
    monkeypatch.setattr(unet_sizes, "sizes", lambda: {"tiny": small, "wider": small | {"channels": (16, 16)}})
    unet_sizes.main(unet_sizes.Config(crop=16, batch=1, repeats=1))
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [cells[:2] for cells in lines[2:]] == [["| tiny", "8, 16"], ["| wider", "16, 16"]]
    assert all("ms" in cell and "MiB" in cell for cells in lines[2:] for cell in cells[3:])
