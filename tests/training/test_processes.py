"""Several real processes (gloo) that share nothing but the network train, continue and save as one."""

import json
import multiprocessing
import socket
from multiprocessing.connection import wait

import pytest
import small_training
import torch

from training.processes import TIMEOUT

BATCH, ACCUMULATION = 2, 2
PATIENCE_S = 600
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[2, 3])
def ended(request, tmp_path_factory):
    """The folder that the processes leave, and what each left there."""
    folder, processes = tmp_path_factory.mktemp(f"processes{request.param}"), range(request.param)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.run", "autoencoder", "accelerate", "tensorboard"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (len(processes), port, folder, BATCH, ACCUMULATION)
    started = [context.Process(target=small_training.join, args=(rank, *arguments)) for rank in processes]
    try:
        for process in started:
            process.start()
        pending = {process.sentinel: process for process in started}
        while pending:
            over = wait(list(pending), PATIENCE_S)
            assert over, "the processes wait for one another"
            for sentinel in over:
                assert pending.pop(sentinel).exitcode == 0
    finally:
        for process in started:
            process.kill()
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in processes]


def test_all_processes_go_on_from_the_checkpoint_of_the_first(ended):
    _, left = ended
    for own in left:
        assert own["steps"] == [0, 1, 1, 2, 2, 3, 3, 4]  # after every batch, two a step; none is repeated
        assert all(torch.equal(a, b) for a, b in zip(own["weights"], left[0]["weights"], strict=True))


def test_processes_that_accumulate_gradients_train_as_one_with_all_their_samples_in_a_batch(ended, tmp_path):
    _, left = ended
    config = small_training.settings(tmp_path, BATCH * ACCUMULATION * len(left))
    whole = small_training.weights(small_training.train(config, lambda run: None))
    half = small_training.settings(tmp_path / "half", BATCH * len(left))
    others = small_training.weights(small_training.train(half, lambda run: None))
    for mine, expected in zip(left[0]["weights"], whole, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    assert not all(torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in zip(whole, others, strict=True))


def test_the_first_process_writes_alone_and_nobody_waits_while_it_saves(ended):
    folder, left = ended
    assert (folder / "node0/run/model/diffusion_pytorch_model.safetensors").exists()
    written = [json.loads((folder / f"gone{rank}").read_text()) for rank in range(1, len(left))]
    assert written == [[]] * (len(left) - 1)
    lines = [json.loads(line) for line in (folder / "node0/run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_processes_wait_for_an_evaluation_of_hours(ended):
    _, left = ended
    assert {own["timeout_s"] for own in left} == {TIMEOUT.total_seconds()} and TIMEOUT.total_seconds() >= 4 * 3600
