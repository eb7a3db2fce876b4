"""The queue and its worker: what runs together, in which order, how often, and what happens when it is too much."""

import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest

from autoencoder.service.batching import Batcher, Job, QueueFull

SHAPE = (4, 6, 8)


class Gate:
    """A `run` that notes its calls and waits until it is opened; returns its payloads, doubled."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, kind: str, payloads: list[Any]) -> list[Any]:
        self.calls.append((kind, payloads))
        self.entered.set()
        assert self.opened.wait(30)
        return [2 * payload for payload in payloads]


def batcher_of(run: Any, max_batch: int = 3, max_wait_s: float = 0.0, **limits: int) -> Batcher:
    settings = {"max_batch_voxels": 1000, "max_jobs": 10, "max_voxels": 1000, **limits}
    return Batcher(run, max_batch, max_wait_s, **settings)


def job(payload: Any, kind: str = "encode", shape: tuple[int, ...] = SHAPE, rows: int = 1, voxels: int = 10) -> Job:
    return Job(kind, shape, rows, voxels, payload)


def blocked(**settings: Any) -> tuple[Batcher, Gate]:
    """A batcher whose worker is inside the first job, of payload 0."""
    gate = Gate()
    batcher = batcher_of(gate, **settings)
    batcher.submit(job(0))
    assert gate.entered.wait(30)
    return batcher, gate


def test_jobs_of_one_kind_and_shape_run_together_in_order_up_to_the_size():
    batcher, gate = blocked()
    futures = [
        batcher.submit(one)
        for one in (job(1), job(2, "decode"), job(3), job(4, shape=(4, 6, 9)), job(5), job(6), job(7, "decode"))
    ]
    gate.opened.set()
    assert [future.result(30) for future in futures] == [2, 4, 6, 8, 10, 12, 14]
    assert gate.calls == [
        ("encode", [0]),
        ("encode", [1, 3, 5]),
        ("decode", [2, 7]),
        ("encode", [4]),
        ("encode", [6]),
    ]
    batcher.close()


def test_volumes_and_voxels_of_a_batch_are_bounded_but_a_larger_job_runs_alone():
    batcher, gate = blocked(max_batch_voxels=25)
    futures = [batcher.submit(one) for one in (job(1, rows=2), job(2, rows=2), job(3, voxels=20), job(4, rows=9))]
    gate.opened.set()
    assert [future.result(30) for future in futures] == [2, 4, 6, 8]
    assert gate.calls[1:] == [("encode", [1]), ("encode", [2]), ("encode", [3]), ("encode", [4])]
    batcher.close()


def test_job_waits_for_companions_until_the_batch_is_full():
    gate = Gate()
    gate.opened.set()
    batcher = batcher_of(gate, max_wait_s=3600)
    futures = [batcher.submit(job(number)) for number in range(3)]
    assert [future.result(30) for future in futures] == [0, 2, 4]
    assert gate.calls == [("encode", [0, 1, 2])]
    batcher.close()


def test_job_beside_which_nothing_fits_does_not_wait():
    gate = Gate()
    gate.opened.set()
    batcher = batcher_of(gate, max_wait_s=3600, max_batch_voxels=25)
    assert batcher.submit(job(1, rows=2, voxels=20)).result(30) == 2
    batcher.close()


def test_job_without_companions_runs_when_its_wait_is_over():
    gate = Gate()
    gate.opened.set()
    batcher = batcher_of(gate, max_wait_s=0.01)
    assert batcher.submit(job(7)).result(30) == 14
    batcher.close()


def test_cancelled_job_never_runs_and_gives_its_room_back():
    batcher, gate = blocked(max_jobs=1)
    dropped = batcher.submit(job(1))
    with pytest.raises(QueueFull):
        batcher.submit(job(2))
    assert dropped.cancel() and batcher.waiting == (0, 0)
    kept = batcher.submit(job(3))
    gate.opened.set()
    assert kept.result(30) == 6
    assert gate.calls == [("encode", [0]), ("encode", [3])]
    with pytest.raises(CancelledError):
        dropped.result(30)
    batcher.close()


def test_full_queue_refuses_by_jobs_and_by_voxels():
    batcher, gate = blocked(max_jobs=2, max_voxels=100)
    batcher.submit(job(1, voxels=60))
    assert batcher.waiting == (1, 60)
    for check in (lambda: batcher.submit(job(2, voxels=41)), lambda: batcher.check_room(41)):
        with pytest.raises(QueueFull):
            check()
    batcher.submit(job(3, voxels=40))
    with pytest.raises(QueueFull):
        batcher.submit(job(4, voxels=0))
    gate.opened.set()
    batcher.close()


def test_retry_after_is_the_time_that_the_accepted_work_takes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("autoencoder.service.batching.time.monotonic", lambda: now[0])
    gate = Gate()

    def run(kind: str, payloads: list[Any]) -> list[Any]:
        now[0] += {"encode": 5.0, "decode": 1.0}[kind]  # for 10 voxels
        return gate(kind, payloads) if payloads == [0] else payloads

    batcher = batcher_of(run, max_batch=1, max_jobs=2)
    for kind in ("encode", "decode"):
        batcher.submit(job(1, kind)).result(30)
    batcher.submit(job(0))
    assert gate.entered.wait(30)
    batcher.submit(job(1, "encode", voxels=30))
    batcher.submit(job(2, "decode", voxels=20))
    with pytest.raises(QueueFull) as full:
        batcher.submit(job(3))
    assert full.value.retry_after_s == 5 + 15 + 2  # running, and the two that wait
    gate.opened.set()
    batcher.close()


def test_failure_reaches_the_guilty_job_only_and_the_worker_lives_on():
    calls = []

    def run(kind: str, payloads: list[Any]) -> list[Any]:
        calls.append(list(payloads))
        if 2 in payloads:
            raise RuntimeError("no memory")
        return [ValueError("bad") if payload == 3 else payload for payload in payloads]

    batcher = batcher_of(run, max_wait_s=3600)
    good, guilty, bad = (batcher.submit(job(payload)) for payload in (1, 2, 3))
    assert good.result(30) == 1
    with pytest.raises(RuntimeError, match="no memory"):
        guilty.result(30)
    with pytest.raises(ValueError, match="bad"):
        bad.result(30)
    assert calls == [[1, 2, 3], [1], [2], [3]]
    batcher.close()


def test_closing_finishes_what_was_accepted_and_refuses_the_rest():
    batcher, gate = blocked(max_wait_s=3600, max_batch=1)
    futures = [batcher.submit(job(number)) for number in (1, 2)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.opened.set()
    closing.join(30)
    assert not closing.is_alive() and [future.result(0) for future in futures] == [2, 4]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(job(3))
