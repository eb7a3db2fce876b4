"""What the texture losses cost in a training step, on small crops."""

import pytest

from benchmarks.speed import texture_step


@pytest.mark.slow
def test_a_step_is_timed_with_and_without_texture_losses(capsys):
    texture_step.main(texture_step.StepConfig(crop_size=16, batch=2, repeats=1, threads=1))
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| without texture losses", "| with", "| with, gradients measured"]
    assert rows[0][2] == "1.00 |"
