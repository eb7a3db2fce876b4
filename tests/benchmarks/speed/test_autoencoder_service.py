"""The service under load, with two clients."""

import pytest

from benchmarks.speed import autoencoder_service


@pytest.mark.slow
def test_the_service_answers_all_clients_beside_the_model_in_process(capsys, forked_processes):
    autoencoder_service.main(
        autoencoder_service.Config(size=16, clients=2, rounds=1, requests=4, memory_requests=4, threads=1)
    )
    printed = capsys.readouterr().out
    assert "| encode" in printed and "| decode" in printed and "MiB" in printed
