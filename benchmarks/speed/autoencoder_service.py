"""The autoencoder's service under 8 clients, against calling the model in one's own process.

    uv run benchmarks/speed/autoencoder_service.py [--model runs/vae/model] [--size 48]

Both sides use the same tensors, the same number of threads and `keep_freed_memory`, and take turns, round by round;
the ratio is that of each round. In process, the model is called with one request after the other. The clients are
processes of their own, each sending its next request when it has its answer (a closed loop), with the body made
beforehand; they and the service's own event loop need a little of a core beside the model's threads, so leave them one
(--threads below the number of cores), or the figures measure the scheduler. The CPU time of a request, of the whole
service without its clients, does not depend on what else runs. Printed at the end: the service's memory over 1,000
requests.
"""

import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import requests

from foundation.config import launch, parse_config  # torch is imported where it is used, so that no client holds it

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Config:
    """The load.

    Attributes:
        model: Folder of an autoencoder; none makes a random one of the size of configs/vae_kl.yaml.
        size: Edge of the volumes, in voxels.
        clients: Processes that send at the same time.
        threads: Of the model, on both sides.
        rounds: How often both sides take their turn.
        requests: Of all clients together in one turn; in process, so many calls.
        memory_requests: Over which the service's memory is watched.
        max_batch_voxels: Of the service; none for its default.
    """

    model: Path | None = None
    size: int = 48
    clients: int = 8
    threads: int = 1
    rounds: int = 5
    requests: int = 48
    memory_requests: int = 1000
    max_batch_voxels: int | None = None


