"""Where a script computes."""

import os

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
