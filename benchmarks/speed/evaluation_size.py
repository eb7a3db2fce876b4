"""Time and memory of the comparison of N made lesions with N / 10 real ones, against N.

    uv run benchmarks/speed/evaluation_size.py
    uv run benchmarks/speed/evaluation_size.py --sizes 10000,20000,50000 --parts frechet,kernel,wasserstein,tests

Each part runs in a process of its own, on one thread, so that its peak of memory is its own; the features themselves
are part of it. The exponent says to which power of N the time grows between the two largest N. "before" is
the Fréchet distance by the matrix of all pairs of rows, up to `--before` lesions.

Features are drawn at random: 2048 of a lesion for the Fréchet and the kernel distance, as of FID (which has three such
rows a lesion), and 64 for the Wasserstein distances and the tests. For the search for copies the lesions are spheres in
noise, drawn when they are looked at, as stored crops are read.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from evaluation.lesions.lesion_sets import Lesion, StoredLesion, Voxels
from evaluation.lesions.memorisation import check_memorisation
from evaluation.statistics.distances import frechet_distance, kernel_distance, wasserstein_per_feature
from evaluation.statistics.exchange import (
    TEST_SPLITS,
    LesionSets,
    draw_splits,
    exchange_tests,
    ratio_interval,
    split_distances,
)
from foundation.config import launch, parse_config
from foundation.threads import use_threads

REAL_SHARE = 10  # made lesions for each real one
DEEP, SHALLOW = 2048, 64  # features


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        sizes: Numbers of made lesions, ascending.
        parts: Some of frechet, kernel, wasserstein, tests and copies, with commas between.
        before: Largest N at which the Fréchet distance is also taken by the matrix of all pairs.
        permutations: Exchanges of each test.
        seed: Of all that is drawn.
    """

    sizes: tuple[int, ...] = (1000, 2000, 4000)
    parts: str = "frechet,kernel,wasserstein,tests,copies"
    before: int = 2000
    permutations: int = 19
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts.split(",") if part not in PARTS]
        if unknown or min(self.sizes, default=0) < 100 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(
                f"sizes {self.sizes}, parts {self.parts}: expected ascending numbers from 100 on, and some of "
                f"{', '.join(PARTS)}"
            )


def rows(count: int, features: int, seed: int, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, features), dtype=np.float32).astype(kind)


def frechet(n: int, config: Config) -> Callable[[], object]:
    X, Y = rows(n, DEEP, config.seed), rows(n // REAL_SHARE, DEEP, config.seed + 1)
    return lambda: frechet_distance(X, Y)


def frechet_before(n: int, config: Config) -> Callable[[], object]:
    X, Y = rows(n, DEEP, config.seed, np.float64), rows(n // REAL_SHARE, DEEP, config.seed + 1, np.float64)
    A, B = ((Z - Z.mean(0)) / np.sqrt(len(Z) - 1) for Z in (X, Y))
    return lambda: np.linalg.svd(A @ B.T, compute_uv=False).sum()


def kernel(n: int, config: Config) -> Callable[[], object]:
    X, Y = rows(n, DEEP, config.seed), rows(n // REAL_SHARE, DEEP, config.seed + 1)
    return lambda: kernel_distance(X, Y)


def wasserstein(n: int, config: Config) -> Callable[[], object]:
    X, Y = rows(n, SHALLOW, config.seed), rows(n // REAL_SHARE, SHALLOW, config.seed + 1)
    return lambda: wasserstein_per_feature(X, Y)


def tests(n: int, config: Config) -> Callable[[], object]:
    """Splits, the interval of the ratio and the exchange tests of `REAL_SHARE` samples for each real mask."""
    masks = n // REAL_SHARE
    real, made = rows(masks, SHALLOW, config.seed, np.float64), rows(n, SHALLOW, config.seed + 1, np.float64)
    patients = [f"p{number // 2}" for number in range(masks)]
    sets = LesionSets(real[:, None], made.reshape(masks, REAL_SHARE, 1, SHALLOW), patients, patients, shared=True)

    def run() -> None:
        rng = np.random.default_rng(config.seed)
        splits = draw_splits(sets, TEST_SPLITS, rng)
        split_distances(sets, splits, wasserstein_per_feature)
        ratio_interval(sets, splits, wasserstein_per_feature)
        exchange_tests(sets, splits, wasserstein_per_feature, config.permutations, rng)

    return run


def copies(n: int, config: Config) -> Callable[[], object]:
    def spheres(kind: str, count: int, seed: int) -> list[Lesion]:
        names = [f"{kind}{number}" for number in range(count)]
        return [StoredLesion(name, name, 3 * (1.0,), partial(drawn_voxels, seed + k)) for k, name in enumerate(names)]

    made, train, test = spheres("made", n, 10**6), spheres("train", n // REAL_SHARE, 10**7), spheres("test", 10, 10**8)
    return lambda: check_memorisation(made, train, test)


@lru_cache(maxsize=4)
def drawn_voxels(seed: int) -> Voxels:
    """A crop of 48 voxels: a sphere of 4 to 10 mm radius with noise, in noisy lung."""
    rng = np.random.default_rng(seed)
    grid = np.indices((48, 48, 48)) - 24
    mask = (grid**2).sum(0) <= rng.uniform(4, 10) ** 2
    ct_hu = np.where(mask, 0, -850) + 40 * rng.standard_normal(mask.shape)
    return ct_hu.astype(np.float32), mask, np.ones_like(mask), (1.0, 1.0, 1.0)


PARTS: dict[str, Callable[[int, Config], Callable[[], object]]] = {
    "frechet": frechet,
    "kernel": kernel,
    "wasserstein": wasserstein,
    "tests": tests,
    "copies": copies,
}


def measured(prepare: Callable[[int, Config], Callable[[], object]], n: int, config: Config) -> tuple[float, float]:
    """CPU seconds of a part, and the peak of its process's memory in MiB."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def work() -> None:
        run = prepare(n, config)
        started = time.process_time()
        run()
        sending.send((time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))

    process = context.Process(target=work)
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"N = {n}: the process ended with status {process.exitcode}, perhaps for want of memory")
    found: tuple[float, float] = receiving.recv()
    return found


def main(config: Config) -> None:
    use_threads(1)
    print("| part | " + " | ".join(f"N = {n:,}" for n in config.sizes) + " | exponent |")
    print("|---|" + "---:|" * (len(config.sizes) + 1), flush=True)
    cases = [(name, PARTS[name], config.sizes) for name in config.parts.split(",")]
    if "frechet" in config.parts:
        few = tuple(n for n in config.sizes if n <= config.before)
        cases.append(("frechet, before", frechet_before, few))
    for name, prepare, sizes in cases:
        found = [measured(prepare, n, config) for n in sizes]
        cells = [f"{seconds:.2f} s, {memory:.0f} MiB" for seconds, memory in found]
        cells += ["-"] * (len(config.sizes) - len(cells))
        exponent = "-"
        if len(found) > 1:
            exponent = f"{np.log(found[-1][0] / found[-2][0]) / np.log(sizes[-1] / sizes[-2]):.2f}"
        print(f"| {name} | " + " | ".join(cells) + f" | {exponent} |", flush=True)


if __name__ == "__main__":
    launch(main, parse_config(Config))