@dataclass
class Side:
    """What is measured of one side: requests/s of each turn, seconds of each request, CPU seconds of all."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def main(config: Config) -> None:
    """Make the model, start the service and the clients, measure in turns."""
    import torch

    from autoencoder.loading import load_autoencoder
    from autoencoder.service.memory import keep_freed_memory

    keep_freed_memory()  # as the service does
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        model_folder = config.model or random_model(Path(folder))
        model = load_autoencoder(model_folder)
        with service(config, model_folder) as url, clients(config.clients) as pipes:
            print(f"{config.clients} clients, {config.size}³ voxels, {config.threads} thread(s), ", end="")
            print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}\n")
            print(
                "| | requests/s in process | service | ratio, median (range) | CPU, ms, in process | service ", end=""
            )
            print("| latency p50, ms, in process | service | p95, ms, service |")
            print("|---|---|---|---|---|---|---|---|---|", flush=True)
            for kind in ("encode", "decode"):
                measure(config, kind, model, url, pipes)
            watch_memory(config, model, url, pipes)


def measure(config: Config, kind: str, model: Any, url: str, pipes: list[Connection]) -> None:
    """One row of the table."""
    import torch

    sample = sample_of(kind, model, config.size)
    answer, _ = post(requests.Session(), url, kind, sample)
    here, there = Side(), Side()
    with torch.inference_mode():
        call = (
            (lambda x: model.encode(x).latent_dist.mode()) if kind == "encode" else (lambda x: model.decode(x).sample)
        )
        tensor = torch.from_numpy(sample)
        np.testing.assert_allclose(answer, call(tensor).numpy().ravel(), rtol=1e-4, atol=1e-4)
        drive(pipes, url, kind, sample, config.clients)  # warms up both sides
        for _ in range(config.rounds):
            cpu, started = time.process_time(), time.perf_counter()
            for _ in range(config.requests):
                before = time.perf_counter()
                call(tensor)
                here.latencies.append(time.perf_counter() - before)
            here.rates.append(config.requests / (time.perf_counter() - started))
            here.cpu_s += time.process_time() - cpu
            cpu, started = process_metric(url, "cpu_seconds_total"), time.perf_counter()
            there.latencies += drive(pipes, url, kind, sample, config.requests)
            there.rates.append(config.requests / (time.perf_counter() - started))
            there.cpu_s += process_metric(url, "cpu_seconds_total") - cpu
    ratios = [b / a for a, b in zip(here.rates, there.rates, strict=True)]
    cpu_ms = [1000 * side.cpu_s / len(side.latencies) for side in (here, there)]
    p50, p95 = np.percentile(1000 * np.array(there.latencies), [50, 95])
    print(
        f"| {kind} | {statistics.median(here.rates):.1f} | {statistics.median(there.rates):.1f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {cpu_ms[0]:.1f} | {cpu_ms[1]:.1f} "
        f"| {1000 * statistics.median(here.latencies):.0f} | {p50:.0f} | {p95:.0f} |",
        flush=True,
    )


def watch_memory(config: Config, model: Any, url: str, pipes: list[Connection]) -> None:
    """Resident memory of the service, by its own metrics, while encodes and decodes take turns."""
    print("\n| requests | resident memory of the service, MiB |\n|---|---|")
    samples = {kind: sample_of(kind, model, config.size) for kind in ("encode", "decode")}
    step = max(config.memory_requests // 10, 2 * config.clients)
    for count in range(0, config.memory_requests + 1, step):
        print(f"| {count} | {process_metric(url, 'resident_memory_bytes') / 2**20:.1f} |", flush=True)
        for kind in samples if count < config.memory_requests else ():
            drive(pipes, url, kind, samples[kind], step // 2)


def process_metric(url: str, name: str) -> float:
    """What the service says of its own process."""
    found = re.search(rf"^process_{name} (\S+)", requests.get(f"{url}/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def random_model(folder: Path) -> Path:
    """An untrained autoencoder of the size that configs/vae_kl.yaml trains."""
    import torch

    from autoencoder import AutoencoderKL3D

    torch.manual_seed(0)
    AutoencoderKL3D(channels=(32, 96), blocks_per_level=1, latent_channels=4).save_pretrained(folder)
    return folder


def sample_of(kind: str, model: Any, size: int) -> np.ndarray:
    shape = (1, 1, size, size, size)
    return (
        np.random.default_rng(0).uniform(-1, 1, shape if kind == "encode" else model.latent_shape(shape)).astype("f4")
    )


@contextmanager
def service(config: Config, model: Path) -> Iterator[str]:
    """scripts/serve_autoencoder.py as a process; its URL."""
    command = [sys.executable, str(ROOT / "scripts/serve_autoencoder.py"), "--model", str(model), "--port", "0"]
    command += ["--device", "cpu"]
    command += ["--max-batch-voxels", str(config.max_batch_voxels)] if config.max_batch_voxels else []
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(config.threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)
    try:
        assert process.stdout
        yield process.stdout.readline().split(" at ")[1].split()[0]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def clients(count: int) -> Iterator[list[Connection]]:
    """Processes that wait for work; their pipes."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(count):
        pipe, other = context.Pipe()
        process = context.Process(target=client, args=(other,), daemon=True)
        process.start()
        pipes.append(pipe)
        processes.append(process)
    try:
        yield pipes
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.send(None)
            process.join()


def client(pipe: Connection) -> None:
    """Send as many requests as the pipe says, one after the other; answer with their latencies in seconds."""
    session = requests.Session()
    while work := pipe.recv():
        url, kind, sample, count = work
        pipe.send([post(session, url, kind, sample)[1] for _ in range(count)])


def drive(pipes: list[Connection], url: str, kind: str, sample: np.ndarray, count: int) -> list[float]:
    """Have the clients send `count` requests together, in equal parts; their latencies."""
    for pipe in pipes:
        pipe.send((url, kind, sample, count // len(pipes)))
    return [latency for pipe in pipes for latency in pipe.recv()]


def post(session: requests.Session, url: str, kind: str, sample: np.ndarray) -> tuple[np.ndarray, float]:
    """(the answer's values, seconds)."""
    started = time.perf_counter()
    parameters: dict[str, Any] = {"shape": list(sample.shape), "dtype": "float32"}
    response = session.post(f"{url}/{kind}", params=parameters, data=sample.tobytes())
    response.raise_for_status()
    answer = np.frombuffer(response.content, np.float32)
    return answer, time.perf_counter() - started


if __name__ == "__main__":
    launch(main, parse_config(Config))
