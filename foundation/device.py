"""Where a script computes."""

import os

import torch


def torch_device(name: str) -> torch.device:
    """ "auto" -> the GPU where there is one, else the CPU; or the device of that name.

    Raises: ValueError: If the name is none, or PyTorch does not find that device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}, expected cpu, or cuda where PyTorch finds a GPU") from error
    if device.type != "cpu" and not (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()):
        raise ValueError(f"device {name!r}, expected cpu, or cuda where PyTorch finds a GPU")
    return device


def use_all_cores() -> None:
    """Share the cores among this machine's processes where a launcher has left each with one thread.

    `accelerate launch` and `torchrun` set OMP_NUM_THREADS to 1 where the user has not set it. Another number is the
    user's own, and a script that is started without a launcher has what PyTorch chose.
    """
    launched = "LOCAL_WORLD_SIZE" in os.environ or any(name.startswith("ACCELERATE_") for name in os.environ)
    if launched and os.environ.get("OMP_NUM_THREADS") == "1":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
