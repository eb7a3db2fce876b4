"""The queue in front of the painter: one worker, a bounded number of jobs, progress, and cancelling within a step."""

import logging
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evaluation.page.schema import InpaintBody

logger = logging.getLogger(__name__)
ENDED = ("done", "failed", "cancelled")
REMEMBERED = 200  # ended jobs whose state can still be asked for
Run = Callable[[InpaintBody, str, Callable[[int, int, int], None], Callable[[str], None]], Any]


class Full(Exception):  # noqa: N818 - it says what is the matter
    """No room for another job."""


class Cancelled(Exception):  # noqa: N818
    """The job was cancelled."""


@dataclass
class Job:
    """One request in work.

    Attributes:
        name: Of the job, and of its result.
        body: The request.
        state: "queued", "running", "done", "failed" or "cancelled".
        progress: Lesion, attempt and step, from 1, when it is running.
        detail: Why it failed.
        notes: For the user.
    """

    name: str
    body: InpaintBody
    state: str = "queued"
    progress: dict[str, int] = field(default_factory=dict)
    detail: str | None = None
    notes: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """The queue and its worker, which starts with the first job.

    Args:
        run: Paints: body, name of the result, a function to call after each step, one for notes.
        most: Jobs that wait or run.
        most_of_session: Of them, those of one session.
    """

    def __init__(self, run: Run, most: int = 8, most_of_session: int = 4) -> None:
        self._run, self.most, self.most_of_session = run, most, most_of_session
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None

    def submit(self, body: InpaintBody) -> Job:
        """Put a request into the queue. Raises Full."""
        with self._changed:
            open_jobs = [job for job in self._jobs.values() if job.state not in ENDED]
            own = sum(job.body.session == body.session for job in open_jobs)
            if self._closed or len(open_jobs) >= self.most or own >= self.most_of_session:
                raise Full(f"{own} jobs of this session and {len(open_jobs)} of all wait or run; try again later")
            job = Job(secrets.token_hex(8), body)
            self._jobs[job.name] = job
            self._waiting.append(job)
            ended = [name for name, old in self._jobs.items() if old.state in ENDED]
            for name in ended[: max(len(self._jobs) - REMEMBERED, 0)]:
                del self._jobs[name]
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True)
                self._worker.start()
            self._changed.notify_all()
            return job

    def find(self, session: str, name: str) -> Job | None:
        """A job of a session."""
        job = self._jobs.get(name)
        return job if job is not None and job.body.session == session else None

    def of(self, session: str) -> list[Job]:
        """A session's jobs that wait or run, the oldest first."""
        with self._changed:
            return [job for job in self._jobs.values() if job.body.session == session and job.state not in ENDED]

    def describe(self, job: Job) -> dict[str, Any]:
        """The state of a job, as JSON types."""
        with self._changed:
            position = self._waiting.index(job) + 1 if job in self._waiting else 0
            told = {"job": job.name, "state": job.state, "position": position, "notes": list(job.notes)}
            return told | job.progress | ({"detail": job.detail} if job.detail else {})

    def cancel(self, job: Job) -> None:
        """End a job: at once if it waits, after its present step if it runs."""
        with self._changed:
            job.cancelled.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "cancelled"

    def close(self) -> None:
        """Cancel everything, and wait for the worker."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                if job.state not in ENDED:
                    job.cancelled.set()
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._waiting.popleft()
                job.state = "running"
            try:
                self._run(job.body, job.name, self._step_of(job), job.notes.append)
                job.state = "done"
            except Cancelled:
                job.state = "cancelled"
            except ValueError as error:
                job.detail, job.state = str(error), "failed"
            except Exception as error:
                logger.error("job %s failed: %s", job.name, type(error).__name__)  # a message may hold a patient's name
                job.detail, job.state = f"the server failed ({type(error).__name__})", "failed"

    def _step_of(self, job: Job) -> Callable[[int, int, int], None]:
        steps, lesions = job.body.settings.steps, len(job.body.lesions)

        def on_step(lesion: int, attempt: int, step: int) -> None:
            if job.cancelled.is_set():
                raise Cancelled
            now = {"lesion": lesion + 1, "attempt": attempt + 1, "step": step + 1}
            job.progress = {**now, "steps": steps, "lesions": lesions}

        return on_step
