"""Where a script computes."""

import pytest
import torch

from foundation.device import torch_device


def test_a_device_that_pytorch_does_not_find_is_refused():
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}', expected cpu, or cuda where PyTorch finds a GPU"):
            torch_device(name)


def test_processes_of_one_machine_take_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert torch_device("auto") == torch.device("cuda:0")
    for rank, number in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert torch_device("auto") == torch.device("cuda", number)
