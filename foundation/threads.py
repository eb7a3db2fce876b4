"""How many CPU threads a script computes with: `--threads` of every long script, and the default where it is not given.

PyTorch's own default is a thread for each core that it sees. Where a process may use fewer (a container's quota, a job
of a queue) or is one of several (a launcher, a job array), so many threads wait for one another and everything is slow.
"""

import contextlib
import os
import sys
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, Linux control groups version 2: "<microseconds> <period>"
OF_QUEUES = ("SLURM_CPUS_PER_TASK", "PBS_NCPUS", "NSLOTS", "LSB_DJOB_NUMPROC")  # cores that a queue gave to the job
LAUNCHED_ONE = "1"  # `accelerate launch` and `torchrun` set OMP_NUM_THREADS to 1 where the user has not set it


def use_threads(threads: int | None = None) -> None:
    """Compute with so many threads: PyTorch, and SimpleITK where it is imported already.

    Without a number, the first of these that applies:

    - OMP_NUM_THREADS of the user is kept. (A 1 that a launcher has set is none. What the launcher was started with
      tells them apart on Linux; elsewhere a 1 is taken for the launcher's.)
    - Processes of a launcher on one machine (LOCAL_WORLD_SIZE) share the cores that they may use.
    - A process that may use fewer cores than PyTorch has threads uses those (`usable_cores`).
    - PyTorch decides.

    Args:
        threads: Of this process; None takes the default.
    Raises: ValueError: If it is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads {threads}, expected at least 1, or null for the default")
    number = _default() if threads is None else threads
    if number is None:
        return
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # also of what this process starts, or runs with no number
    import torch  # slow to import, and there already where it counts

    torch.set_num_threads(number)
    if "SimpleITK" in sys.modules:
        sys.modules["SimpleITK"].ProcessObject.SetGlobalDefaultNumberOfThreads(number)


def usable_cores() -> int:
    """Physical cores that this process may use: of its CPU set, the container's quota and the queue's job."""
    limits = [core_count()]
    with contextlib.suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        limits.append(round(int(quota) / int(period)))  # without a quota it is "max", which is no number
    limits += [int(os.environ[name]) for name in OF_QUEUES if os.environ.get(name, "").isdecimal()]
    return max(1, min(limits))


def core_count() -> int:
    """Physical cores in this process's CPU set: as many threads as PyTorch takes by itself."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    try:
        topology = Path("/sys/devices/system/cpu")
        return len({(topology / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in cpus})
    except OSError:
        return len(cpus)


def _default() -> int | None:
    """The number of threads, or None where it stays as it is."""
    launched = "LOCAL_WORLD_SIZE" in os.environ or any(name.startswith("ACCELERATE_") for name in os.environ)
    given = os.environ.get("OMP_NUM_THREADS")
    if given is not None and not (launched and given == LAUNCHED_ONE and not _parent_was_given("OMP_NUM_THREADS")):
        return None
    if given is not None:
        return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    cores = usable_cores()
    return cores if cores < core_count() else None


def _parent_was_given(variable: str) -> bool:
    """Whether the process that started this one had the variable when it was itself started; False if unknown."""
    try:
        given = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return False
    return any(entry.startswith(f"{variable}=".encode()) for entry in given.split(b"\0"))
