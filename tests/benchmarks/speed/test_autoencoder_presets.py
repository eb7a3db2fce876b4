"""The sizes of the autoencoder, on small volumes."""

import pytest

from benchmarks.speed import autoencoder_presets


@pytest.mark.slow
def test_presets_are_measured_with_and_without_gradient_checkpointing(capsys, forked_processes):
    autoencoder_presets.main(
        autoencoder_presets.Config(presets=("tiny",), patch=8, batch=1, volume=8, repeats=1, threads=1)
    )
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| tiny", "| tiny, gradient checkpointing"]
    assert all("ms" in cell and "MiB" in cell for row in rows for cell in row[2:])
