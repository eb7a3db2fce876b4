"""What the service counts, for Prometheus."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from autoencoder.service.batching import Batcher

PREFIX = "lesion_diffusion_autoencoder_"
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class ServiceMetrics:
    """A registry of its own, so that several services can live in one process (as they do in tests)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            PREFIX + "requests", "Requests by answer; 499: the client had gone", ["kind", "status"], registry=registry
        )
        self._latency = Histogram(
            PREFIX + "request_seconds", "From headers to answer", ["kind"], buckets=SECONDS, registry=registry
        )
        self._model = Histogram(
            PREFIX + "model_seconds", "Of one batch, in the worker", ["kind"], buckets=SECONDS, registry=registry
        )
        self._volumes = Histogram(
            PREFIX + "batch_volumes", "Volumes of one batch", ["kind"], buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )

    def watch(self, batcher: Batcher, held: Callable[[], int]) -> None:
        """Read the queue, and the requests held, whenever the metrics are asked for."""
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "queue_requests": ("Requests that wait for the model", lambda: batcher.waiting[0]),
            "queue_voxels": ("CT voxels that wait for the model", lambda: batcher.waiting[1]),
            "held_requests": ("Requests being read, waiting, computed or answered", held),
        }
        for name, (text, value) in gauges.items():
            Gauge(PREFIX + name, text, registry=self.registry).set_function(value)

    @contextmanager
    def batch(self, kind: str, volumes: int) -> Iterator[None]:
        """Time one batch."""
        started = time.monotonic()
        yield
        self._model.labels(kind).observe(time.monotonic() - started)
        self._volumes.labels(kind).observe(volumes)

    def answered(self, kind: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(kind, str(status)).inc()
        self._latency.labels(kind).observe(seconds)
