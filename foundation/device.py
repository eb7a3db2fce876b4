"""Where a script computes."""

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
