"""Where a script computes."""

import os
from pathlib import Path

import torch


def torch_device(name: str) -> torch.device:
    """ "auto" -> a GPU where there is one, else the CPU; or the device of that name.

    Processes that a launcher starts on one machine take a GPU each (LOCAL_RANK); any other process takes the first.

    Raises: ValueError: If the name is none, or PyTorch does not find that device.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}, expected cpu, or cuda where PyTorch finds a GPU") from error
    if device.type != "cpu" and not (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()):
        raise ValueError(f"device {name!r}, expected cpu, or cuda where PyTorch finds a GPU")
    return device


def use_all_cores() -> None:
    """Share the cores among this machine's processes where a launcher has left each with one thread.

    `accelerate launch` and `torchrun` set OMP_NUM_THREADS to 1 where the user has not set it. A user's own number, also
    a 1, is kept: it is in the environment that the launcher itself was started with, which Linux shows; elsewhere a 1
    is taken for the launcher's. (A 1 that was asked of the launcher, by `--num_cpu_threads_per_process`, looks like its
    default.) A script that is started without a launcher has what PyTorch chose.
    """
    launched = "LOCAL_WORLD_SIZE" in os.environ or any(name.startswith("ACCELERATE_") for name in os.environ)
    if launched and os.environ.get("OMP_NUM_THREADS") == "1" and not _parent_was_given("OMP_NUM_THREADS"):
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, core_count() // processes))


def core_count() -> int:
    """Physical cores that this process may use: as many threads as PyTorch takes by itself."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    try:
        topology = Path("/sys/devices/system/cpu")
        return len({(topology / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in cpus})
    except OSError:
        return len(cpus)


def _parent_was_given(variable: str) -> bool:
    """Whether the process that started this one had the variable when it was itself started; False if unknown."""
    try:
        given = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return False
    return any(entry.startswith(f"{variable}=".encode()) for entry in given.split(b"\0"))
