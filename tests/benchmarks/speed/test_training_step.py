"""The training step beside MONAI's loop, on the tiny chain."""

import pytest

from benchmarks.speed import training_step


@pytest.mark.slow
def test_each_chain_takes_its_turns_in_a_process_of_its_own(chain, capsys, forked_processes):
    training_step.main(
        training_step.StepConfig(
            latents=chain.latents,
            vae=str(chain.vae / "model"),
            only="chain",
            batch=2,
            steps=1,
            rounds=2,
            warmup=1,
            crops=4,
            threads=1,
        )
    )
    printed = capsys.readouterr().out
    first, second = printed.split("A step of ours is")
    rows = [line.split(" | ") for line in first.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 3 and all("did not run" not in row[2] for row in rows)
    assert rows[0][3] == "1.00 (1.00 ... 1.00) |"
    assert len([line for line in second.splitlines() if line.startswith("| ")]) == 4  # what the parts of a step take
