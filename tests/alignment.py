"""Whether a network's tensors lie as PyTorch's own allocator puts them."""

from torch import nn

ALIGNMENT_BYTES = 64  # of PyTorch's CPU allocator


def aligned(network: nn.Module) -> bool:
    """Whether every parameter and buffer starts at a multiple of 64 bytes."""
    return all(tensor.data_ptr() % ALIGNMENT_BYTES == 0 for tensor in (*network.parameters(), *network.buffers()))
