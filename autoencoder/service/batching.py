"""A bounded queue in front of one worker thread, which runs jobs of equal kind and shape together."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

RATE_MEMORY = 0.8  # weight of the past in the running mean of seconds per voxel


class QueueFull(Exception):  # noqa: N818 - a state, not a fault; named as queue.Full
    """No room for the job.

    Args:
        retry_after_s: Seconds until the work now accepted is done, from the speed seen so far.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, eq=False)
class Job:
    """One request's work.

    Attributes:
        kind: Jobs of one kind and shape are run together, and have a common speed per voxel.
        shape: Spatial shape of a volume.
        rows: Volumes in it.
        voxels: Size, in the unit of the limits.
        payload: What `run` receives.
        future: Receives what `run` returns for it.
        arrived: `time.monotonic()` of its arrival.
    """

    kind: str
    shape: tuple[int, ...]
    rows: int
    voxels: int
    payload: Any
    future: "Future[Any]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs jobs in the order of their arrival, each together with the jobs behind it that fit to it.

    Args:
        run: `run(kind, payloads)` -> one result per payload; an exception in a result's place is raised to that
            job's owner. Called from the worker thread only. Where it raises, the jobs are tried again one by one.
        max_batch: Most volumes run together; a single job may hold more.
        max_wait_s: How long a job waits for companions, counted from its arrival.
        max_batch_voxels: Most voxels run together; a single job may hold more.
        max_jobs: Most jobs that wait.
        max_voxels: Most voxels that wait; a job larger than this is refused always.
    """

    def __init__(
        self,
        run: Callable[[str, list[Any]], Sequence[Any]],
        max_batch: int,
        max_wait_s: float,
        max_batch_voxels: int,
        max_jobs: int,
        max_voxels: int,
    ) -> None:
        self._run = run
        self._max_batch, self._max_wait_s, self._max_batch_voxels = max_batch, max_wait_s, max_batch_voxels
        self._max_jobs, self._max_voxels = max_jobs, max_voxels
        self._queue: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_voxel: dict[str, float] = {}
        self._worker = threading.Thread(target=self._work, name="autoencoder", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> tuple[int, int]:
        """Jobs and voxels in the queue."""
        with self._changed:
            return len(self._queue), sum(job.voxels for job in self._queue)

    def check_room(self, voxels: int) -> None:
        """Raises QueueFull if a job of this size would be refused now."""
        with self._changed:
            waiting = sum(job.voxels for job in self._queue)
            if len(self._queue) >= self._max_jobs or waiting + voxels > self._max_voxels:
                raise QueueFull(self._backlog_s())

    def submit(self, job: Job) -> "Future[Any]":
        """Queue a job. Cancelling its future takes it out of the queue again, if it has not started.

        Raises:
            QueueFull: If there is no room for it.
            RuntimeError: If the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self.check_room(job.voxels)
            self._queue.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job.future

    def close(self) -> None:
        """Finish all accepted jobs, then stop the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _forget(self, job: Job) -> None:
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)

    def _backlog_s(self) -> int:
        rate, jobs = self._seconds_per_voxel, [*self._queue, *self._running]
        return max(1, math.ceil(sum(rate.get(job.kind, 0.0) * job.voxels for job in jobs)))

    def _work(self) -> None:
        while self._run_next():  # nothing of a finished job is kept here while the next one is awaited
            pass

    def _run_next(self) -> bool:
        batch = self._next_batch()
        if not batch:
            return False
        started = time.monotonic()
        results = self._results(batch)
        self._learn(batch, time.monotonic() - started)
        for job, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        return True

    def _results(self, batch: list[Job]) -> Sequence[Any]:
        try:
            return self._run(batch[0].kind, [job.payload for job in batch])
        except Exception as error:  # the worker must outlive whatever a request provokes
            if len(batch) == 1:
                return [error]
        return [self._results([job])[0] for job in batch]

    def _learn(self, batch: list[Job], seconds: float) -> None:
        kind, rate = batch[0].kind, seconds / sum(job.voxels for job in batch)
        with self._changed:
            self._running = []
            before = self._seconds_per_voxel.get(kind, rate)
            self._seconds_per_voxel[kind] = RATE_MEMORY * before + (1 - RATE_MEMORY) * rate

    def _next_batch(self) -> list[Job]:
        """Wait for work; empty when the batcher is closed and all work is done."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return []
                first, chosen = self._queue[0], self._companions()
                left_s = first.arrived + self._max_wait_s - time.monotonic()
                if self._is_full(chosen) or self._closed or left_s <= 0 or not self._changed.wait(left_s):
                    chosen = self._companions()
                    for job in chosen:
                        self._queue.remove(job)
                    self._running = [job for job in chosen if job.future.set_running_or_notify_cancel()]
                    if self._running:
                        return list(self._running)

    def _is_full(self, jobs: list[Job]) -> bool:
        """Whether not even a single volume more would fit."""
        rows, voxels = sum(job.rows for job in jobs), sum(job.voxels for job in jobs)
        return rows >= self._max_batch or voxels + jobs[0].voxels // jobs[0].rows > self._max_batch_voxels

    def _companions(self) -> list[Job]:
        """The first job and those behind it that may run with it."""
        if not self._queue:
            return []
        chosen, rows, voxels = [], 0, 0
        first = self._queue[0]
        for job in self._queue:
            fits = rows + job.rows <= self._max_batch and voxels + job.voxels <= self._max_batch_voxels
            if job is first or (fits and (job.kind, job.shape) == (first.kind, first.shape)):
                chosen.append(job)
                rows, voxels = rows + job.rows, voxels + job.voxels
        return chosen
